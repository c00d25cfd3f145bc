"""360DVD: panoramic video from a text and its motion, by an adapter on a frozen video model (CVPR 2024).

A panorama is one equirectangular view. What moves where is given as optical flow in colours; without any the condition is
a grey picture, as in training.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from panda_jax.diffusion import DDIM, Enhancement, Schedule
from panda_jax.diffusion.conditioning import guided, rescaled
from panda_jax.diffusion.enhancement import Step, latitude_weight, sample_panorama, turned, used
from panda_jax.diffusion.schedule import check_prediction
from panda_jax.geometry import WholePanoramas
from panda_jax.models.adapter360 import Adapter360, Adapter360Config
from panda_jax.models.functional import Functional
from panda_jax.models.unet import UNet
from panda_jax.parallel import exchange
from panda_jax.systems.base import Batch, Params
from panda_jax.systems.latent import LatentSystem
from panda_jax.systems.networks import as_fields, make_unet_config, normal, to_float

TRAINED = ("adapter", "all")


class DVD360(LatentSystem):
  """The paper's system; see `panda_jax.systems.base.System` for the surface.

  Its parameters are those of the networks "unet", "adapter" and "text" and, where the codec is Stable Diffusion's, "vae".

  A training batch is `images` uint8 [b 1 f H W 3] or stored `latents` bfloat16 [b 1 f h w c], `motion` uint8 [b f H W 3],
  flow in colours (see `panda_jax.data.flow`), unless model.motion is off, and `text` int32 [b l] or `text_states`
  bfloat16 [b l c]. A request has text and, perhaps, motion.
  """

  letters = {"images": "b v f h w c", "latents": "b v f h w c", "motion": "b f h w c", "text": "b l",
             "text_states": "b l c", "given": "b v f h w c"}

  takes_images = False

  def __init__(self, model: ConfigDict):
    """`model` is config.model: see configs/dvd360.py, and `systems.networks` for the codecs and text encoders.

    Raises:
      ValueError: if sizes do not fit together.
    """
    super().__init__(model)
    self.size = tuple(model.panorama_size)
    self.unet_config = make_unet_config(as_fields(model.unet), self.codec.channels, self.words.channels)
    self.adapter_config = Adapter360Config(channels=self.unet_config.block_out_channels, downscale=self.codec.factor)
    self.schedule = Schedule.linear(0.00085, 0.012)
    self.prediction = check_prediction(model.prediction)
    self.timesteps = len(self.schedule)
    self.most_frames = self.unet_config.max_frames
    self.enhancement = make_enhancement(model)
    self.shows = WholePanoramas(self.size, model.motion, self.enhancement.flip_fixes_flow)
    self._check()
    self.unet = Functional(lambda rngs: UNet(self.unet_config, rngs=rngs))
    self.adapter = Functional(lambda rngs: Adapter360(self.adapter_config, rngs=rngs))
    self.networks = {"unet": self.unet, "adapter": self.adapter} | self.networks
    self.pretrained = self._from_elsewhere + ("the UNet",) * (model.train == "adapter")

  def _check(self) -> None:
    """Refuses what would otherwise fail in the first step, or in the first sample."""
    model, config = self.options, self.unet_config
    factor = self.adapter_config.factor
    if len(self.size) != 2 or any(side < 1 or side % factor for side in self.size):
      raise ValueError(f"panorama_size {self.size} must be (H, W), multiples of {factor}: the codec's pixels per latent, "
                       "halved at every level of the network")
    if self.enhancement.rotation_sign:
      # The coarsest features, too, where they are turned.
      columns = factor if self.enhancement.rotate_condition else self.codec.factor
      if self.size[1] % (4 * columns):
        raise ValueError(f"panorama_size {self.size} cannot be turned by quarters: W must be a multiple of {4 * columns}")
    if model.train not in TRAINED:
      raise ValueError(f"train is {model.train!r}; it may be {' or '.join(TRAINED)}")
    if config.multiview or config.view_conditions:
      raise ValueError("a panorama is one view: set unet.multiview and unet.view_conditions to False")
    if config.temporal and model.sampling.frames > config.max_frames:
      raise ValueError(f"sampling.frames {model.sampling.frames} is more than the {config.max_frames} frame positions "
                       "of unet.max_frames")
    for name in ("drop_text", "drop_motion"):
      if not 0 <= model.conditioning[name] <= 1:
        raise ValueError(f"conditioning.{name} is a probability, got {model.conditioning[name]}")
    self._sampler(model.sampling.steps, model.sampling.spacing)

  def _sampler(self, steps: int, spacing: str) -> DDIM:
    return DDIM(self.schedule, steps=steps, prediction=self.prediction, spacing=spacing)

  # Parameters

  def init(self, rng: jax.Array) -> Params:
    """Random parameters. The adapter does not begin at zero: it adds to the features from the first step on."""
    keys = jax.random.split(rng, len(self.networks))
    return {name: network.init(key) for (name, network), key in zip(self.networks.items(), keys)}

  def adopt(self, params: Params, rng: jax.Array) -> Params:
    """The same: this system adds nothing to the networks that it begins from."""
    return params

  def trainable(self, path: str) -> bool:
    """The adapter alone, or with train="all" all that does not come from elsewhere: a random base would teach nothing."""
    network = path.split("/")[0]
    return network == "adapter" or (self.options.train == "all" and network not in self._from_elsewhere)

  # Data

  def batch_spec(self, shape: tuple[int, int], batch_size: int, *, latents: bool = False,
                 text_states: bool = False) -> dict[str, jax.ShapeDtypeStruct]:
    return (self._images_spec((batch_size, *shape), self.size, latents) | self._motion_spec(batch_size, shape[1])
            | self._text_spec(batch_size, text_states))

  def _motion_spec(self, batch_size: int, frames: int) -> dict[str, jax.ShapeDtypeStruct]:
    if not self.options.motion:
      return {}
    return {"motion": jax.ShapeDtypeStruct((batch_size, frames, *self.size, 3), jnp.uint8)}

  def decode(self, params: Params, latents: jax.Array, circular: bool | None = None) -> jax.Array:
    """Latents [b 1 f h w c] -> uint8 [b 1 f H W 3]; `circular`: as the switches have it, unless said here."""
    return super().decode(params, latents, self.enhancement.circular_decode if circular is None else circular)

  # Training

  def draw(self, rng: jax.Array, batch: Batch, timestep: jax.Array | int | None = None) -> Batch:
    """The batch with all that is random about its loss, so that it can be parted by clips afterwards.

    Returns:
      The batch and `timestep` int32 [b], `keep_text` and `keep_motion` [b], 0 where the condition is dropped, `key` [b].
    """
    b = batch["latents" if "latents" in batch else "images"].shape[0]
    text_rng, motion_rng, timestep_rng, noise_rng = jax.random.split(rng, 4)
    keep = lambda key, drop: jax.random.bernoulli(key, 1 - drop, (b,)).astype(jnp.float32)
    dropped = self.options.conditioning
    return {**batch, "timestep": self._draw_timestep(timestep_rng, b, timestep),
            "keep_text": keep(text_rng, dropped.drop_text), "keep_motion": keep(motion_rng, dropped.drop_motion),
            "key": jax.random.split(noise_rng, b)}

  def loss(self, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean squared error of the prediction, rows weighted by their latitude (eq. 9 and 10; there of the noise).

    `rng` draws what is random, unless `draw` has.
    """
    batch = batch if "key" in batch else self.draw(rng, batch)
    codec_keys, noise_keys = jax.vmap(lambda key: jax.random.split(key), out_axes=1)(batch["key"])
    clean, timestep = self._clean(params, batch, codec_keys), batch["timestep"]
    noise = normal(noise_keys, clean.shape)
    text = self._text(params, batch, batch["keep_text"])
    features = self.adapter(params["adapter"], self._motion(batch, clean.shape[2], batch["keep_motion"]))
    output = self.unet(params["unet"], self.schedule.noised(clean, noise, timestep), timestep, text,
                       adapter_features=features)
    error = jnp.square(output - self.schedule.target(clean, noise, timestep, self.prediction))
    weighted = error * latitude_weight(error.shape[-3], self.enhancement.loss_weight_power)
    return weighted.mean(), {"error": error.mean()}

  def _motion(self, batch: Batch, frames: int, keep: jax.Array | None = None) -> jax.Array:
    """The condition [b f H W 3] in [-1, 1]; zeros, grey, where there is none or keep [b] is 0."""
    if "motion" not in batch:
      b = batch["text_states" if "text_states" in batch else "text"].shape[0]
      return jnp.zeros((b, frames, *self.size, 3), jnp.float32)
    motion = to_float(batch["motion"])
    return motion if keep is None else jnp.where(keep[:, None, None, None, None] > 0, motion, 0)

  # Sampling

  def request_spec(self, shape: tuple[int, int], batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    return self._text_spec(batch_size, states=False) | self._motion_spec(batch_size, shape[1])

  def sample(self, params: Params, request: Batch, rng: jax.Array, *, frames: int, **options) -> jax.Array:
    """Panoramas from texts and, perhaps, motion.

    Args:
      params: nested dict.
      request: `text` int32 [b l]; `motion` uint8 [b f H W 3] and `negative` int32 [b l], if there are any.
      rng: of the initial noise.
      frames: of each clip, 8 to 32 with the published motion modules.
      options: as of `sample_latents`.

    Returns:
      uint8 [b f H W 3].
    """
    h, w = (side // self.codec.factor for side in self.size)
    given = jnp.zeros((request["text"].shape[0], 1, frames, h, w, self.codec.channels))
    return self.decode(params, self.sample_latents(params, given, request, rng, **options))[:, 0]

  def sample_latents(self, params: Params, given: jax.Array, request: Batch, rng: jax.Array, *, steps: int,
                     guidance: float, noise_scale: float = 1.0, spacing: str = "leading", rescale: float = 0.0,
                     on_step: Callable[[], None] | None = None) -> jax.Array:
    """Denoises clips. Jit-able, one program per shape; options are static under jit.

    Args:
      params: nested dict.
      given: [b 1 f h w c], for its shape; no images can be given.
      request: `text` or `text_states`, and perhaps `motion` uint8 [b f H W 3] and `negative` int32 [b l], a text to
        keep away from instead of the empty one.
      rng: of the initial noise.
      steps, guidance, noise_scale, spacing, rescale, on_step: as of VideoPanda.

    Returns:
      Latents [b 1 f h w c].
    """
    whole = exchange.whole_shape(given.shape)                  # devices that share a clip draw the same noise
    noise = noise_scale * exchange.own_part(jax.random.normal(rng, whole))
    return self.denoised(params, noise, request, steps=steps, guidance=guidance, spacing=spacing, rescale=rescale,
                         negative=request.get("negative"), on_step=on_step)

  def denoised(self, params: Params, noise: jax.Array, request: Batch, *, steps: int, guidance: float,
               spacing: str = "leading", rescale: float = 0.0, trace: bool = False,
               negative: jax.Array | None = None, on_step: Callable[[], None] | None = None) -> jax.Array:
    """As `sample_latents`, from this noise [b 1 f h w c].

    Args:
      negative: int32 [b l], as of a request.
      trace: return the latents before the first and after every step, [steps+1 b 1 f h w c].
    """
    b = noise.shape[0]
    text = self._text(params, request, jnp.ones(b))
    features = self.adapter(params["adapter"], self._motion(request, noise.shape[2]))
    if guidance != 1.0:
      away = self._text(params, request, jnp.zeros(b)) if negative is None else self.text(params["text"], negative)
      text = jnp.concatenate([text, away])
    unet = self.unet.bind(params["unet"])
    conditions = unet.read(text)

    def denoise(x, timestep, step: Step):
      told = used(features, step, self.enhancement)
      if guidance == 1.0:
        return unet.denoise(x, timestep, conditions, adapter_features=told, circular=step.circular)
      twice = lambda x: jnp.concatenate([x, x])
      both = unet.denoise(twice(x), twice(timestep), conditions, adapter_features=[twice(each) for each in told],
                          circular=step.circular)
      conditional, unconditional = jnp.split(both, 2)
      output = guided(conditional, unconditional, guidance)
      return rescaled(output, conditional, rescale) if rescale else output

    return sample_panorama(self._sampler(steps, spacing), denoise, noise, self.enhancement, trace, on_step)

  def preview(self, params: Params, batch: Batch, rng: jax.Array) -> jax.Array:
    """Clips as they are, sampled from text and motion, and from the text alone: uint8 [b row 1 f H W 3].

    Samples are turned back, so that they can be compared. Of stored latents the first row is what the codec makes of
    them.
    """
    options, clean = self.options.sampling, self._clean(params, batch)
    shown = [batch["images"] if "images" in batch else self.decode(params, clean)]
    still = {name: value for name, value in batch.items() if name != "motion"}
    for request in [batch] * ("motion" in batch) + [still]:
      latents = self.sample_latents(params, clean, request, rng, steps=options.steps, guidance=options.text_guidance,
                                    noise_scale=options.noise_scale, spacing=options.spacing, rescale=options.rescale)
      shown.append(self.decode(params, turned(latents, -self.enhancement.left_turned(options.steps))))
    return jnp.stack(shown, axis=1)


def make_enhancement(model: ConfigDict) -> Enhancement:
  """The switches of config.model: those of sampling stand in model.sampling, those of training beside it.

  Raises:
    ValueError: for a value that means nothing.
  """
  names = [field.name for field in dataclasses.fields(Enhancement)]
  return Enhancement(**{name: group[name] for group in (model, model.sampling) for name in names if name in group})
