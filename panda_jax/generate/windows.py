"""From a request to the frames of a panorama of any length, window by window (VideoPanda §3.3).

The first window is conditioned on the given view, if there is one; every next one on the last frame of all views and
on the new frames of the given view. That frame is handed on as latents and stays on the device: decoding and encoding
it again would wear it out. Only one window is in memory, whatever the length.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from panda_jax.diffusion.conditioning import group_sigma
from panda_jax.errors import InputError
from panda_jax.generate.camera_track import CameraTrack
from panda_jax.generate.given_video import GivenArray, GivenClip
from panda_jax.generate.given_view import GivenView, softened, turned_columns
from panda_jax.geometry import Camera, coverage, frame_rays, overlay
from panda_jax.systems.base import Params, System


@dataclasses.dataclass(frozen=True)
class Request:
  """What to generate.

  Attributes:
    prompt: one caption for the whole panorama; may be empty when there is a video.
    frames: how many to make.
    video: the given perspective view, or None: a `GivenVideo`, or uint8 [f h w 3] at the system's view size. If it is
      shorter than `frames`, its last frame stands for the missing ones.
    seed: the same request and seed give the same frames.
    camera: how the video was filmed; None: 90° wide after the cut to its central square (without own_view: as the rig's
      first camera), straight ahead.
    motion: uint8 [f H W 3], the flow of every frame in colours, for systems that see whole panoramas; or None.
    negative: what is to be kept away from, for the same systems; empty: the empty text.
  """

  prompt: str
  frames: int
  video: GivenClip | np.ndarray | None = None
  seed: int = 0
  camera: Camera | CameraTrack | None = None
  motion: np.ndarray | None = None
  negative: str = ""


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to generate; the defaults of a system are in its config.model.sampling.

  Attributes:
    steps: DDIM steps.
    frames: frames of a window.
    panorama_height: rows of the output.
    text_guidance, video_guidance: guidance scale without and with a given video (§4.2).
    view_sigma, row_sigma: noise augmentation of the given video and of the frames carried over from the last window.
    stitching: "uniform" averages overlaps as the paper does; "smooth" fades each view out towards its border, which
      hides where views disagree and keeps the given view as it was given.
    noise_scale: of the noise that sampling begins with. Below 1 trades variety for calm: a small model then leaves less
      noise standing. The paper's is 1.
    spacing: of the timesteps, "trailing" or "leading"; see `DDIM`.
    rescale: how far guided outputs are brought back to the spread of the conditional ones; see `rescaled`.
    keep_given: lay the given pictures over the panorama, where the given view is one of its own (own_view). The views
      of the rig show the same place once more, as the model made it.
  """

  steps: int
  frames: int
  panorama_height: int
  text_guidance: float
  video_guidance: float = 1.0
  view_sigma: float = 0.0
  row_sigma: float = 0.0
  stitching: str = "uniform"
  noise_scale: float = 1.0
  spacing: str = "trailing"
  rescale: float = 0.0
  keep_given: bool = True


@dataclasses.dataclass(frozen=True)
class Window:
  """One window's place in the video: frames [start, start + frames), of which the first `known` exist already."""

  start: int
  frames: int
  known: int


@dataclasses.dataclass(frozen=True)
class Made:
  """A finished window.

  Attributes:
    number: from 0.
    frames: uint8 [f H W 3], the wanted ones of those that it adds to the video.
    row: [1 v h w c] on the device, the latents of its last frame, with which the next window begins.
    views: uint8 [v f h w 3], the rig's views that `frames` were stitched from, in its order; None unless asked for.
  """

  number: int
  frames: np.ndarray
  row: jax.Array
  views: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Plan(Sequence):
  """`count` windows of `length` frames that overlap by one; none is kept, so that any length takes no memory."""

  length: int
  count: int

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, number: int) -> Window:
    number = range(self.count)[number]
    return Window(start=number * (self.length - 1), frames=self.length, known=int(number > 0))


def plan_windows(total: int, length: int) -> Plan:
  """Windows of `length` frames that overlap by one and together cover `total` frames or a little more.

  Raises:
    InputError: if there is nothing to make or more than one window of a single frame.
  """
  if total < 1 or length < 1 or (length == 1 and total > 1):
    raise InputError(f"{total} frames cannot be made in windows of {length} that overlap by one")
  length = min(total, length)
  return Plan(length, 1 + math.ceil((total - length) / max(length - 1, 1)))


class AnyGenerator:
  """What generators share, whatever their systems see of a panorama; see `Generator` for the surface."""

  def __init__(self, system: System, params: Params, settings: Settings,
               say: Callable[[str], None] = lambda line: None):
    """`say` is told of every compilation, and of what a user may not expect."""
    self.system, self.settings, self._say = system, settings, say
    self._params = jax.device_put(params)
    self._compiled: dict = {}
    self._on_step: Callable[[], None] | None = None

  def __call__(self, request: Request, on_window: Callable[[], None] = lambda: None) -> Iterator[np.ndarray]:
    """Yields the panorama frame by frame, uint8 [H W 3]; `on_window` is called as each window is finished.

    Raises:
      InputError: as `check`.
    """
    for made in self.windows(request):
      on_window()
      yield from made.frames

  def _step(self) -> None:
    """What a compiled program calls: whoever watches may change from request to request."""
    if self._on_step is not None:
      self._on_step()


