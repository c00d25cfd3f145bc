"""Procedural 360° worlds: endless captioned panoramic clips for the demo, the tests and the shipped tiny model.

A world is sky, sun, clouds, terrain, ground, floating objects and a moving camera, all drawn from one seed. It is
made so that one view says much about the others: light falls off with the angle to the sun, haze takes the colour
of the horizon, the ground keeps its pattern all around. The caption is written from the same parameters.
"""

from __future__ import annotations

import dataclasses
from typing import Iterator

import numpy as np

_TIMES = {  # zenith, horizon, sun colour, sun elevation in degrees, brightness of the ground
    "dawn": ((92, 118, 178), (246, 190, 170), (255, 214, 170), 9.0, 0.72),
    "noon": ((40, 110, 215), (176, 214, 245), (255, 252, 232), 58.0, 1.0),
    "afternoon": ((66, 128, 206), (214, 218, 214), (255, 240, 200), 32.0, 0.92),
    "sunset": ((70, 62, 130), (252, 138, 70), (255, 190, 96), 5.0, 0.62),
    "dusk": ((28, 30, 82), (150, 96, 140), (226, 150, 150), -3.0, 0.38),
    "night": ((6, 9, 30), (26, 36, 74), (214, 222, 240), 34.0, 0.2),
}

_PLACES = {  # ground, second ground colour, hill colour, phrase
    "meadow": ((96, 156, 62), (134, 178, 74), (60, 110, 70), "a green meadow"),
    "desert": ((222, 184, 120), (240, 206, 148), (190, 140, 92), "a sandy desert"),
    "snow": ((232, 238, 246), (206, 218, 236), (150, 166, 190), "a snowy plain"),
    "sea": ((22, 92, 128), (48, 126, 156), (58, 92, 96), "the open sea"),
    "canyon": ((176, 86, 54), (204, 116, 72), (140, 64, 48), "a red canyon"),
    "moor": ((112, 100, 70), (140, 124, 84), (84, 78, 72), "a brown moor"),
    "lavender": ((140, 92, 190), (112, 150, 84), (96, 84, 140), "a lavender field"),
}

PLACES = tuple(_PLACES)
TRAINING_PLACES = tuple(place for place in PLACES if place != "lavender")
"""What the shipped tiny model has seen. The lavender fields are kept for the demo, which teaches them to it."""

_TERRAIN = {"flat": 0.012, "hilly": 0.07, "mountainous": 0.17}  # amplitude of the skyline in radians
_CLOUDS = {"clear": 0.0, "a few": 0.4, "many": 0.7}
_MOTIONS = {"still": 0.0, "slow": 0.25, "fast": 0.7}  # camera heights per second
_COLOURS = {"red": (214, 44, 40), "yellow": (244, 206, 44), "blue": (40, 84, 208), "white": (240, 240, 240)}
_OBJECTS = {"balloon": (0.13, 0.35, 0.03), "bird": (0.045, 0.5, 0.35), "kite": (0.08, 0.6, 0.12)}
# radius and latitude in radians, speed in radians per second


@dataclasses.dataclass(frozen=True)
class Floater:
  """One thing in the air: an angular radius and a path around the camera, in radians and radians per second."""

  kind: str
  colour: str
  longitude: float
  latitude: float
  radius: float
  speed: float


@dataclasses.dataclass(frozen=True)
class World:
  """Everything that a clip shows, drawn by `draw_world`."""

  seed: int
  time: str
  place: str
  terrain: str
  clouds: str
  motion: str
  sun_longitude: float
  heading: float
  floaters: tuple[Floater, ...]

  @property
  def caption(self) -> str:
    """One English sentence for the whole panorama, in the vocabulary of the tiny text encoder."""
    parts = [f"{self.time} over {_PLACES[self.place][3]}", f"{self.terrain} land"]
    parts.append("a clear sky" if self.clouds == "clear" else f"{self.clouds} clouds")
    parts += [f"a {floater.colour} {floater.kind}" for floater in self.floaters]
    parts.append("the camera stands still" if self.motion == "still" else f"a {self.motion} moving camera")
    return ", ".join(parts)


