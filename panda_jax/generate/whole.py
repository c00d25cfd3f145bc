"""From a request to a panorama video of systems that see panoramas whole (360DVD): one clip, in one window."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from panda_jax.errors import InputError
from panda_jax.generate.windows import AnyGenerator, Made, Plan, Request


class WholeGenerator(AnyGenerator):
  """A system with its parameters, ready to make panoramas; the surface of `panda_jax.generate.windows.Generator`.

  One program per number of frames, with and without motion.
  """

  def plan(self, request: Request) -> Plan:
    """One window."""
    return Plan(request.frames, 1)

  def check(self, request: Request) -> None:
    """Refuses at once what `windows` would refuse.

    Raises:
      InputError: for a given video, too many frames, or motion of another size.
    """
    most, (height, width) = self.system.most_frames, self.system.shows.size
    if request.video is not None or request.camera is not None:
      raise InputError("this model sees whole panoramas and cannot be given a view: leave out --video; --motion says what "
                       "moves")
    if not 1 <= request.frames <= most:
      raise InputError(f"{request.frames} frames were asked for, and this model makes clips of 1 to {most}: give --frames "
                       "between them")
    wanted = request.frames, height, width, 3
    if request.negative and self.settings.text_guidance == 1.0:
      raise InputError("a negative prompt has no effect without guidance: leave out --negative, or give --guidance 7.5")
    if request.motion is not None and not self.system.shows.motion:
      raise InputError("this model was trained without motion: leave out --motion")
    if request.motion is not None and request.motion.shape != wanted:
      raise InputError(f"the motion of this model is {list(wanted)} in colours, got {list(request.motion.shape)}")

  def windows(self, request: Request, first: int = 0, row: np.ndarray | jax.Array | None = None,
              on_step: Callable[[], None] | None = None, views: bool = False) -> Iterator[Made]:
    """Makes the one window, if it is not made already; arguments as of `Generator.windows`.

    Yields:
      The window. Its views are the panorama itself, as it was decoded.

    Raises:
      InputError: as `check`.
    """
    self.check(request)
    if first:
      return
    inputs = {"text": self.system.tokenize(request.prompt)[None]}
    if request.motion is not None:
      inputs["motion"] = request.motion[None]
    if request.negative:
      inputs["negative"] = self.system.tokenize(request.negative)[None]
    self._on_step = on_step
    program = self._program(inputs, request.frames)
    panorama, row, images = program(self._params, inputs, jax.random.key(request.seed))
    yield Made(0, np.asarray(panorama), row, np.asarray(images) if views else None)

  def row_spec(self, request: Request) -> jax.ShapeDtypeStruct:
    """Shape and type of the latents of the last frame, [1 1 h w c]; nothing begins with them."""
    spec = self._latents(1)
    return jax.ShapeDtypeStruct((1, 1, *spec.shape[3:]), spec.dtype)

  def _latents(self, frames: int) -> jax.ShapeDtypeStruct:
    images = jax.ShapeDtypeStruct((1, 1, frames, *self.system.shows.size, 3), jnp.uint8)
    return jax.eval_shape(self.system.encode_images, self._params, images)

  def _program(self, inputs: dict[str, np.ndarray], frames: int) -> Callable:
    key = frames, tuple(inputs), self._on_step is not None
    if key not in self._compiled:
      began = time.monotonic()
      settings, spec = self.settings, self._latents(frames)

      def sample(params, inputs, rng):
        latents = self.system.sample_latents(
            params, jnp.zeros(spec.shape, spec.dtype), inputs, rng, steps=settings.steps, guidance=settings.text_guidance,
            noise_scale=settings.noise_scale, spacing=settings.spacing, rescale=settings.rescale,
            on_step=self._step if self._on_step else None)
        images = self.system.decode(params, latents)[0]
        size = settings.panorama_height, 2 * settings.panorama_height
        return self.system.shows.panorama(images, size), latents[:, :, -1], images

      self._compiled[key] = jax.jit(sample).lower(self._params, inputs, jax.random.key(0)).compile()
      self._say(f"compiled the sampler for {frames} frames {'with' if 'motion' in inputs else 'without'} motion, guidance "
                f"{settings.text_guidance:g}, in {time.monotonic() - began:.1f} s")
    return self._compiled[key]
