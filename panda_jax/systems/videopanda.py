"""VideoPanda: multi-view video diffusion for 360° panoramas (arXiv 2504.11389).

A panorama is a matrix of perspective views and frames. Some of its images may be given: none, the first view, or the
first view and the first frame of all; the network denoises the others.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from panda_jax.diffusion import DDIM, Schedule
from panda_jax.diffusion.conditioning import REGIMES, check_regimes, draw_conditions, guided, regime_mask, rescaled
from panda_jax.diffusion.schedule import check_prediction
from panda_jax.errors import InputError
from panda_jax.geometry import GivenCameras, RigViews, make_rig
from panda_jax.models.functional import Functional
from panda_jax.models.unet import UNet
from panda_jax.parallel import exchange
from panda_jax.systems.base import Batch, Params
from panda_jax.systems.latent import LatentSystem
from panda_jax.systems.networks import as_fields, make_unet_config, normal
from panda_jax.tree import flatten, unflatten


class VideoPanda(LatentSystem):
  """The paper's system; see `panda_jax.systems.base.System` for the surface.

  Its parameters are those of the networks "unet" and "text" and, where the codec is Stable Diffusion's, "vae".

  A training batch is `images` uint8 [b v f h w 3], `rays` float32 [b v h' w' 3] at latent size and relative to the
  first view, and `text` int32 [b l]. A request has the same, with anything where nothing is given, and
  `mask` [b v f] and `sigma` [b v f]. Datasets may store what frozen networks make of images and text: then `latents`
  bfloat16 [b v f h' w' c], see `encode_stored`, and `text_states` bfloat16 [b l c] take their places.

  With `own_view` ("any camera", ours) the given video is no view of the rig but one of its own in front of them, of any
  field of view and direction, which its rays tell. The paper's is the rig's first view.
  """

  letters = {"images": "b v f h w c", "latents": "b v f h w c", "rays": "b v h w c", "text": "b l",
             "text_states": "b l c", "mask": "b v f", "sigma": "b v f", "given": "b v f h w c"}

  def __init__(self, model: ConfigDict):
    """`model` is config.model: see configs/tiny.py, and `systems.networks` for the codecs and text encoders.

    Raises:
      ValueError: if sizes do not fit together.
    """
    super().__init__(model)
    self.rig = make_rig(model.rig)
    self.own_view = model.own_view
    self.given_cameras = GivenCameras(**as_fields(model.given_camera)) if self.own_view else None
    self.view_size = (model.view_size, model.view_size)
    self.rays_size = tuple(side // self.codec.factor for side in self.view_size)
    self.shows = RigViews(self.rig, self.view_size, self.rays_size, self.given_cameras)
    self.unet_config = make_unet_config(as_fields(model.unet), self.codec.channels, self.words.channels)
    self.takes_images = self.unet_config.view_conditions
    self.schedule = Schedule.scaled_linear().shifted(model.snr_shift, mode=model.snr_shift_mode)
    if model.zero_terminal_snr:
      self.schedule = self.schedule.zero_terminal_snr()
    self.timesteps = len(self.schedule)
    self.prediction = check_prediction(model.prediction)
    self._check()
    self.unet = Functional(lambda rngs: UNet(self.unet_config, rngs=rngs))
    self.networks = {"unet": self.unet} | self.networks
    self.pretrained = self._from_elsewhere + ("the spatial layers",) * model.freeze_spatial

  def _check(self) -> None:
    """Refuses what would otherwise fail in the first step, or in the first sample."""
    model, side, factor = self.options, self.rays_size[0], self.codec.factor
    if model.view_size % factor:
      raise ValueError(f"view_size {model.view_size} is not a multiple of the codec's {factor} pixels per latent")
    if side % (halvings := 2 ** (len(self.unet_config.block_out_channels) - 1)):
      raise ValueError(f"view_size {model.view_size} makes latents of {side} x {side}, which the network's levels "
                       f"cannot halve: give a multiple of {factor * halvings}")
    if self.unet_config.temporal and model.sampling.frames > self.unet_config.max_frames:
      raise ValueError(f"sampling.frames {model.sampling.frames} is more than the {self.unet_config.max_frames} frame "
                       "positions of unet.max_frames")
    check_regimes(model.conditioning.regimes)
    if not self.takes_images and set(model.conditioning.regimes) != {"text"}:
      raise ValueError("a network without unet.view_conditions cannot be told what is given: set conditioning.regimes "
                       'to ("text",)')
    if model.zero_terminal_snr and self.prediction == "epsilon":
      raise ValueError("zero_terminal_snr ends in pure noise, of which an ε-prediction says nothing: set "
                       'prediction="v"')
    DDIM(self.schedule, steps=model.sampling.steps, prediction=self.prediction, spacing=model.sampling.spacing)

  # Parameters

  def init(self, rng: jax.Array) -> Params:
    """Random parameters; multi-view attention starts as a copy of its block's spatial self-attention (§3.2)."""
    keys = jax.random.split(rng, len(self.networks))
    params = {name: network.init(key) for (name, network), key in zip(self.networks.items(), keys)}
    return params | {"unet": copy_spatial_attention(params["unet"])}

  def adopt(self, params: Params, rng: jax.Array) -> Params:
    """All parameters, from those of a model that lacks what this one adds: stage two from stage one (§3.2).

    A kind of layer that the model has not at all begins as in `init`: it changes nothing yet, and multi-view attention
    is a copy of the model's own spatial self-attention.

    Raises:
      InputError: if it lacks anything else. What it has too much, or in another shape, is left for `check_tree`.
    """
    have, wanted = flatten(params["unet"]), flatten(self.unet.abstract)
    missing = wanted.keys() - have.keys()
    for path in sorted(missing):
      added = [part for part in path.split("/") if part in _ADDED]
      if not added or any(added[0] in other.split("/") for other in have):
        raise InputError(f"the model to begin with lacks the parameter unet/{path}: give one of this architecture, or "
                         "one without multi-view attention and view conditions")
    new = jax.jit(lambda rng: {path: leaf for path, leaf in flatten(self.unet.init(rng)).items() if path in missing})
    have |= {path: jnp.copy(have.get(copied_from(path), leaf)) for path, leaf in new(rng).items()}
    return params | {"unet": unflatten(have)}

  def trainable(self, path: str) -> bool:
    """All parameters, or with `freeze_spatial` all but the image network's (§3.2, stage two); never VAE and CLIP."""
    if path.split("/")[0] in self._from_elsewhere:
      return False
    return not (self.options.freeze_spatial and is_spatial(path))

  # Data

  def batch_spec(self, shape: tuple[int, int], batch_size: int, *, latents: bool = False,
                 text_states: bool = False) -> dict[str, jax.ShapeDtypeStruct]:
    v, f = shape
    spec = jax.ShapeDtypeStruct
    return (self._images_spec((batch_size, v, f), self.view_size, latents)
            | {"rays": spec((batch_size, v, *self.rays_size, 3), jnp.float32)} | self._text_spec(batch_size, text_states))

  def request_spec(self, shape: tuple[int, int], batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    spec = self.batch_spec(shape, batch_size)
    per_image = jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32)
    return {"text": spec["text"], "rays": spec["rays"], "mask": per_image, "sigma": per_image}

  # Training

  def draw(self, rng: jax.Array, batch: Batch, timestep: jax.Array | int | None = None) -> Batch:
    """The batch with all that is random about its loss, so that it can be parted by clips afterwards.

    Args:
      rng: of the step.
      batch: see the class.
      timestep: one for all clips, to compare losses; None draws one per clip, spread evenly over the batch, which makes
        the loss less noisy than independent draws.

    Returns:
      The batch and `timestep` int32 [b], `mask` and `sigma` [b v f], `keep_text` [b], `key` [b].
    """
    b, v, f = batch["latents" if "latents" in batch else "images"].shape[:3]
    condition_rng, timestep_rng, noise_rng = jax.random.split(rng, 3)
    mask, sigma, keep_text = draw_conditions(condition_rng, b, v, f, **as_fields(self.options.conditioning))
    timestep = self._draw_timestep(timestep_rng, b, timestep)
    return {**batch, "timestep": timestep, "mask": mask, "sigma": sigma, "keep_text": keep_text,
            "key": jax.random.split(noise_rng, b)}

  def loss(self, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean squared error of the prediction over the images that are not given, each clip's mean counting the same.

    `rng` draws what is random, unless `draw` has.
    """
    batch = batch if "key" in batch else self.draw(rng, batch)
    codec_keys, noise_keys, augmentation_keys = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(batch["key"])
    clean = self._clean(params, batch, codec_keys)
    mask, sigma, timestep = batch["mask"], batch["sigma"], batch["timestep"]
    noise = normal(noise_keys, clean.shape)
    given = clean + expand(sigma) * normal(augmentation_keys, clean.shape)
    noised = jnp.where(expand(mask) > 0, given, self.schedule.noised(clean, noise, timestep))

    text = self._text(params, batch, batch["keep_text"])
    output = self.unet(params["unet"], noised, timestep, text, **self._told(batch["rays"], mask, sigma))
    error = jnp.square(output - self.schedule.target(clean, noise, timestep, self.prediction)).mean((-3, -2, -1))
    targets = 1 - mask
    total, count = (exchange.sum_over_matrix(x.sum((1, 2))) for x in (error * targets, targets))
    per_clip = total / jnp.maximum(count, 1)
    return per_clip.mean(), {"given": mask.mean()}

  def _told(self, rays: jax.Array, mask: jax.Array, sigma: jax.Array) -> dict[str, jax.Array]:
    """What the network is told beside the text: nothing in stage one."""
    return dict(rays=rays, mask=mask, sigma=sigma) if self.takes_images else {}

  # Sampling

  def sample(self, params: Params, request: Batch, rng: jax.Array, **options) -> jax.Array:
    """One window of the matrix from images to images; given ones come back as the codec keeps them.

    Args and options: as `sample_latents`; the request also has `images` uint8 [b v f h w 3].

    Returns:
      uint8 [b v f h w 3].
    """
    given = self.encode_images(params, request["images"])
    return self.decode(params, self.sample_latents(params, given, request, rng, **options))

  def sample_latents(self, params: Params, given: jax.Array, request: Batch, rng: jax.Array, *, steps: int,
                     guidance: float, noise_scale: float = 1.0, spacing: str = "trailing", rescale: float = 0.0,
                     on_step: Callable[[], None] | None = None) -> jax.Array:
    """Denoises one window of the matrix. Jit-able, one program per shape; options are static under jit.

    Args:
      params: nested dict.
      given: latents [b v f h w c], anything where nothing is given.
      request: `text` or `text_states`, `rays` [b v h w 3] or [b v f h w 3], `mask` and `sigma` [b v f]: what is given,
        and how much noise it gets.
      rng: seeds the initial and the augmentation noise.
      steps: DDIM steps.
      guidance: scale of classifier-free guidance; 1 costs half of any other.
      noise_scale: of the initial noise; below 1 trades variety for calm.
      spacing: of the timesteps, see `DDIM`.
      rescale: how far guidance's larger spread is taken back, see `rescaled`.
      on_step: called on the host after each step.

    Returns:
      Latents [b v f h w c], the given ones as they were given.
    """
    mask, sigma, rays = request["mask"], request["sigma"], request["rays"]
    whole = exchange.whole_shape(given.shape)                  # devices that share the matrices draw the same noise
    noise, augmentation = (exchange.own_part(jax.random.normal(key, whole)) for key in jax.random.split(rng))
    noise = noise_scale * noise
    augmented = given + expand(sigma) * augmentation
    is_given = expand(mask) > 0
    text = self._text(params, request, jnp.ones(given.shape[0]))
    if guidance != 1.0:                                  # the unconditional branch has neither text nor images (§4.2)
      empty = self._text(params, request, jnp.zeros(given.shape[0]))
      text, rays = jnp.concatenate([text, empty]), jnp.concatenate([rays, rays])
      mask, sigma = (jnp.concatenate([x, jnp.zeros_like(x)]) for x in (mask, sigma))
    unet = self.unet.bind(params["unet"])
    conditions = unet.read(text, **self._told(rays, mask, sigma))

    def denoise(x, timestep):
      inputs = jnp.where(is_given, augmented, x)
      if guidance == 1.0:
        return unet.denoise(inputs, timestep, conditions)
      both = unet.denoise(jnp.concatenate([inputs, x]), jnp.concatenate([timestep, timestep]), conditions)
      conditional, unconditional = jnp.split(both, 2)
      output = guided(conditional, unconditional, guidance)
      return rescaled(output, conditional, rescale) if rescale else output

    sampler = DDIM(self.schedule, steps=steps, prediction=self.prediction, spacing=spacing)
    return jnp.where(is_given, given, sampler(denoise, noise, on_step=on_step))

  def preview(self, params: Params, batch: Batch, rng: jax.Array) -> jax.Array:
    """Clips as they are, sampled from their first view, and from their text: uint8 [b row v f h w 3].

    Where no images can be given, there is no row from the first view. Of stored latents the first row is what the codec
    makes of them.
    """
    options, given = self.options.sampling, self._clean(params, batch)
    shown = [batch["images"] if "images" in batch else self.decode(params, given)]
    ways = (("video", options.video_guidance), ("text", options.text_guidance))
    for regime, guidance in ways if self.takes_images else ways[1:]:
      b, v, f = exchange.whole_shape(given.shape)[:3]
      mask = exchange.own_part(regime_mask(jnp.full((b,), REGIMES.index(regime)), v, f))
      request = {**batch, "mask": mask, "sigma": jnp.zeros_like(mask)}
      shown.append(self.decode(params, self.sample_latents(
          params, given, request, rng, steps=options.steps, guidance=guidance, noise_scale=options.noise_scale,
          spacing=options.spacing, rescale=options.rescale)))
    return jnp.stack(shown, axis=1)


def copied_from(path: str) -> str:
  """The parameter of the UNet that this one starts as a copy of: for multi-view attention the spatial one, else itself.

  Source: VideoPanda §3.2, after MVDream.
  """
  return path.replace("/attn_multiview/attention/", "/attn1/")


def copy_spatial_attention(unet: Params) -> Params:
  """Sets every multi-view attention to the spatial self-attention of the same block."""
  leaves = flatten(unet)
  # Two parameters in one buffer could not be donated.
  return unflatten({path: leaf if copied_from(path) == path else jnp.copy(leaves[copied_from(path)])
                    for path, leaf in leaves.items()})


_ADDED = ("attn_multiview", "motion_modules", "conv_in_conditions", "sigma_embedding")


def is_spatial(path: str) -> bool:
  """Whether a parameter belongs to the image network: the text encoder, and the UNet without what VideoPanda adds."""
  return not any(part in _ADDED for part in path.split("/"))


def expand(per_image: jax.Array) -> jax.Array:
  """[b v f] -> [b v f 1 1 1]."""
  return per_image[..., None, None, None]
