"""Several processes, one run: how they find each other, and how they end together.

`together` is all that a command needs. A run of one process passes through it untouched.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import ctypes
import dataclasses
import hashlib
import os
from pathlib import Path
import re
import secrets
import signal
import sys
import threading
import time
import traceback
from typing import NoReturn

import jax
import numpy as np

from panda_jax.errors import InputError
from panda_jax.parallel.peers import Ending, NotMet, Peers
from panda_jax.paths import is_remote

__all__ = ["NotMet", "Place", "find_place", "require_same", "require_shared", "surroundings", "together"]

# The machines of a pod come up minutes apart: images are pulled, packages installed.
WAIT_SECONDS = 300
# Bad input is often the same for all. The others leave it to process 0 to say so, if it does within this time.
SAME_SECONDS = 3
# Process 0 leaves last, because jax aborts the others when it is gone.
LAST_SECONDS = 10
# At the end the others wait in jax for as long as process 0 takes to write the model.
EXPORT_SECONDS = 3600
# For processes that hang without being dead. Dead ones are noticed at once, lost machines by `peers` in 40 s.
HEARTBEAT_SECONDS = 60
# Network file systems show a new file late.
FILE_SECONDS = 30


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a process is among the others.

  Attributes:
    coordinator: "host:port" of process 0.
    processes: how many there are.
    process: which of them this is.
    detection: jax.distributed's cluster_detection_method.
  """
  coordinator: str
  processes: int
  process: int
  detection: str | None = None

  @property
  def address(self) -> tuple[str, int]:
    """(host, port)."""
    host, port = self.coordinator.rsplit(":", 1)
    return host.strip("[]"), int(port)


@contextlib.contextmanager
def together(place: Place | None, *, name: str,
             describe: Callable[[BaseException], tuple[str, int] | None]) -> Iterator[None]:
  """Joins the processes of a run, before anything touches a device; when one ends early inside, all end.

  Args:
    place: of this process; None: it is alone, nothing is done, and exceptions pass.
    name: of the command, in front of what is said on standard error.
    describe: what there is to say about an exception, and the exit status; None for a bug, whose traceback is shown.

  Raises:
    NotMet: if the others were not there in time.
    InputError: if they were started with other arguments.
  """
  if place is None:
    yield
    return
  # In one piece: others write to the same place at this moment.
  say = lambda line: sys.stderr.write(f"{name}: {line}\n")
  peers = Peers.meet(place.address, place.processes, place.process, WAIT_SECONDS, say)
  last_words = _LastWords(peers, place.processes, say)
  try:
    jax.distributed.initialize(
        place.coordinator, place.processes, place.process, cluster_detection_method=place.detection,
        initialization_timeout=WAIT_SECONDS, heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=EXPORT_SECONDS)
    yield
  except BaseException as error:
    last_words.on(error, describe(error))
  peers.finish()


def find_place(coordinator: str | None, processes: int | None, process: int | None) -> Place | None:
  """Where this process is, by the arguments of a command line or else by its surroundings; None if it is alone.

  Raises:
    InputError: for arguments that make no sense.
  """
  if coordinator is None and process is None:
    if processes is None:
      return surroundings(os.environ)
    if processes == 1:
      return None
  if coordinator is None or processes is None or process is None:
    raise InputError("--coordinator, --processes and --process are given together, or none of them")
  if not (match := re.fullmatch(r".+:(\d{1,5})", coordinator)) or not 0 < int(match[1]) < 2**16:
    raise InputError(f"--coordinator {coordinator} is not HOST:PORT: give the machine of process 0 and a free port of "
                     "it, such as 10.0.0.2:8476")
  if processes < 1:
    raise InputError(f"--processes must be 1 or more, got {processes}")
  if not 0 <= process < processes:
    raise InputError(f"--process must be 0 to {processes - 1}, got {process}: the processes are counted from 0")
  return Place(coordinator, processes, process, "deactivate") if processes > 1 else None


def surroundings(environment: Mapping[str, str]) -> Place | None:
  """The place that a scheduler has given to this process: SLURM, Open MPI, or a Cloud TPU pod (VMs or GKE).

  By jax's own rules, but asking first how many processes there are: one alone needs no port and no waiting.

  Raises:
    InputError: if there are others and jax cannot say where.
  """
  from jax._src import clusters                                # there is no public way to ask
  known = [clusters.OmpiCluster, clusters.SlurmCluster]
  if "tpu" in environment.get("JAX_PLATFORMS", "tpu").split(","):
    known += [clusters.GkeTpuCluster, clusters.GceTpuCluster]
  try:
    cluster = next((cluster for cluster in known if cluster.is_env_present()), None)
    if cluster is None and int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
      raise RuntimeError("jax does not know this version of Open MPI")
    if cluster is None or cluster.get_process_count() == 1:
      return None
    coordinator = cluster.get_coordinator_address(
        timeout_secs=WAIT_SECONDS, override_coordinator_port=environment.get("JAX_COORDINATOR_PORT"))
    return Place(coordinator, cluster.get_process_count(), cluster.get_process_id())
  except (KeyError, ValueError, RuntimeError, OSError) as error:
    raise InputError(f"this may be one of several processes, but where the others are cannot be found out ({error}): "
                     "give --coordinator, --processes and --process, or --processes 1 if it is alone") from error


