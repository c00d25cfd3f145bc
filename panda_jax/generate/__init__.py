"""What leaves the house: tagged 360° videos, a one-file viewer, contact sheets."""

from panda_jax.paths import written_whole

__all__ = ["written_whole"]
