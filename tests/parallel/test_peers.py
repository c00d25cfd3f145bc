"""The meeting of the processes, here as threads of one process: no device takes part in it."""

from concurrent import futures
import contextlib
import socket
import time

import pytest

from panda_jax.parallel.peers import Ending, NotMet, Peers
from tests.parallel.two_processes import free_port


@pytest.fixture
def meet():
  """meet(process, processes) is a future of the Peers; of an InputError if they cannot meet within two seconds."""
  port, pool = free_port(), futures.ThreadPoolExecutor()
  said = []

  def start(process, processes, seconds=2.0):
    return pool.submit(Peers.meet, ("localhost", port), processes, process, seconds, said.append)

  start.port, start.said = port, said
  yield start
  pool.shutdown()


def all_of(futures_):
  return [future.result(timeout=20) for future in futures_]


def refusals(*futures_):
  return [str(future.exception(timeout=20)) for future in futures_]


def test_the_end_of_one_is_told_to_all(meet):
  """With its sentence and its status, whoever it was; the first end stays the one that is told."""
  peers = all_of([meet(number, 3, seconds=20) for number in (2, 0, 1)])
  assert sorted(each.process for each in peers) == [0, 1, 2]
  assert peers[0].wait_for_ending(0.05) is None
  told = Ending(2, "the disk is full", 2)
  assert peers[0].process == 2 and peers[0].end(told) == told
  assert [each.wait_for_ending(5) for each in peers] == [told] * 3
  assert peers[1].end(Ending(0, "something else")) == told


def test_one_that_vanishes_is_missed_and_one_that_has_finished_is_not(meet):
  zero, one, two = sorted(all_of([meet(number, 3, seconds=20) for number in range(3)]), key=lambda each: each.process)
  one.finish()
  vanish(one)
  assert two.wait_for_ending(0.3) is None and zero.wait_for_ending(0) is None
  vanish(two)
  assert zero.wait_for_ending(5) == Ending(2)
  zero.wait_until_alone(5)
  assert not zero._lines


def vanish(peers):
  """What the operating system does when a process is killed."""
  for line in list(peers._lines.values()):
    line.socket.shutdown(socket.SHUT_RDWR)


def call(port):
  """Connects to process 0, once it listens."""
  while True:
    with contextlib.suppress(ConnectionRefusedError):
      return socket.create_connection(("localhost", port), timeout=10)
    time.sleep(0.01)


def test_one_that_was_started_again_is_let_in_again(meet):
  """A machine that was taken away before the run began, say."""
  zero = meet(0, 3, seconds=20)
  with call(meet.port) as first:
    first.sendall(b'{"process": 1, "processes": 3}\n')
  peers = all_of([zero, meet(1, 3, seconds=20), meet(2, 3, seconds=20)])
  assert peers[0].wait_for_ending(0.1) is None


def test_those_who_do_not_come_are_named(meet):
  one, zero = meet(1, 4), meet(0, 4)
  sentences = refusals(zero, one)
  assert sentences[0].startswith("processes 2, 3 of 4 did not come to localhost:")
  assert sentences[1] == f"process 1: {sentences[0]}"
  assert all(isinstance(future.exception(), NotMet) for future in (zero, one))       # another try may do better


def test_nobody_is_there(meet):
  [sentence] = refusals(meet(1, 2))
  assert f"process 1 did not find process 0 at localhost:{meet.port} within 2 s (connection refused)" in sentence


@pytest.mark.parametrize("other, sentence", [
    ((1, 3), "--processes is 2 for process 0 and 3 for process 1: give all the same"),
    ((2, 3), "--processes is 2 for process 0 and 3 for process 2"),
])
def test_another_number_of_processes_is_refused_on_both_sides(meet, other, sentence):
  futures_ = [meet(0, 2), meet(*other)]
  zero, one = refusals(*futures_)
  assert sentence in zero and one == f"process {other[0]}: {zero}"
  assert not any(isinstance(future.exception(), NotMet) for future in futures_)


def test_a_number_that_is_used_twice_is_refused(meet):
  sentences = refusals(meet(0, 3), meet(1, 3), meet(1, 3))
  assert all("two processes were started as process 1" in sentence for sentence in sentences)


def test_a_port_that_is_in_use_is_refused(meet):
  with socket.create_server(("", meet.port)):
    [sentence] = refusals(meet(0, 2))
  assert f"port {meet.port} of this machine cannot be opened (address already in use)" in sentence


def test_something_else_that_listens_there_is_noticed(meet):
  with socket.create_server(("", meet.port)) as server:
    one = meet(1, 2)
    server.accept()[0].close()
    assert "is not process 0 of a run that is about to begin" in refusals(one)[0]


def test_whoever_looks_at_open_ports_does_no_harm(meet):
  zero = meet(0, 2, seconds=20)
  for words in (b"GET / HTTP/1.0\r\n\r\n", b"[1]\n", b""):
    with call(meet.port) as stranger:
      stranger.sendall(words)
  assert len(all_of([zero, meet(1, 2, seconds=20)])) == 2
