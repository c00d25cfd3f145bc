import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from panda_jax.errors import InputError
from panda_jax.parallel import make_mesh
from panda_jax.training.errors import TrainingStopped
from panda_jax.training.programs import Programs
from panda_jax.training.state import create_state
from panda_jax.training.validation import Validation, check_timesteps, make_validation_step
from tests.training import eight_devices
from tests.training.toy import ToySystem, numbers

BATCHES = [{"numbers": jnp.asarray(numbers(0, index, (4, 2, 3)))} for index in range(2)]


@pytest.fixture(scope="module")
def state():
  system = ToySystem()
  return jax.jit(lambda key: create_state(system.init(key), system.trainable, optax.sgd(0.1)))(jax.random.key(0))


@pytest.fixture(scope="module")
def programs(state):
  programs = Programs()
  programs.add("validation", BATCHES[0], "validation", jax.jit(make_validation_step(ToySystem(), make_mesh())).trace(
      state, BATCHES[0], np.uint32(0), np.int32(0)))
  programs.compile(lambda text: None, alone=True)
  return programs


def test_there_is_a_loss_for_each_timestep_and_their_mean(programs, state):
  values = Validation(programs, BATCHES, (5, 990))(state)
  assert list(values) == ["validation_loss", "validation_loss_t0005", "validation_loss_t0990"]
  low, high = values["validation_loss_t0005"], values["validation_loss_t0990"]
  assert values["validation_loss"] == pytest.approx((low + high) / 2) and low != high


def test_it_is_the_same_each_time_and_at_any_step(programs, state):
  """Neither the step nor the raw parameters count; the average does."""
  validate = Validation(programs, BATCHES, (100, 900))
  other = state.replace(step=state.step + 5, params=jax.tree.map(jnp.zeros_like, state.params))
  assert validate(state) == validate(state) == validate(other)
  assert validate(state.replace(ema=other.params)) != validate(state)


def test_every_timestep_meets_the_noise_of_its_batch(programs, state):
  """A loss belongs to its timestep alone, whichever others are asked for; no two batches share their noise."""
  alone = Validation(programs, BATCHES, (100,))(state)["validation_loss_t0100"]
  assert Validation(programs, BATCHES, (300, 100))(state)["validation_loss_t0100"] == alone
  twice = Validation(programs, [BATCHES[0]] * 2, (900,))(state)
  assert twice != Validation(programs, BATCHES[:1], (900,))(state)


def test_the_number_of_devices_changes_nothing(on_eight_devices):
  here = eight_devices.validation_results(1)
  assert here == eight_devices.validation_results(1, after=7)
  assert here.keys() == on_eight_devices["validation"].keys()
  np.testing.assert_allclose(list(here.values()), list(on_eight_devices["validation"].values()), rtol=1e-5)


def test_a_broken_average_stops_the_run(programs, state):
  broken = state.replace(ema=jax.tree.map(lambda leaf: leaf * np.nan, state.ema))
  with pytest.raises(TrainingStopped, match="validation_loss is nan: the averaged parameters are broken"):
    Validation(programs, BATCHES, (100,))(broken)


@pytest.mark.parametrize("timesteps, message", [
    ((), "is empty: give some"), ((100, 1000), "has 1000: .* from 0 to 999"), ((-1,), "has -1"), ((0.5,), "has 0.5"),
    ((7, 7), "one timestep twice"),
])
def test_timesteps_that_there_are_not_are_refused(timesteps, message):
  with pytest.raises(InputError, match=f"training.validation_timesteps.*{message}"):
    check_timesteps(timesteps, 1000)
  check_timesteps((0, 999), 1000)
