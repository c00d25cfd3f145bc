"""VideoPanda: multi-view video diffusion for 360° panoramas (arXiv 2504.11389).

A panorama is a matrix of perspective views and frames. Some of its images may be given: none, the first view, or the
first view and the first frame of all; the network denoises the others.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from ml_collections import ConfigDict

from panda_jax.diffusion import DDIM, Schedule
from panda_jax.diffusion.conditioning import REGIMES, draw_conditions, guided, regime_mask
from panda_jax.diffusion.schedule import check_prediction
from panda_jax.geometry import VIDEOPANDA_RIG
from panda_jax.models.functional import Functional, flatten, unflatten
from panda_jax.models.unet import UNet, UNetConfig
from panda_jax.systems.base import Batch, Params
from panda_jax.systems.networks import LearnedCodec, as_fields, make_codec, make_words, to_float, to_uint8


class VideoPanda:
  """The paper's system; see `panda_jax.systems.base.System` for the surface.

  Its parameters are those of the networks "unet" and "text" and, where the codec is Stable Diffusion's, "vae".

  A training batch is `images` uint8 [b v f h w 3], `rays` float32 [b v h' w' 3] at latent size and relative to the
  first view, and `text` int32 [b l]. A request has the same, with anything where nothing is given, and
  `mask` [b v f] and `sigma` [b v f].
  """

  def __init__(self, model: ConfigDict):
    """`model` is config.model: see configs/tiny.py, and `systems.networks` for the codecs and text encoders.

    Raises:
      ValueError: if sizes do not fit together.
    """
    self.options = model
    self.rig = VIDEOPANDA_RIG
    self.codec = make_codec(model.codec)
    self.view_size = (model.view_size, model.view_size)
    if model.view_size % self.codec.factor:
      raise ValueError(f"view_size {model.view_size} is not a multiple of the codec's {self.codec.factor} pixels per "
                       "latent")
    side = model.view_size // self.codec.factor
    self.rays_size = (side, side)
    self.words = make_words(model.text)
    self.unet_config = make_unet_config(as_fields(model.unet), self.codec.channels, self.words.channels)
    self.schedule = Schedule.scaled_linear().shifted(model.snr_shift, mode=model.snr_shift_mode)
    self.timesteps = len(self.schedule)
    self.prediction = check_prediction(model.prediction)
    if side % (halvings := 2 ** (len(self.unet_config.block_out_channels) - 1)):
      raise ValueError(f"view_size {model.view_size} makes latents of {side} x {side}, which the network's levels "
                       f"cannot halve: give a multiple of {self.codec.factor * halvings}")
    if self.unet_config.temporal and model.sampling.frames > self.unet_config.max_frames:
      raise ValueError(f"sampling.frames {model.sampling.frames} is more than the {self.unet_config.max_frames} frame "
                       "positions of unet.max_frames")
    self.unet = Functional(lambda rngs: UNet(self.unet_config, rngs=rngs))
    self.text = self.words.network
    self.vae = self.codec if isinstance(self.codec, LearnedCodec) else None
    self.networks = {"unet": self.unet, "text": self.text} | ({"vae": self.vae.network} if self.vae else {})
    self.pretrained = ("text",) * self.words.pretrained + ("vae",) * (self.vae is not None)

  # Parameters

  def init(self, rng: jax.Array) -> Params:
    """Random parameters; multi-view attention starts as a copy of its block's spatial self-attention (§3.2)."""
    keys = jax.random.split(rng, len(self.networks))
    params = {name: network.init(key) for (name, network), key in zip(self.networks.items(), keys)}
    return params | {"unet": copy_spatial_attention(params["unet"])}

  def trainable(self, path: str) -> bool:
    """All parameters, or with `freeze_spatial` all but the image network's (§3.2, stage two); never VAE and CLIP."""
    if path.split("/")[0] in self.pretrained:
      return False
    return not (self.options.freeze_spatial and is_spatial(path))

  # Data

  def tokenize(self, text: str) -> np.ndarray:
    return self.words.tokenize(text)

  def unknown_words(self, text: str) -> list[str]:
    """Words of a prompt that the text encoder has never seen."""
    return self.words.unknown_words(text)

  def batch_spec(self, shape: tuple[int, int], batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    v, f = shape
    spec = jax.ShapeDtypeStruct
    return {"images": spec((batch_size, v, f, *self.view_size, 3), jnp.uint8),
            "rays": spec((batch_size, v, *self.rays_size, 3), jnp.float32),
            "text": spec((batch_size, self.words.length), jnp.int32)}

  def encode_images(self, params: Params, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """uint8 [b v f h w 3] -> latents [b v f h' w' c]; drawn with `rng` where the codec gives their distribution."""
    if self.vae is None:
      return self.codec.encode(to_float(images))
    return self.vae.encode(params["vae"], images, rng)

  def decode(self, params: Params, latents: jax.Array) -> jax.Array:
    """Latents [b v f h' w' c] -> uint8 [b v f h w 3]."""
    if self.vae is None:
      return to_uint8(self.codec.decode(latents))
    return self.vae.decode(params["vae"], latents)

  def encode_text(self, params: Params, ids: jax.Array, keep: jax.Array) -> jax.Array:
    """ids int32 [b l], keep [b]: 0 replaces the text by the empty one -> [b l c]."""
    return self.text(params["text"], jnp.where(keep[:, None] > 0, ids, self.words.empty))

  # Training

  def loss(self, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean squared error of the prediction over the images that are not given."""
    clean = self.encode_images(params, batch["images"], jax.random.fold_in(rng, 4))  # 0 to 3 are the keys below
    b, v, f = clean.shape[:3]
    condition_rng, timestep_rng, noise_rng, augmentation_rng = jax.random.split(rng, 4)
    mask, sigma, keep_text = draw_conditions(condition_rng, b, v, f, **self.options.conditioning)
    # One timestep per clip, spread evenly over the batch: less noise in the loss than independent draws.
    offset = (jnp.arange(b) + jax.random.uniform(timestep_rng, (b,))) / b
    timestep = (offset * len(self.schedule)).astype(jnp.int32)
    noise = jax.random.normal(noise_rng, clean.shape)
    given = clean + expand(sigma) * jax.random.normal(augmentation_rng, clean.shape)
    noised = jnp.where(expand(mask) > 0, given, self.schedule.noised(clean, noise, timestep))

    text = self.encode_text(params, batch["text"], keep_text)
    output = self.unet(params["unet"], noised, timestep, text, rays=batch["rays"], mask=mask, sigma=sigma)
    error = jnp.square(output - self.schedule.target(clean, noise, timestep, self.prediction)).mean((-3, -2, -1))
    targets = 1 - mask
    loss = (error * targets).sum() / jnp.maximum(targets.sum(), 1)
    return loss, {"given": mask.mean()}

  # Sampling

  def sample(self, params: Params, request: Batch, rng: jax.Array, *, steps: int, guidance: float,
             noise_scale: float = 1.0) -> jax.Array:
    """Denoises one window of the matrix; given images come back as the codec keeps them. Jit-able, one program a shape.

    Args:
      params: nested dict.
      request: see the class; `mask` and `sigma` say what is given and how much noise it gets.
      rng: seeds the initial and the augmentation noise.
      steps: DDIM steps, static under jit.
      guidance: scale of classifier-free guidance, static under jit; 1 costs half of any other.
      noise_scale: of the initial noise; below 1 trades variety for calm.

    Returns:
      uint8 [b v f h w 3].
    """
    given = self.encode_images(params, request["images"])
    latents = self.sample_latents(params, given, request, rng, steps=steps, guidance=guidance,
                                  noise_scale=noise_scale)
    return self.decode(params, latents)

  def sample_latents(self, params: Params, given: jax.Array, request: Batch, rng: jax.Array, *, steps: int,
                     guidance: float, noise_scale: float = 1.0) -> jax.Array:
    """As `sample`, from and to latents [b v f h w c]."""
    mask, sigma, rays = request["mask"], request["sigma"], request["rays"]
    noise_rng, augmentation_rng = jax.random.split(rng)
    noise = noise_scale * jax.random.normal(noise_rng, given.shape)
    augmented = given + expand(sigma) * jax.random.normal(augmentation_rng, given.shape)
    is_given = expand(mask) > 0
    text = self.encode_text(params, request["text"], jnp.ones(given.shape[0]))
    if guidance != 1.0:                                  # the unconditional branch has neither text nor images (§4.2)
      empty = self.encode_text(params, request["text"], jnp.zeros(given.shape[0]))
      text, rays = jnp.concatenate([text, empty]), jnp.concatenate([rays, rays])
      mask, sigma = (jnp.concatenate([x, jnp.zeros_like(x)]) for x in (mask, sigma))

    def denoise(x, timestep):
      inputs = jnp.where(is_given, augmented, x)
      if guidance == 1.0:
        return self.unet(params["unet"], inputs, timestep, text, rays=rays, mask=mask, sigma=sigma)
      inputs, timestep = jnp.concatenate([inputs, x]), jnp.concatenate([timestep, timestep])
      conditional, unconditional = jnp.split(
          self.unet(params["unet"], inputs, timestep, text, rays=rays, mask=mask, sigma=sigma), 2)
      return guided(conditional, unconditional, guidance)

    sampler = DDIM(self.schedule, steps=steps, prediction=self.prediction, spacing="trailing")
    return jnp.where(is_given, given, sampler(denoise, noise))

  def preview(self, params: Params, batch: Batch, rng: jax.Array) -> jax.Array:
    """A picture for TensorBoard: the batch's first clip sampled from its first view, uint8 [H W 3].

    Rows: the true first frame of every view, the sampled one, the true last frame, the sampled one.
    """
    clip = {name: value[:1] for name, value in batch.items()}
    return self._preview(params, clip, rng)

  @functools.partial(jax.jit, static_argnums=0)
  def _preview(self, params: Params, clip: Batch, rng: jax.Array) -> jax.Array:
    images = clip["images"]
    mask = regime_mask(jnp.array([REGIMES.index("video")]), *images.shape[1:3])
    options = self.options.sampling
    request = {**clip, "mask": mask, "sigma": jnp.zeros_like(mask)}
    sampled = self.sample(params, request, rng, steps=options.steps, guidance=options.video_guidance,
                          noise_scale=options.noise_scale)
    rows = jnp.stack([x[0, :, frame] for frame in (0, -1) for x in (images, sampled)])             # [row v h w 3]
    return rearrange(rows, "row v h w c -> (row h) (v w) c")


def make_unet_config(sizes: dict, latent_channels: int, text_channels: int) -> UNetConfig:
  """The network between a codec and a text encoder; `sizes` may repeat what follows from those.

  Raises:
    ValueError: if they say something else, or make no network.
  """
  for name, channels, source in (("in_channels", latent_channels, "the codec's latents"),
                                 ("out_channels", latent_channels, "the codec's latents"),
                                 ("text_channels", text_channels, "the text encoder's tokens")):
    if sizes.get(name) not in (None, channels):
      raise ValueError(f"unet.{name} is {sizes[name]}, and {source} have {channels} channels")
  return UNetConfig(**sizes | dict(in_channels=latent_channels, out_channels=None, text_channels=text_channels))


def copied_from(path: str) -> str:
  """The parameter of the UNet that this one starts as a copy of: for multi-view attention the spatial one, else itself.

  Source: VideoPanda §3.2, after MVDream.
  """
  return path.replace("/attn_multiview/attention/", "/attn1/")


def copy_spatial_attention(unet: Params) -> Params:
  """Sets every multi-view attention to the spatial self-attention of the same block."""
  leaves = flatten(unet)
  return unflatten({path: leaves[copied_from(path)] for path in leaves})


_ADDED = ("attn_multiview", "motion_modules", "conv_in_conditions", "sigma_embedding")


def is_spatial(path: str) -> bool:
  """Whether a parameter belongs to the image network: the text encoder, and the UNet without what VideoPanda adds."""
  return not any(part in _ADDED for part in path.split("/"))


def expand(per_image: jax.Array) -> jax.Array:
  """[b v f] -> [b v f 1 1 1]."""
  return per_image[..., None, None, None]
