"""The processes of one run know of each other: they begin together, and when one ends before its time, all do.

jax.distributed has this, too, but answers every mistake by aborting with a page of C++, even a wrong number of
processes. So they meet here before it starts: each connects to process 0, says who it is, and holds the connection
while it runs. The operating system closes it when a process ends, however it ends.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import json
import math
import os
import selectors
import socket
import threading
import time
from typing import NoReturn

from panda_jax.errors import InputError

# How soon the silence of a machine that is lost, not merely of a process, is noticed: after 10 + 6 x 5 s.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 6}


class NotMet(InputError):
  """The others were not there in time. Another try may do better, which with other bad input it would not."""


@dataclasses.dataclass(frozen=True)
class Ending:
  """How a process left the run early.

  Attributes:
    process: its number.
    sentence: what it said; "" if it was killed or its machine was lost.
    status: its exit status; 1 if it was killed.
  """
  process: int
  sentence: str = ""
  status: int = 1


class Peers:
  """This process's connections: those of all others on process 0, that of process 0 on the others."""

  def __init__(self, process: int, lines: dict[int, "_Line"]):
    self.process = process
    self.first_ending: Ending | None = None
    self._lines, self._finished = lines, set()
    self._changed = threading.Condition()
    threading.Thread(target=self._watch, name="peers", daemon=True).start()

  @classmethod
  def meet(cls, address: tuple[str, int], processes: int, process: int, seconds: float,
           say: Callable[[str], None]) -> "Peers":
    """Waits until all processes of the run are there.

    Args:
      address: (host, port) of process 0; when they have met, nobody listens there any more.
      processes: how many.
      process: the number of this one, from 0.
      seconds: how long to wait for the others.
      say: shows a line while it waits.

    Raises:
      NotMet: if somebody does not come.
      InputError: if the processes were not started alike.
    """
    meeting = _Meeting(address, processes, process, seconds, say)
    return cls(process, meeting.receive() if process == 0 else meeting.join())

  def wait_for_ending(self, seconds: float | None = None) -> Ending | None:
    """The first early ending of any process, or None if there was none within so many seconds."""
    with self._changed:
      self._changed.wait_for(lambda: self.first_ending, seconds)
      return self.first_ending

  def end(self, ending: Ending) -> Ending:
    """Says that a process has ended, to this process's threads and to all others; the first ending stays the first."""
    with self._changed:
      if self.first_ending is None:
        self.first_ending = ending
        self._send({"ended": dataclasses.asdict(ending)})
        self._changed.notify_all()
      return self.first_ending

  def finish(self) -> None:
    """Says that this process has done its work: that it leaves is no early ending any more."""
    self._send({"finished": self.process})

  def wait_until_alone(self, seconds: float) -> None:
    """Waits until the processes at the other ends have left, so many seconds at most."""
    with self._changed:
      self._changed.wait_for(lambda: not self._lines, seconds)

  def _send(self, message: dict) -> None:
    with self._changed:
      lines = list(self._lines.values())
    for line in lines:
      line.send(message)

  def _watch(self) -> None:
    with selectors.DefaultSelector() as selector:
      for process, line in self._lines.items():
        selector.register(line.socket, selectors.EVENT_READ, process)
      while self._lines:
        for key, _ in selector.select():
          message = self._lines[key.data].receive()
          if message is None:
            selector.unregister(key.fileobj)
            self._left(key.data)
          elif "finished" in message:
            self._finished.add(key.data)
          else:
            self.end(Ending(**message["ended"]))

  def _left(self, process: int) -> None:
    with self._changed:
      del self._lines[process]
      self._changed.notify_all()
    if process not in self._finished:
      self.end(Ending(process))


