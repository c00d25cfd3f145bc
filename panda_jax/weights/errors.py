"""The one error of this package."""

from panda_jax.errors import InputError


class WeightsError(InputError):
  """A file of weights that cannot be used: one sentence that says what it is, what was wanted, and how to mend it."""
