"""Noise schedules, predictions, conditioning and sampling. Knows arrays and a denoiser callable, nothing else."""

from panda_jax.diffusion.ddim import DDIM
from panda_jax.diffusion.enhancement import Enhancement
from panda_jax.diffusion.schedule import Schedule

__all__ = ["DDIM", "Enhancement", "Schedule"]