class Generator(AnyGenerator):
  """A system that sees views, with its parameters, ready to make panoramas.

  One program per number of frames and guidance, with and without a given video; first and later windows share it.
  """

  def plan(self, request: Request) -> Plan:
    """The windows that a request takes."""
    return plan_windows(request.frames, self.settings.frames)

  def check(self, request: Request) -> None:
    """Refuses at once what `windows` would refuse.

    Raises:
      InputError: if the request asks for nothing, its video has another size than the system's views, the system cannot
        take its camera, or it takes no images and would need some.
    """
    if request.frames < 1:
      raise InputError(f"{request.frames} frames were asked for: give --frames 1 or more")
    if request.motion is not None:
      raise InputError("this model sees views and takes no motion: leave out --motion, or give it a --video")
    if request.negative:
      raise InputError("this model takes no negative prompt: leave out --negative")
    plan = self.plan(request)
    if not self.system.takes_images and (request.video is not None or len(plan) > 1):
      raise InputError("this model goes by its text alone, as stage one leaves it: leave out the video, and ask for at "
                       f"most {self.settings.frames} frames, or train stage two from it")
    self._given_view(request, say=lambda line: None)

  def windows(self, request: Request, first: int = 0, row: np.ndarray | jax.Array | None = None,
              on_step: Callable[[], None] | None = None, views: bool = False) -> Iterator[Made]:
    """Makes the windows, each when it is asked for.

    Args:
      request: what to generate.
      first: the window to begin with: those before it are made already.
      row: the latents that window first - 1 handed on, wherever they are now; not wanted where first is 0.
      on_step: called after every denoising step. JAX keeps no program with such a call in its cache of compiled ones,
        so leave it out where nobody watches.
      views: whether the views that the panorama is stitched from are wanted, too: as they were generated, before a
        given picture is laid over the panorama and before that is turned.

    Yields:
      The windows from `first` on, the same as if all had been made.

    Raises:
      InputError: as `check`.
    """
    self.check(request)
    if (first > 0) != (row is not None):
      raise ValueError(f"window {first} begins {'with' if first else 'without'} the latents of the one before")
    plan = self.plan(request)
    given = self._given_view(request, self._say)
    for number in range(first, len(plan)):
      window = plan[number]
      inputs = self._inputs(request, given, window, row)
      self._on_step = on_step
      rng = jax.random.fold_in(jax.random.key(request.seed), number)
      panorama, row, *seen = self._program(inputs, views)(self._params, inputs, rng)
      wanted = slice(window.known, min(window.frames, request.frames - window.start))
      yield Made(number, np.asarray(panorama)[wanted], row, np.asarray(seen[0])[:, wanted] if views else None)

  def row_spec(self, request: Request) -> jax.ShapeDtypeStruct:
    """Shape and type of the latents that windows of this request hand on, [1 v h w c]."""
    views = len(self.system.rig) + (self.system.own_view and request.video is not None)
    return jax.ShapeDtypeStruct((1, views, *self._latent_spec.shape[3:]), self._latent_spec.dtype)

  @functools.cached_property
  def _latent_spec(self) -> jax.ShapeDtypeStruct:
    image = jax.ShapeDtypeStruct((1, 1, 1, *self.system.view_size, 3), jnp.uint8)
    return jax.eval_shape(self.system.encode_images, self._params, image)

  @functools.cached_property
  def _rig_rays(self) -> np.ndarray:
    return self.system.rig.rays(self.system.rays_size)[None]

  def _given_view(self, request: Request, say: Callable[[str], None]) -> GivenView | None:
    if request.video is None:
      return None
    clip = request.video
    if isinstance(clip, np.ndarray):
      clip = GivenArray(clip, self.system.view_size)
    track = CameraTrack.still(request.camera) if isinstance(request.camera, Camera) else request.camera
    return GivenView(self.system, clip, track, say)

  def _inputs(self, request: Request, given: GivenView | None, window: Window,
              row: np.ndarray | jax.Array | None) -> dict[str, np.ndarray | jax.Array]:
    """What the program is told of a window; see `sample_window`."""
    settings, system = self.settings, self.system
    spec = self.row_spec(request)
    mask = np.zeros((1, spec.shape[1], window.frames), np.float32)
    mask[:, :1] = given is not None
    mask[:, :, :1] = np.maximum(mask[:, :, :1], window.known)
    # Without a video the first view's first frame, too, is carried over from the last window.
    view_sigma = settings.row_sigma if given is None else settings.view_sigma
    sigma = np.asarray(group_sigma(mask, np.full(1, view_sigma), np.full(1, settings.row_sigma)), np.float32)
    inputs = {"row": row if window.known else np.zeros(spec.shape, spec.dtype), "mask": mask, "sigma": sigma,
              "text": system.tokenize(request.prompt)[None]}
    if given is None:
      return inputs | {"rays": self._rig_rays}
    video, cameras = given.read(window.start, window.frames)
    width = 2 * settings.panorama_height
    inputs["video"] = video[None]
    if not system.own_view:
      return inputs | {"rays": self._rig_rays, "turn": turned_columns(cameras, system.rig[0], width)}
    inputs["rays"] = frame_rays(system.rig, cameras, system.rays_size)[None]
    if settings.keep_given:
      inputs["picture"] = np.stack([softened(image, camera.fov_deg, width) for image, camera in zip(video, cameras)])
      inputs["rotation"] = np.stack([camera.rotation() for camera in cameras]).astype(np.float32)
      inputs["fov_deg"] = np.array([camera.fov_deg for camera in cameras], np.float32)
    return inputs

  def _program(self, inputs: dict[str, np.ndarray | jax.Array], with_views: bool) -> Callable:
    given = "video" in inputs
    views, frames = inputs["mask"].shape[1:]
    guidance = self.settings.video_guidance if given else self.settings.text_guidance
    key = frames, guidance, given, with_views, self._on_step is not None
    if key not in self._compiled:
      if not self._compiled:
        self._note_uncovered()
      began = time.monotonic()
      program = functools.partial(sample_window, self.system, settings=self.settings, guidance=guidance,
                                  on_step=self._step if self._on_step else None, with_views=with_views)
      self._compiled[key] = jax.jit(program).lower(self._params, inputs, jax.random.key(0)).compile()
      self._say(f"compiled the sampler for {views} views x {frames} frames, guidance {guidance:g}, "
                f"in {time.monotonic() - began:.1f} s")
    return self._compiled[key]

  def _note_uncovered(self) -> None:
    size = (self.settings.panorama_height, 2 * self.settings.panorama_height)
    h, w = self.system.view_size
    seen = functools.reduce(np.logical_or, (coverage(camera, size, (h, w)) for camera in self.system.rig))
    if not seen.all():
      self._say(f"the {len(self.system.rig)} cameras of the rig {self.system.rig.name} do not see all of the sphere: "
                f"{100 * (1 - seen.mean()):.0f} % of the panorama's pixels stay black")