class _Meeting:
  """Where the processes wait for each other; the arguments are those of `Peers.meet`."""

  def __init__(self, address: tuple[str, int], processes: int, process: int, seconds: float,
               say: Callable[[str], None]):
    self._address, self._processes, self._process, self._seconds = address, processes, process, seconds
    self._place = "{}:{}".format(*address)
    self._say, self._deadline = say, time.monotonic() + seconds
    self._silent_until = time.monotonic() + 10                 # nobody need hear of those who come at once

  def receive(self) -> dict[int, "_Line"]:
    """Process 0: takes in the others."""
    lines = {}
    with self._listen() as server:
      server.settimeout(1)
      while len(lines) < self._processes - 1:
        self._mention(f"for {self._missing(lines)} to come to {self._place}")
        if time.monotonic() > self._deadline:
          self._refuse(lines, NotMet(
              f"{self._missing(lines)} of {self._processes} did not come to {self._place} within {self._seconds:.0f} "
              "s: start all with the same --coordinator, an address of the machine of process 0"))
        try:
          line = _Line(server.accept()[0])
        except TimeoutError:
          continue
        hello = line.receive(seconds=10) or {}
        number, count = hello.get("process"), hello.get("processes")
        if number is None or count is None:                    # whoever looks at open ports
          line.close()
          continue
        if number in lines and lines[number].left():           # it was started again
          lines.pop(number).close()
        if count != self._processes:
          self._refuse({**lines, -1: line}, InputError(
              f"--processes is {self._processes} for process 0 and {count} for process {number}: give all the same"))
        if number in lines:
          self._refuse({**lines, -1: line}, InputError(
              f"two processes were started as process {number}: start processes 0 to {self._processes - 1}, each once"))
        lines[number] = line
    for line in lines.values():
      line.send({"met": self._processes})
    return lines

  def join(self) -> dict[int, "_Line"]:
    """All others: go to process 0."""
    line = self._connect()
    line.send({"process": self._process, "processes": self._processes})
    answer = line.receive(seconds=max(self._deadline - time.monotonic(), 0) + 10) or {}
    if "refused" in answer:
      kind = NotMet if answer["late"] else InputError
      raise kind(f"process {self._process}: {answer['refused']}")
    if "met" not in answer:
      raise NotMet(f"process {self._process}: what listens at {self._place} is not process 0 of a run that is about to "
                   "begin, or it has ended: give --coordinator another port, and start all processes again")
    return {0: line}

  def _listen(self) -> socket.socket:
    port = self._address[1]
    try:
      if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
      return socket.create_server(("", port), backlog=1024)
    except OSError as error:
      raise NotMet(f"port {port} of this machine cannot be opened ({os.strerror(error.errno).lower()}): another run "
                   "may use it; give --coordinator another port") from error

  def _connect(self) -> "_Line":
    while True:
      try:
        return _Line(socket.create_connection(self._address, timeout=10))
      except OSError as error:
        reason = (error.strerror or str(error)).lower()
      if time.monotonic() > self._deadline:
        raise NotMet(f"process {self._process} did not find process 0 at {self._place} within {self._seconds:.0f} s "
                     f"({reason}): start all processes, with --coordinator an address of the machine of process 0")
      self._mention(f"for process 0 at {self._place} ({reason})")
      time.sleep(0.2)

  def _mention(self, whom: str) -> None:
    """Says once whom this process waits for, if that takes long."""
    if time.monotonic() > self._silent_until:
      self._silent_until = math.inf
      left = max(self._deadline - time.monotonic(), 0)
      self._say(f"process {self._process} waits {whom}, {left:.0f} s more at most")

  def _missing(self, lines: dict[int, "_Line"]) -> str:
    missing = [str(number) for number in range(1, self._processes) if number not in lines]
    return f"process{'es' * (len(missing) > 1)} {', '.join(missing[:8])}{' …' * (len(missing) > 8)}"

  def _refuse(self, lines: dict[int, "_Line"], error: InputError) -> NoReturn:
    for line in lines.values():
      line.send({"refused": str(error), "late": isinstance(error, NotMet)})
      line.close()
    raise error


class _Line:
  """One connection: a JSON object per line."""

  def __init__(self, connection: socket.socket):
    self.socket = connection
    self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
      if hasattr(socket, name):                                # not on every system
        self.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    self._reader = connection.makefile("rb")

  def send(self, message: dict) -> None:
    """Sends, unless the other end has left: whoever receives notices that."""
    with contextlib.suppress(OSError):
      self.socket.sendall(json.dumps(message).encode() + b"\n")

  def receive(self, seconds: float | None = None) -> dict | None:
    """The next message; None if the other end has left, is silent for so long, or speaks something else."""
    self.socket.settimeout(seconds)
    try:
      message = json.loads(self._reader.readline(65536))
    except (OSError, ValueError):
      return None
    finally:
      self.socket.settimeout(None)
    return message if isinstance(message, dict) else None

  def left(self) -> bool:
    """Whether the other end has left without a further word."""
    try:
      return self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
      return False
    except OSError:
      return True

  def close(self) -> None:
    self._reader.close()
    self.socket.close()
