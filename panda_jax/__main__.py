"""`python -m panda_jax` is `panda`."""

from panda_jax.cli.main import entry

entry()
