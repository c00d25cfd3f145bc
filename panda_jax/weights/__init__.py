"""Model weights: our own model folders, and other people's checkpoints."""

from panda_jax.weights.folder import check_params, load_model, save_model

__all__ = ["check_params", "load_model", "save_model"]
