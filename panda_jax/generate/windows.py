"""From a request to the frames of a panorama of any length, window by window (VideoPanda §3.3).

The first window is conditioned on the given view, if there is one; every next one on the last frame of all views and
on the new frames of the given view. Only one window is in memory, whatever the length.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from typing import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from panda_jax.diffusion.conditioning import group_sigma
from panda_jax.errors import InputError
from panda_jax.geometry import Rig
from panda_jax.systems.base import Params, System


@dataclasses.dataclass(frozen=True)
class Request:
  """What to generate.

  Attributes:
    prompt: one caption for the whole panorama; may be empty when there is a video.
    frames: how many to make.
    video: uint8 [f h w 3] at the system's view size, the given perspective view, or None. If it is shorter than
      `frames`, its last frame stands for the missing ones.
    seed: the same request and seed give the same frames.
  """

  prompt: str
  frames: int
  video: np.ndarray | None = None
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to generate; the defaults of a system are in its config.model.sampling.

  Attributes:
    steps: DDIM steps.
    text_guidance, video_guidance: guidance scale without and with a given video (§4.2).
    frames: frames of a window.
    view_sigma, row_sigma: noise augmentation of the given video and of the frames carried over from the last window.
    panorama_height: rows of the output.
    stitching: "uniform" averages overlaps as the paper does; "smooth" fades each view out towards its border, which
      hides where views disagree and keeps the given view as it was given.
    noise_scale: of the noise that sampling begins with. Below 1 trades variety for calm: a small model then leaves less
      noise standing. The paper's is 1.
  """

  steps: int
  text_guidance: float
  video_guidance: float
  frames: int
  view_sigma: float
  row_sigma: float
  panorama_height: int
  stitching: str = "uniform"
  noise_scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Window:
  """One window's place in the video: frames [start, start + frames), of which the first `known` exist already."""

  start: int
  frames: int
  known: int


def plan_windows(total: int, length: int) -> list[Window]:
  """Windows of `length` frames that overlap by one and together cover `total` frames or a little more.

  Raises:
    InputError: if there is nothing to make or more than one window of a single frame.
  """
  if total < 1 or length < 1 or (length == 1 and total > 1):
    raise InputError(f"{total} frames cannot be made in windows of {length} that overlap by one")
  length = min(total, length)
  count = 1 + math.ceil((total - length) / max(length - 1, 1))
  return [Window(start=index * (length - 1), frames=length, known=int(index > 0)) for index in range(count)]


class Generator:
  """A system with its parameters, ready to make panoramas; one compilation per window shape and guidance."""

  def __init__(self, system: System, params: Params, settings: Settings,
               say: Callable[[str], None] = lambda line: None):
    """`say` is told of every compilation."""
    self.system, self.settings, self._say = system, settings, say
    self._params = jax.device_put(params)
    self._compiled: dict = {}

  def __call__(self, request: Request, on_window: Callable[[], None] = lambda: None) -> Iterator[np.ndarray]:
    """Yields the panorama frame by frame, uint8 [H W 3]; `on_window` is called as each window is finished.

    Raises:
      InputError: if the request asks for nothing, or its video has another size than the system's views.
    """
    settings = self.settings
    if request.frames < 1:
      raise InputError(f"{request.frames} frames were asked for: give --frames 1 or more")
    if request.video is not None and request.video.shape[1:] != (*self.system.view_size, 3):
      raise InputError(f"the given video must have views of {self.system.view_size} pixels, got {request.video.shape}")
    if request.video is not None and not len(request.video):
      raise InputError("the given video has no frames")
    row = None
    for number, window in enumerate(plan_windows(request.frames, settings.frames)):
      rng = jax.random.fold_in(jax.random.key(request.seed), number)
      panorama, row = self._window(request, window, row, rng)
      on_window()
      last = min(window.frames, request.frames - window.start)
      yield from panorama[window.known:last]

  def _window(self, request: Request, window: Window, row: np.ndarray | None,
              rng: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Makes one window: (panorama uint8 [f H W 3], its last frame as views uint8 [v h w 3])."""
    settings, system = self.settings, self.system
    views = len(system.rig)
    images = np.zeros((1, views, window.frames, *system.view_size, 3), np.uint8)
    mask = np.zeros((1, views, window.frames), np.float32)
    if request.video is not None:
      wanted = np.arange(window.start, window.start + window.frames)
      images[0, 0] = request.video[np.minimum(wanted, len(request.video) - 1)]
      mask[0, 0] = 1
    if window.known:
      # The given view's own frame is there already, and better than its copy.
      taken = slice(1 if request.video is not None else 0, None)
      images[0, taken, 0] = row[taken]
      mask[0, :, 0] = 1
    # Without a video the first view's first frame, too, is carried over from the last window.
    view_sigma = settings.row_sigma if request.video is None else settings.view_sigma
    sigma = np.asarray(group_sigma(mask, np.full(1, view_sigma), np.full(1, settings.row_sigma)), np.float32)
    inputs = {"images": images, "mask": mask, "sigma": sigma, "rays": system.rig.rays(system.rays_size)[None],
              "text": system.tokenize(request.prompt)[None]}
    guidance = settings.text_guidance if request.video is None else settings.video_guidance
    panorama, row = self._program(inputs, guidance)(self._params, inputs, rng)
    return np.asarray(panorama), np.asarray(row)

  def _program(self, inputs: dict[str, np.ndarray], guidance: float) -> Callable:
    frames = inputs["images"].shape[2]
    if (frames, guidance) not in self._compiled:
      began = time.monotonic()
      size = (self.settings.panorama_height, 2 * self.settings.panorama_height)
      program = functools.partial(sample_panorama, self.system, steps=self.settings.steps, guidance=guidance, size=size,
                                  noise_scale=self.settings.noise_scale, stitching=self.settings.stitching)
      self._compiled[frames, guidance] = jax.jit(program).lower(self._params, inputs, jax.random.key(0)).compile()
      self._say(f"compiled the sampler for {inputs['images'].shape[1]} views x {frames} frames, guidance {guidance:g}, "
                f"in {time.monotonic() - began:.1f} s")
    return self._compiled[frames, guidance]


def sample_panorama(system: System, params: Params, inputs: dict, rng: jax.Array, *, steps: int, guidance: float,
                    noise_scale: float, size: tuple[int, int], stitching: str) -> tuple[jax.Array, jax.Array]:
  """Samples one window and stitches it on the device: (panorama uint8 [f H W 3], last frame uint8 [v h w 3])."""
  views = system.sample(params, inputs, rng, steps=steps, guidance=guidance, noise_scale=noise_scale)[0]  # [v f h w 3]
  return stitch_frames(views, system.rig, size, stitching), views[:, -1]


def stitch_frames(views: jax.Array, rig: Rig, size: tuple[int, int], stitching: str) -> jax.Array:
  """uint8 [v f h w 3] -> panorama uint8 [f H W 3], overlaps averaged (VideoPanda §4.2)."""
  stitched = rig.stitch(jnp.swapaxes(views, 0, 1), size, weights=stitching)
  return jnp.clip(jnp.round(stitched), 0, 255).astype(jnp.uint8)
