"""From published networks to where a stage of training begins: what is new adds nothing yet."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from panda_jax import systems
from panda_jax.errors import InputError
from panda_jax.systems.networks import open_tokenizer
from panda_jax.systems.videopanda import copied_from
from panda_jax.tree import flatten
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.names import WORDS
from panda_jax.weights.resolve import Network
from panda_jax.weights.tensors import LazyTensor

STAGES = (1, 2)
_RANDOM = "sigma_embedding/linear_1/kernel"                     # the last layer behind it is zero


def method(stage: int = 2) -> dict[str, Any]:
  """What config.model says in a stage of training, beside the networks and their sizes.

  Args:
    stage: 1 brings a text-to-video model to the shifted schedule and to v-prediction, on single views; 2 adds the
      views (§3.2).

  Returns:
    A new dict of plain values, as configs/videopanda.py has them; the paragraphs are the paper's.

  Raises:
    InputError: for another stage.
  """
  if stage not in STAGES:
    raise InputError(f"VideoPanda has no stage {stage}: give 1, single views, or 2, panoramas")
  options = dict(
      prediction="v",                                               # §3.1
      snr_shift=8.0, snr_shift_mode="interpolated", zero_terminal_snr=False,          # ours: the paper gives no number
      rig="videopanda", own_view=False,
      given_camera=dict(fov_deg=(90.0, 90.0), pitch_deg=(0.0, 0.0), roll_deg=(0.0, 0.0)),
      freeze_spatial=True,                                          # §3.2
      conditioning=dict(regimes=("text", "video", "continuation"),  # §3.2
                        drop_images=0.1,                            # §3.1
                        drop_text=0.1, drop_both=0.1, drop_video=0.3,                 # ours
                        max_view_sigma=0.7, max_row_sigma=0.7),     # ours, after GameNGen
      sampling=dict(steps=25, text_guidance=8.0, video_guidance=4.0,                  # §4.2
                    frames=16, view_sigma=0.0, stitching="uniform", noise_scale=1.0,  # §4.2, §4.5
                    row_sigma=0.1, spacing="trailing", rescale=0.0))                  # ours
  if stage == 1:
    options |= dict(rig=((0.0, 0.0, 90.0, 0.0),), freeze_spatial=False)
    options["conditioning"] |= dict(regimes=("text",), drop_images=0.0, drop_both=0.0)
  return options


def videopanda(networks: Mapping[str, Network], tokenizer: str | os.PathLike, *, stage: int = 2, view_size: int = 512,
               snr_shift: float | None = None, prediction: str | None = None, freeze_spatial: bool | None = None,
               frames: int | None = None, fps: float = 4.0,
               seed: int = 0) -> tuple[dict[str, LazyTensor], ConfigDict]:
  """A text-to-video model as the VideoPanda that computes the same for each view, whatever it is told of the others.

  Stage two: multi-view attention is copied from the spatial self-attention of its block; its output projection, the
  channels for rays and mask, and the last layer of the embedding of sigma are zero. Stage one begins without all of
  these; `System.adopt` adds them when stage two begins from it. No values are read here: each tensor is read, or made,
  when it is asked for.

  Args:
    networks: of `weights.resolve.resolve`: "unet", "vae" and "text_encoder". Stage two wants a UNet with motion modules;
      without them stage one begins as an image model, of which `System.adopt` makes a video model.
    tokenizer: its folder, or a pipeline folder that holds one.
    stage: that is to begin here, see `method`.
    view_size: side of a view in pixels.
    snr_shift: how far the noise schedule is moved towards high noise (§3.1); None, here and below: as `method` says.
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
    WeightsError: if a network is absent or does not go with the others or with the stage.
    InputError: if the sizes asked for do not go with the networks.

  Source: VideoPanda §3.1 and §3.2.
  """
  unet, vae, text = (wanted(networks, kind, "VideoPanda") for kind in ("unet", "vae", "text_encoder"))
  options = method(stage)
  check_together(unet, vae, text)
  _check_stage(unet, stage)
  _, empty = open_tokenizer(tokenizer, text.config)
  chosen = dict(snr_shift=snr_shift, prediction=prediction, freeze_spatial=freeze_spatial)
  options |= {name: value for name, value in chosen.items() if value is not None}
  options["sampling"] |= dict(
      frames=_frames(options["sampling"]["frames"], unet) if frames is None else frames,
      panorama_height=2 * view_size)                            # 90° of the equator have as many pixels as a view
  sizes = dataclasses.asdict(unet.config) | dict.fromkeys(("multiview", "view_conditions"), stage == 2)
  if unet.config.temporal:                                      # said outright, as by AnimateDiff's own files
    sizes["motion_norm_groups"] = unet.config.motion_norm_groups or unet.config.norm_groups
  config = ConfigDict(dict(system="videopanda", data=dict(fps=float(fps)), model=options | dict(
      view_size=view_size,
      codec=dict(kind="stable_diffusion", images_per_batch=8, **dataclasses.asdict(vae.config)),
      text=dict(kind="clip", tokenizer=tokenizer_folder(tokenizer), empty=empty, **dataclasses.asdict(text.config)),
      unet=sizes)))
  system = systems.build(config)

  tensors = {f"{name}/{path}": tensor for name, network in (("text", text), ("vae", vae))
             for path, tensor in network.params().items()}
  base = unet.params()
  for path, leaf in flatten(system.unet.abstract).items():
    source = path if path in base else copied_from(path)
    tensors[f"unet/{path}"] = base[source] if source in base else _new(path, tuple(leaf.shape), seed)
  return tensors, config


def wanted(networks: Mapping[str, Network], kind: str, system: str) -> Network:
  """The network of this kind, or WeightsError that says what the system is made of."""
  if kind not in networks:
    given = " and ".join(network.source for network in networks.values()) or "nothing"
    raise WeightsError(f"{system} is made of a UNet, a VAE and a text encoder, and the {WORDS[kind]} is absent: {given} "
                       "was given; give a pipeline folder, a single file, or each network by itself")
  return networks[kind]


def check_together(unet: Network, vae: Network, text: Network) -> None:
  """Raises WeightsError if latents or texts of one have other channels than another reads."""
  coded = vae.config.latent_channels
  if (unet.config.in_channels, unet.config.out_channels or unet.config.in_channels) != (coded, coded):
    raise WeightsError(f"{unet.source} takes {unet.config.in_channels} channels and gives "
                       f"{unet.config.out_channels or unet.config.in_channels}, and the latents of {vae.source} have "
                       f"{coded}: give a UNet for these latents, not one for inpainting or upscaling")
  if unet.config.text_channels != text.config.channels:
    raise WeightsError(f"{unet.source} reads texts of {unet.config.text_channels} channels, and {text.source} gives "
                       f"{text.config.channels}: give the text encoder that belongs to the UNet")


def _check_stage(unet: Network, stage: int) -> None:
  if stage == 2 and not unet.config.temporal:
    raise WeightsError(f"{unet.source} has no motion modules, without which there is no video: give AnimateDiff's with "
                       "motion= (panda convert: --motion), or begin with stage one, which makes and trains them "
                       "(--stage 1)")
  if stage == 1 and (unet.config.multiview or unet.config.view_conditions):
    raise WeightsError(f"{unet.source} has multi-view attention or inputs for rays already, which stage one goes "
                       "without: begin with stage two (--stage 2), or give the network that it was made from")


def _frames(wanted: int, unet: Network) -> int:
  return min(wanted, unet.config.max_frames) if unet.config.temporal else wanted


def tokenizer_folder(path: str | os.PathLike) -> str:
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