def draw_world(seed: int, places: tuple[str, ...] = TRAINING_PLACES) -> World:
  """Draws a world. The same seed and places give the same world on every machine."""
  rng = np.random.Generator(np.random.Philox(seed))
  choose = lambda options: str(rng.choice(list(options)))
  floaters = []
  for _ in range(int(rng.choice(4, p=(0.3, 0.35, 0.25, 0.1)))):
    kind = choose(_OBJECTS)
    radius, latitude, speed = _OBJECTS[kind]
    floaters.append(Floater(kind, choose(_COLOURS), rng.uniform(-np.pi, np.pi), latitude * rng.uniform(0.6, 1.3),
                            radius * rng.uniform(0.8, 1.4), speed * rng.uniform(0.4, 1.0) * rng.choice((-1, 1))))
  return World(seed, choose(_TIMES), choose(places), choose(_TERRAIN), choose(_CLOUDS), choose(_MOTIONS),
               sun_longitude=rng.uniform(-np.pi, np.pi), heading=rng.uniform(-np.pi, np.pi), floaters=tuple(floaters))


def render(world: World, frames: int, size: tuple[int, int] = (64, 128), fps: float = 8.0,
           oversample: int = 2) -> Iterator[np.ndarray]:
  """Renders a clip frame by frame.

  Args:
    world: what to show.
    frames: number of frames.
    size: (H, W) of the panorama, 2:1.
    fps: frames per second of world time.
    oversample: every pixel is the mean of oversample² samples.

  Yields:
    uint8 [H W 3].

  Raises:
    ValueError: if the size is not 2:1.
  """
  height, width = size
  if width != 2 * height:
    raise ValueError(f"a panorama is twice as wide as high, got {height} x {width}")
  scene = _Scene(world, height * oversample, width * oversample)
  for frame in range(frames):
    image = scene.shade(frame / fps)
    image = image.reshape(height, oversample, width, oversample, 3).mean((1, 3))
    yield np.clip(np.rint(image), 0, 255).astype(np.uint8)


