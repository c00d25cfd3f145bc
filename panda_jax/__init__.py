"""panda_jax: 360° video diffusion in JAX."""

__version__ = "0.1.0"
