import threading
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.training.feed import Feed


def batches(read=lambda index: {"x": np.full(3, index)}):
  stream = grain.MapDataset.range(100).map(read)
  return iter(stream.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))


def place(batch):
  return {name: jnp.asarray(array) for name, array in batch.items()}


@pytest.fixture
def make_feed():
  """Feeds over grain's iterators, all of them closed in the end."""
  made = []

  def make(source):
    made.append((Feed(source, place), source))
    return made[-1][0]

  yield make
  for feed, source in made:
    feed.close()
    source.close()


class Running:
  """A result of a step that takes its time."""

  def __init__(self, ready):
    self.ready = ready

  def is_ready(self):
    return self.ready


def until(condition):
  end = time.monotonic() + 30
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.001)


def test_the_state_is_that_of_the_batches_given_out_whatever_was_read_ahead(make_feed):
  """From a saved state a new feed gives the batch that this one gives next."""
  source = batches()
  feed = make_feed(source)
  feed.start_prefetch()
  for step in range(4):
    assert feed.get_state() == {"next_index": step}
    until(lambda ahead=step + 1: source.get_state() == {"next_index": ahead})
    assert next(feed)["x"][0] == step
  again = batches()
  again.set_state(feed.get_state())
  np.testing.assert_array_equal(next(make_feed(again))["x"], next(feed)["x"])


def test_a_feed_can_be_moved_like_the_iterator_it_stands_for(make_feed):
  feed = make_feed(batches())
  assert next(feed)["x"][0] == 0
  feed.set_state({"next_index": 7})
  assert feed.get_state() == {"next_index": 7} and next(feed)["x"][0] == 7


def test_the_next_batch_is_put_on_the_devices_before_it_is_asked_for():
  """By another thread, while this one does something else."""
  threads, source = [], batches()
  feed = Feed(source, lambda batch: threads.append(threading.current_thread()) or place(batch))
  next(feed)
  until(lambda: len(threads) == 2)
  assert threading.current_thread() not in threads
  feed.close()
  source.close()


def test_what_reading_raises_is_raised_where_the_batch_is_asked_for(make_feed):
  """And not before: the batches that could be read are trained on."""
  def read(index):
    if index == 2:
      raise OSError("the disk is gone")
    return {"x": np.full(3, index)}

  feed = make_feed(batches(read))
  assert [int(next(feed)["x"][0]) for _ in range(2)] == [0, 1]
  with pytest.raises(OSError, match="the disk is gone"):
    next(feed)


def test_waiting_counts_from_when_the_devices_have_nothing_to_do(make_feed):
  """A batch that is late while a step still runs costs nothing."""
  gate = threading.Semaphore(0)

  def read(index):
    gate.acquire(timeout=30)
    return {"x": np.full(3, index)}

  def finish_step():
    feed.running.ready = True
    time.sleep(0.1)
    gate.release(100)

  feed = make_feed(batches(read))
  feed.running = Running(ready=False)
  threading.Timer(0.2, gate.release).start()
  next(feed)
  assert feed.waited == 0
  threading.Timer(0.2, finish_step).start()
  began = time.monotonic()
  next(feed)
  assert 0.05 < feed.waited <= time.monotonic() - began - 0.1


def test_closing_ends_the_thread_and_leaves_the_iterator_open():
  source = batches()
  next(source)
  threads = threading.active_count()
  feed = Feed(source, place)
  next(feed)
  assert threading.active_count() == threads + 1
  feed.close()
  assert threading.active_count() == threads
  next(source)
  source.close()


def test_the_thread_is_no_part_of_a_guarded_loop(make_feed):
  """The loop forbids copies that nobody asked for; those of the feed were asked for."""
  feed = make_feed(batches())
  with jax.transfer_guard("disallow"), jax.no_tracing(True):
    next(feed), next(feed)