class _Scene:
  """What stays the same over a clip, computed once: directions, sky without clouds, skyline, random waves."""

  def __init__(self, world: World, height: int, width: int):
    self.world = world
    rng = np.random.Generator(np.random.Philox(key=[world.seed, 1]))
    as_colour = lambda rgb, jitter: np.clip(np.asarray(rgb) + rng.normal(0, jitter, 3), 0, 255).astype(np.float32)
    zenith, horizon, sun, elevation_deg, brightness = _TIMES[world.time]
    ground, ground2, hill, _ = _PLACES[world.place]
    self.zenith, self.horizon, self.sun = as_colour(zenith, 8), as_colour(horizon, 8), as_colour(sun, 4)
    self.ground, self.ground2, self.hill = (as_colour(c, 7) * brightness for c in (ground, ground2, hill))
    self.cloud_colour = 0.35 * self.horizon + 0.65 * np.float32(255 * min(1.0, 0.35 + 0.7 * brightness))

    longitude = ((np.arange(width) + 0.5) / width - 0.5) * 2 * np.pi
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    self.longitude, self.latitude = np.meshgrid(longitude.astype(np.float32), latitude.astype(np.float32))
    self.direction = np.stack([np.cos(self.latitude) * np.sin(self.longitude), np.sin(self.latitude),
                               np.cos(self.latitude) * np.cos(self.longitude)], -1)
    # 1 on the horizon below the sun, 0 opposite, 1/2 overhead and underfoot: no jump at the poles.
    self.towards_sun = 0.5 + 0.5 * (self.direction @ _direction(world.sun_longitude, 0.0))[..., None]
    self.to_sun = _direction(world.sun_longitude, np.deg2rad(elevation_deg + rng.uniform(-3, 3)))

    # Waves on a plane: the clouds above, the pattern of the ground below.
    self.cloud_waves = _waves(rng, count=9, low=0.5, high=2.2)
    self.ground_waves = _waves(rng, count=5, low=0.35, high=1.1)
    orders = np.arange(1, 9)
    amplitude = _TERRAIN[world.terrain] * rng.normal(0, 1, 8) / orders**0.8
    phase = rng.uniform(0, 2 * np.pi, 8)
    skyline = (amplitude[:, None] * np.cos(orders[:, None] * longitude + phase[:, None])).sum(0)
    self.skyline = np.maximum(0.004, 0.5 * _TERRAIN[world.terrain] + skyline).astype(np.float32)
    self.static = self._clear_sky()

  def _clear_sky(self) -> np.ndarray:
    cosine = self.direction @ self.to_sun
    altitude = np.clip(np.sin(self.latitude), 0, 1)[..., None] ** 0.6
    horizon = self.horizon * (0.72 + 0.28 * self.towards_sun)
    sky = horizon * (1 - altitude) + self.zenith * altitude
    glow = np.exp((cosine - 1) * 7)[..., None] * 0.55
    disc = _step((cosine - 0.9965) / 0.002)[..., None]
    return sky + (self.sun - sky) * np.maximum(glow, disc)

  def shade(self, seconds: float) -> np.ndarray:
    """float32 [H W 3], 0..255, of one moment."""
    world = self.world
    image = self.static
    above = np.maximum(self.direction[..., 1], 1e-3)
    cover = _CLOUDS[world.clouds]
    if cover:
      wind = 0.12 * seconds
      noise = _evaluate(self.cloud_waves, self.direction[..., 0] / above + wind, self.direction[..., 2] / above)
      alpha = _step((noise + 1.4 * cover - 1.0) / 0.8) * np.clip(self.direction[..., 1] * 4, 0, 1) * 0.7
      image = image + (self.cloud_colour - image) * alpha[..., None]
    for floater in world.floaters:
      centre = _direction(floater.longitude + floater.speed * seconds,
                          floater.latitude + 0.04 * np.sin(1.3 * seconds + floater.longitude))
      angle = np.arccos(np.clip(self.direction @ centre, -1, 1))
      alpha = _step((floater.radius - angle) / 0.03 + 0.5)[..., None]
      light = 0.55 + 0.45 * np.clip(1 - angle / floater.radius, 0, 1)[..., None]
      image = image + (np.float32(_COLOURS[floater.colour]) * light * self._exposure() - image) * alpha
    image = self._hills(image)
    return self._ground(image, seconds)

  def _exposure(self) -> float:
    return 0.35 + 0.65 * _TIMES[self.world.time][4]

  def _lit(self, colour: np.ndarray) -> np.ndarray:
    """Land is lighter on the side away from the sun, where one sees its lit faces."""
    return colour * (1.12 - 0.3 * self.towards_sun)

  def _hills(self, image: np.ndarray) -> np.ndarray:
    alpha = _step((self.skyline - self.latitude) / 0.02 + 0.5)[..., None]
    haze = 0.45
    return image + (self._lit((1 - haze) * self.hill + haze * self.horizon) - image) * alpha

  def _ground(self, image: np.ndarray, seconds: float) -> np.ndarray:
    below = np.maximum(-self.direction[..., 1], 1e-3)
    travelled = _MOTIONS[self.world.motion] * seconds
    x = self.direction[..., 0] / below + travelled * np.sin(self.world.heading)
    z = self.direction[..., 2] / below + travelled * np.cos(self.world.heading)
    distance = 1 / below
    pattern = 0.5 + 0.5 * np.tanh(2.5 * _evaluate(self.ground_waves, x, z)) * np.exp(-distance / 12)
    colour = self._lit(self.ground + (self.ground2 - self.ground) * pattern[..., None])
    if self.world.place == "sea":                                                   # the sun's road on the water
      along = self.direction @ _direction(self.world.sun_longitude, 0.0) / below
      aside = self.direction @ _direction(self.world.sun_longitude + np.pi / 2, 0.0) / below
      road = np.exp(-((aside / (0.4 + 0.2 * distance)) ** 2)) * _step(along / 3) * np.exp(-distance / 25)
      colour = colour + (self.sun - colour) * (0.5 * road)[..., None]
    haze = (1 - np.exp(-distance / 14))[..., None]
    colour = colour + (self.horizon * 0.9 - colour) * haze * 0.7
    alpha = _step(-self.latitude / 0.02 + 0.5)[..., None]
    return image + (colour - image) * alpha


def _direction(longitude: float, latitude: float) -> np.ndarray:
  return np.asarray([np.cos(latitude) * np.sin(longitude), np.sin(latitude), np.cos(latitude) * np.cos(longitude)],
                    np.float32)


def _waves(rng: np.random.Generator, count: int, low: float, high: float) -> np.ndarray:
  """[count 4]: wave vector x, z, phase, amplitude; the sum has unit variance."""
  angle, frequency = rng.uniform(0, 2 * np.pi, count), np.exp(rng.uniform(np.log(low), np.log(high), count)) * 2
  amplitude = frequency**-0.7
  amplitude /= np.sqrt((amplitude**2).sum() / 2)
  return np.stack([frequency * np.cos(angle), frequency * np.sin(angle), rng.uniform(0, 2 * np.pi, count), amplitude],
                  -1).astype(np.float32)


def _evaluate(waves: np.ndarray, x: np.ndarray, z: np.ndarray) -> np.ndarray:
  return sum(amplitude * np.cos(kx * x + kz * z + phase) for kx, kz, phase, amplitude in waves)


def _step(x: np.ndarray) -> np.ndarray:
  """Smooth step from 0 at x <= 0 to 1 at x >= 1."""
  x = np.clip(x, 0, 1)
  return x * x * (3 - 2 * x)
