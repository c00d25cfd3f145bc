"""A system whose every image says where it comes from, with the surface that the generator knows of a system."""

import jax
import jax.numpy as jnp
import numpy as np

from panda_jax.geometry import GivenCameras, RigViews, cubemap_rig

START = 50.5                            # of a video that nothing is known of
VIEW = 4                                # pixels; latents have half of that


class Counting:
  """Continues what it is given: each image is one brighter than that of the frame before.

  A view whose first frame is not given starts as bright as the given view, and without any at params["start"]. A latent
  is 0.25 more than the mean of its pixels and is decoded rounded down, so that what was decoded and encoded again shows.
  Given images come back as they are. `seen` holds the inputs, the key and the latents of every window, `traced` the
  options of every program, `encoded` the shapes of what was encoded.
  """

  def __init__(self, rig=None, own_view=False):
    self.rig, self.view_size, self.rays_size, self.timesteps = rig or cubemap_rig(), (VIEW, VIEW), (2, 2), 1000
    self.takes_images, self.own_view = True, own_view
    self.given_cameras = GivenCameras(fov_deg=(60, 100)) if own_view else None
    self.shows = RigViews(self.rig, self.view_size, self.rays_size, self.given_cameras)
    self.seen, self.traced, self.encoded = [], [], []

  def tokenize(self, text):
    return np.array([len(text), 7], np.int32)

  def unknown_words(self, text):
    return []

  def encode_images(self, params, images):
    self.encoded.append(images.shape)
    b, v, f, h, w, c = images.shape
    return images.astype(jnp.float32).reshape(b, v, f, h // 2, 2, w // 2, 2, c).mean((4, 6, 7))[..., None] + 0.25

  def sample_latents(self, params, given, request, rng, *, steps, guidance, noise_scale=1.0, spacing="trailing",
                     rescale=0.0, on_step=None):
    self.traced.append(dict(steps=steps, guidance=guidance, noise_scale=noise_scale, spacing=spacing, rescale=rescale))
    mask = request["mask"][..., None, None, None] > 0
    first = jnp.where(mask[:, :1, :1], given[:, :1, :1], params["start"])
    frame = jnp.arange(given.shape[2])[:, None, None, None]
    latents = jnp.where(mask, given, jnp.where(mask[:, :, :1], given[:, :, :1], first) + frame)
    # The panorama is fetched before this runs, unless a test waits for effects.
    jax.debug.callback(lambda **values: self.seen.append({name: np.asarray(x) for name, x in values.items()}),
                       **request, given=given, latents=latents, key=jax.random.key_data(rng))
    for _ in range(steps if on_step else 0):
      jax.debug.callback(lambda _: on_step(), latents.ravel()[0])
    return latents

  def decode(self, params, latents):
    pixels = jnp.floor(latents[..., :1]).repeat(2, axis=3).repeat(2, axis=4).repeat(3, axis=5)
    return jnp.clip(pixels, 0, 255).astype(jnp.uint8)