def sample_window(system: System, params: Params, inputs: dict, rng: jax.Array, *, settings: Settings, guidance: float,
                  on_step: Callable[[], None] | None = None, with_views: bool = False) -> tuple[jax.Array, ...]:
  """Samples one window and stitches it, all on the device.

  Args:
    system: the method.
    params: its parameters.
    inputs: `row` [1 v h' w' c], latents of the frame before the first new one, `mask` and `sigma` [1 v f], which of all
      images are given and how noisy, `rays` [1 v (f) h' w' 3] and `text` int32 [1 l]; with a given video `video` uint8
      [1 f h w 3], which is view 0. With own_view and keep_given `picture` uint8 [f h w 3], `rotation` [f 3 3] and
      `fov_deg` [f], what to lay over the panorama; without own_view `turn` int32 [f], by how many columns to turn it.
    rng: key of the noise.
    settings: `frames`, the guidance scales and the sigmas are not read: `inputs` and `guidance` have them.
    guidance: scale of classifier-free guidance.
    on_step: called after every denoising step.
    with_views: whether the decoded views are returned, too.

  Returns:
    The panorama uint8 [f H W 3], the latents of its last frame [1 v h' w' c], and with `with_views` the views of the
    rig uint8 [v f h w 3] that the panorama was stitched from.
  """
  mask, row = inputs["mask"], inputs["row"]
  given = jnp.zeros((*mask.shape, *row.shape[2:]), row.dtype).at[:, :, 0].set(row)
  own = False
  if "video" in inputs:                           # its own first frame is better than the row's copy of it
    given = given.at[:, :1].set(system.encode_images(params, inputs["video"][:, None]))
    own = system.own_view
  conditions = {name: inputs[name] for name in ("text", "rays", "mask", "sigma")}
  latents = system.sample_latents(
      params, given, conditions, rng, steps=settings.steps, guidance=guidance, noise_scale=settings.noise_scale,
      spacing=settings.spacing, rescale=settings.rescale, on_step=on_step)
  views = system.decode(params, latents[:, 1:] if own else latents)[0]                            # [v f h w 3]
  size = (settings.panorama_height, 2 * settings.panorama_height)
  panorama = system.shows.panorama(views, size, settings.stitching)
  if "picture" in inputs:
    panorama = overlay(panorama, inputs["picture"], inputs["rotation"], inputs["fov_deg"])
  if "turn" in inputs:
    panorama = jax.vmap(lambda frame, columns: jnp.roll(frame, columns, axis=1))(panorama, inputs["turn"])
  return (panorama, latents[:, :, -1], *([views] if with_views else ()))
