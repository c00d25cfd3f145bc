"""From published networks to where the training of a system begins: what is new adds nothing yet."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
import os
from pathlib import Path

from ml_collections import ConfigDict
import numpy as np

from panda_jax import systems
from panda_jax.models.functional import flatten
from panda_jax.systems.networks import open_tokenizer
from panda_jax.systems.videopanda import copied_from
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.names import WORDS
from panda_jax.weights.resolve import Network
from panda_jax.weights.tensors import LazyTensor

_FRAMES = 16                                                    # of a window, as in the paper and in AnimateDiff
_RANDOM = "sigma_embedding/linear_1/kernel"                     # the last layer behind it is zero


def videopanda(networks: Mapping[str, Network], tokenizer: str | os.PathLike, *, view_size: int = 512,
               snr_shift: float = 8.0, prediction: str = "v", freeze_spatial: bool = True, frames: int | None = None,
               fps: float = 4.0, seed: int = 0) -> tuple[dict[str, LazyTensor], ConfigDict]:
  """A text-to-video model as the VideoPanda that computes the same for each view, whatever it is told of the others.

  Multi-view attention is copied from the spatial self-attention of its block; its output projection, the channels for
  rays and mask, and the last layer of the embedding of sigma are zero. No values are read here: each tensor is read, or
  made, when it is asked for.

  Args:
    networks: of `weights.resolve.resolve`: "unet" with motion modules, "vae" and "text_encoder".
    tokenizer: its folder, or a pipeline folder that holds one.
    view_size: side of a view in pixels.
    snr_shift: how far the noise schedule is moved towards high noise (§3.1).
    prediction: what is to be trained, "v" as in the paper. The network still predicts what its base does.
    freeze_spatial: whether training leaves the image network as it is (§3.2, stage two).
    frames: of a window that is sampled at once; None: 16, or what the motion modules know, if that is less.
    fps: frame rate of what is generated.
    seed: of the one tensor that has to be random.

  Returns:
    tensors: {"unet/…", "text/…" and "vae/…": tensor}, as `systems.build(config)` wants them. They keep the types of
      their files; what is new is float32.
    config: `system`, `model` and `data.fps`: what building and sampling need. The tokenizer is named by its absolute
      path: `save_model` copies it.

  Raises:
    WeightsError: if a network is absent or does not go with the others.
    InputError: if the sizes asked for do not go with the networks.

  Source: VideoPanda §3.1 and §3.2.
  """
  unet, vae, text = (_wanted(networks, kind) for kind in ("unet", "vae", "text_encoder"))
  _check_together(unet, vae, text)
  _, empty = open_tokenizer(tokenizer, text.config)
  config = _config(unet, vae, text, frames)
  config.model.update(view_size=view_size, snr_shift=float(snr_shift), prediction=prediction,
                      freeze_spatial=freeze_spatial)
  config.model.sampling.panorama_height = 2 * view_size         # 90° of the equator have as many pixels as a view
  config.model.text.update(tokenizer=_tokenizer_folder(tokenizer), empty=empty)
  config.data = dict(fps=float(fps))
  system = systems.build(config)

  tensors = {f"{name}/{path}": tensor for name, network in (("text", text), ("vae", vae))
             for path, tensor in network.params().items()}
  base = unet.params()
  for path, leaf in flatten(system.unet.abstract).items():
    source = path if path in base else copied_from(path)
    tensors[f"unet/{path}"] = base[source] if source in base else _new(path, tuple(leaf.shape), seed)
  return tensors, config


def _wanted(networks: Mapping[str, Network], kind: str) -> Network:
  if kind not in networks:
    given = " and ".join(network.source for network in networks.values()) or "nothing"
    raise WeightsError("VideoPanda is made of a UNet with motion modules, a VAE and a text encoder, and the "
                       f"{WORDS[kind]} is absent: {given} was given; give a pipeline folder, a single file, or each "
                       "network by itself")
  return networks[kind]


def _check_together(unet: Network, vae: Network, text: Network) -> None:
  if not unet.config.temporal:
    raise WeightsError(f"{unet.source} has no motion modules, without which there is no video: give AnimateDiff's with "
                       "motion= (panda convert: --motion)")
  coded = vae.config.latent_channels
  if (unet.config.in_channels, unet.config.out_channels or unet.config.in_channels) != (coded, coded):
    raise WeightsError(f"{unet.source} takes {unet.config.in_channels} channels and gives "
                       f"{unet.config.out_channels or unet.config.in_channels}, and the latents of {vae.source} have "
                       f"{coded}: give a UNet for these latents, not one for inpainting or upscaling")
  if unet.config.text_channels != text.config.channels:
    raise WeightsError(f"{unet.source} reads texts of {unet.config.text_channels} channels, and {text.source} gives "
                       f"{text.config.channels}: give the text encoder that belongs to the UNet")


def _config(unet: Network, vae: Network, text: Network, frames: int | None) -> ConfigDict:
  sizes = dataclasses.asdict(unet.config) | dict(multiview=True, view_conditions=True)
  return ConfigDict(dict(system="videopanda", model=dict(
      snr_shift_mode="interpolated", zero_terminal_snr=False, rig="videopanda", own_view=False,
      given_camera=dict(fov_deg=(90.0, 90.0), pitch_deg=(0.0, 0.0), roll_deg=(0.0, 0.0)),
      codec=dict(kind="stable_diffusion", images_per_batch=8, **dataclasses.asdict(vae.config)),
      text=dict(kind="clip", **dataclasses.asdict(text.config)),
      unet=sizes,
      conditioning=dict(regimes=("text", "video", "continuation"), max_view_sigma=0.7, max_row_sigma=0.7,
                        drop_images=0.1, drop_text=0.1, drop_both=0.1, drop_video=0.3),
      sampling=dict(steps=25, text_guidance=8.0, video_guidance=4.0, view_sigma=0.0, row_sigma=0.1,       # §4.2
                    frames=min(_FRAMES, unet.config.max_frames) if frames is None else frames,
                    stitching="uniform", noise_scale=1.0, spacing="trailing", rescale=0.0))))


def _tokenizer_folder(path: str | os.PathLike) -> str:
  """The folder that `load_tokenizer` reads, which alone is to be copied: that of a pipeline holds the weights, too."""
  path = Path(path).absolute()
  own = any((path / name).is_file() for name in ("vocab.json", "merges.txt", "tokenizer.json"))
  return str(path if own else path / "tokenizer")


def _new(path: str, shape: tuple[int, ...], seed: int) -> LazyTensor:
  """What the base has not: zeros, but for one layer, which would not train if there were zeros in front of zeros."""
  def read() -> np.ndarray:
    if path != _RANDOM:
      return np.zeros(shape, np.float32)
    # LeCun's normal initialisation: outputs have the size of inputs.
    return np.random.default_rng(seed).normal(scale=1 / math.sqrt(shape[0]), size=shape).astype(np.float32)

  return LazyTensor(shape, np.dtype(np.float32), read, f"unet/{path}, which is new")