def require_same(what: str, text: str) -> None:
  """Makes sure that all processes were given the same.

  Raises:
    InputError: on every process, if one has another text than process 0.
  """
  if jax.process_count() == 1:
    return
  digests = _of_all(np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8))
  differing = np.flatnonzero((digests != digests[0]).any(1))
  if len(differing):
    raise InputError(f"process {differing[0]} has another {what} than process 0: give all processes the same")


def require_shared(folder: str | os.PathLike) -> None:
  """Makes sure that a folder is one and the same for all processes. Buckets are.

  Raises:
    InputError: on every process, if one does not see what process 0 writes there.
  """
  if jax.process_count() == 1 or is_remote(folder):
    return
  token = Path(folder) / f".seen-by-all-{_of_all(np.uint32(secrets.randbits(32)))[0]:08x}"
  try:
    if jax.process_index() == 0:
      token.parent.mkdir(parents=True, exist_ok=True)
      token.touch()
    _of_all(np.uint8(0))                                       # now it is there
    deadline = time.monotonic() + FILE_SECONDS
    while not token.exists() and time.monotonic() < deadline:
      time.sleep(0.5)
    blind = np.flatnonzero(~_of_all(np.bool_(token.exists())))
  finally:
    if jax.process_index() == 0:
      token.unlink(missing_ok=True)
  if len(blind):
    raise InputError(f"{folder} of process {blind[0]} is not the folder of process 0: give one that all machines share "
                     "(a network file system or a bucket)")


class _LastWords:
  """Says once why this process ends, and ends it: when another one has, or for an exception of its own."""

  def __init__(self, peers: Peers, processes: int, say: Callable[[str], None]):
    self._peers, self._processes, self._say = peers, processes, say
    self._speaking = threading.Lock()
    # A handler of C, because those of Python run in the main thread, and jax aborts in one of its own.
    self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._on_abort)
    ctypes.CDLL(None).signal(signal.SIGABRT, self._handler)
    threading.Thread(target=self._follow, name="last words", daemon=True).start()

  def on(self, error: BaseException, described: tuple[str, int] | None) -> NoReturn:
    """Ends this process for an exception; if another one has ended before, for that."""
    me = self._peers.process
    sentence, status = described or (f"{type(error).__name__}: {error}".partition("\n")[0], 1)
    if me or described is None:
      self._peers.wait_for_ending(SAME_SECONDS)                # it may be the echo of another's end
    first = self._peers.end(Ending(me, sentence, status))
    if first.process != me and (me == 0 or first.sentence != sentence):
      threading.Event().wait()                                 # `_follow` is about to end this process
    if first.process != me:
      self._leave("", status)                                  # process 0 has said the same
    self._leave(self._signed(sentence), status, bug=error if described is None else None)

  def _follow(self) -> None:
    """Waits for the end of another process, and ends this one."""
    ending = self._peers.wait_for_ending()
    if ending.process == self._peers.process:
      return                                                   # `on` speaks
    if ending.sentence and self._peers.process:
      time.sleep(SAME_SECONDS)                                 # this process may be about to say the same
    said = f"ended: {ending.sentence}" if ending.sentence else (
        "ended without a word (it was killed, or its machine is lost); the newest checkpoint is kept: start all "
        f"{self._processes} processes again")
    self._leave(self._signed(f"process {ending.process} {said}"), ending.status)

  def _on_abort(self, number: int) -> None:
    """Gives `_follow` the time to speak: jax aborts as soon as process 0 is gone, or when a process hangs."""
    if self._peers.wait_for_ending(SAME_SECONDS) is None:
      sentence, status = "aborted, see the message above; most often because another process hangs", 128 + number
      self._peers.end(Ending(self._peers.process, sentence, status))
      self._leave(self._signed(sentence), status)
    time.sleep(2 * SAME_SECONDS)

  def _signed(self, sentence: str) -> str:
    return f"process {self._peers.process}: {sentence}" if self._peers.process else sentence

  def _leave(self, sentence: str, status: int, bug: BaseException | None = None) -> NoReturn:
    self._speaking.acquire()                                   # for good: nobody speaks after this
    with contextlib.suppress(OSError):                         # nobody may be reading
      if sys.stderr.isatty():
        print("\x1b[?25h", file=sys.stderr)                    # a progress bar may have hidden the cursor
      if bug:
        traceback.print_exception(bug)
      if sentence:
        self._say(sentence)
      sys.stdout.flush()
    if self._peers.process == 0:
      self._peers.wait_until_alone(LAST_SECONDS)
    os._exit(status)                                           # jax would wait at its exit for those that are gone


def _of_all(value: np.ndarray) -> np.ndarray:
  """The values of all processes, stacked."""
  from jax.experimental import multihost_utils
  return multihost_utils.process_allgather(value)
