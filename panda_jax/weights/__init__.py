"""Model weights: other people's checkpoints, and our own model folders."""

from panda_jax.weights.errors import WeightsError
from panda_jax.weights.folder import check_params, load_model, save_model

__all__ = ["WeightsError", "check_params", "load", "load_model", "load_tokenizer", "save", "save_model"]


def __getattr__(name: str):
  # Reading a folder of our own needs no network: those are imported with the first use of what does.
  if name == "load":
    from panda_jax.weights.loading import load
    return load
  if name == "save":
    from panda_jax.weights.saving import save
    return save
  if name == "load_tokenizer":
    from panda_jax.weights.tokenizer import load_tokenizer
    return load_tokenizer
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
