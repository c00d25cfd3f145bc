"""Made 360° clips and what becomes of them on their way into a file: cubemaps, two eyes, half spheres, bars."""

import functools

import cv2
import numpy as np

from panda_jax.data import video, worlds
from panda_jax.geometry import Camera, eac_rays, project, to_uint8
from panda_jax.geometry.sphere import equirect_pixels

SIZE = (128, 256)


def panorama(h: int = 64, seed: int = 0) -> np.ndarray:
  """A picture that is continuous on the sphere in longitude: uint8 [h 2h 3]."""
  draw = np.random.default_rng(seed)
  y, x = np.mgrid[:h, :2 * h] * np.pi / h
  image = np.full((h, 2 * h, 3), 127.0)
  for k in range(1, 8):
    across = np.sin(k * x[..., None] + draw.uniform(0, 6, 3))
    image += 60 / k * across * np.sin(k * y[..., None] + draw.uniform(0, 6, 3))
  return np.clip(image, 0, 255).astype(np.uint8)


@functools.cache
def moving(seed: int = 1, frames: int = 20, size: tuple[int, int] = SIZE, step: int = 2) -> tuple[np.ndarray, ...]:
  """A procedural world seen by a camera that turns by `step` pixels per frame: panoramas uint8 [H W 3]."""
  frame = next(worlds.render(worlds.draw_world(seed), 1, size, oversample=1))
  return tuple(np.roll(frame, -step * k, axis=1) for k in range(frames))


def write(path, frames, fps: float = 24):
  """A file of them; their sizes are even."""
  video.write_video(path, frames, fps)
  return path


def as_eac(panorama: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  x, y = equirect_pixels(eac_rays(size), panorama.shape[:2])
  return cv2.remap(panorama, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def other_eye(panorama: np.ndarray, degrees: float = 3.0, seed: int = 0) -> np.ndarray:
  """What the right eye sees: near things are shifted by up to `degrees`, nothing is at the poles."""
  h, w = panorama.shape[:2]
  near = np.random.default_rng(seed).uniform(0, 1, (6, 12)).astype(np.float32)
  near[:, -1] = near[:, 0]
  shift = cv2.resize(near, (w, h)) * np.sin((np.arange(h) + 0.5) / h * np.pi)[:, None] * degrees / 360 * w
  x, y = np.meshgrid(np.arange(w), np.arange(h))
  return cv2.remap(panorama, ((x + shift) % w).astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR,
                   borderMode=cv2.BORDER_WRAP)


def top_bottom(panorama: np.ndarray) -> np.ndarray:
  return np.concatenate([panorama, other_eye(panorama)], axis=0)


def side_by_side(panorama: np.ndarray) -> np.ndarray:
  return np.concatenate([panorama, other_eye(panorama)], axis=1)


def squeezed(image: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
  return video.resize(image, size)


def front_half(panorama: np.ndarray) -> np.ndarray:
  w = panorama.shape[1]
  return panorama[:, w // 4:w - w // 4]


def film(panorama: np.ndarray, size: tuple[int, int] = (108, 192), pitch: float = 0.0) -> np.ndarray:
  """What an ordinary camera sees."""
  return to_uint8(project(panorama, Camera(0, pitch, 80), size, "bilinear"))


def grainy(frame: np.ndarray, count: int, levels: float, seed: int = 0):
  """One picture standing still under film grain."""
  draw = np.random.default_rng(seed)
  for _ in range(count):
    yield np.clip(frame + draw.normal(0, levels, frame.shape), 0, 255).astype(np.uint8)
