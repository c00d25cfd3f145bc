"""Optical flow as the colours that the 360-Adapter was trained on, and the way back.

Direction is hue, by the Middlebury colour wheel; speed is brightness; no motion is black. Three things differ from the
usual picture of a flow: small motions are raised (an exponent of 1.1 in place of 2 or more, full brightness at 25
pixels per frame), the picture is inverted, and its red and blue are exchanged, because 360DVD wrote RGB pictures into
its films as BGR, and the adapter has learned from what comes out of those.

Source: 360DVD's code, the colours of PanoFlow with alpha 0.1 and a largest flow of 25 pixels.
"""

import functools

import cv2
import numpy as np

from panda_jax.data.mirror import mirrored

WIDTH = 1024
"""Columns of the panoramas that the adapter's flow was measured on: its pixels are those of this width."""

UNITS = {"step": "one frame of the source", "pixels of width": WIDTH}
"""JSON: what the colours beside stored frames stand for; part of what a dataset says of its motion."""

FULL = 25.0
"""Pixels per frame of the brightest colours; what is faster is shown with less saturation, and looks alike."""

_RAISED = 0.1                                         # speeds of 0 … 1 (FULL) are shown as speed ** (1 + this)
_EPSILON = 1e-5                                       # of the official code: FULL itself is not faster than FULL
_FASTER = 0.75                                        # what is faster than FULL: the wheel's colours times this
_SEGMENTS = (15, 6, 4, 11, 13, 6)                     # of the wheel: red, yellow, green, cyan, blue, magenta, red
_ROWS = 16                                            # encoded at once, so that the steps between stay in the cache
_STEPS = 64                                           # per degree of hue, when hues are mirrored
_BELOW = 0.01                                         # of a level: what rounding may have put above a whole one
# The wheel's two ends, different colours, are one direction: to the right. Colours are whole levels, so the hue of what
# moves straight to the left is known to this many degrees over its levels, and may come out at the wrong end.
_UNSURE = 110.0


def encode_flow(flow: np.ndarray, width: int | None = None) -> np.ndarray:
  """Flow as the adapter's colours.

  Args:
    flow: float [... H W 2], pixels to the right and down per frame.
    width: columns of the panoramas it was measured on. It is then counted in pixels of `WIDTH` columns, so that the
      same motion has the same colours at any size. None: as it is.

  Returns:
    uint8 [... H W 3], RGB.

  Raises:
    ValueError: if it is not of that shape, or holds NaN or infinity.
  """
  flow = np.asarray(flow)
  if flow.ndim < 3 or flow.shape[-1] != 2 or not np.issubdtype(flow.dtype, np.floating):
    raise ValueError(f"flow must be floating-point [... H W 2], got {flow.dtype} {list(flow.shape)}")
  if not np.isfinite(flow).all():
    raise ValueError("flow holds NaN or infinity")
  pixels = flow.reshape(-1, *flow.shape[-3:])
  colours = np.empty((*pixels.shape[:-1], 3), np.uint8)
  for one, target in zip(pixels, colours, strict=True):
    one = np.float32(one if width is None else one * (WIDTH / width))
    for top in range(0, len(one), _ROWS):
      _encode(one[top:top + _ROWS], target[top:top + _ROWS])
  return colours.reshape(*flow.shape[:-1], 3)


def decode_flow(colours: np.ndarray, width: int | None = None) -> np.ndarray:
  """The flow that colours stand for, as near as they tell: 360DVD's own films can be read as well.

  Whole levels tell speeds to 0.08 pixels, and directions to 3 degrees at 4 pixels and more and to 12 at 1 pixel. That
  is the worst of them; means are 0.03 pixels, 0.4 and 2 degrees. What is faster than `FULL` comes back as `FULL`.

  Args:
    colours: uint8 [... H W 3], RGB.
    width: columns of the panoramas that the flow is for; None: of `WIDTH` columns.

  Returns:
    float32 [... H W 2], pixels to the right and down per frame.

  Raises:
    ValueError: if they are not of that shape.
  """
  colours = _checked(colours)
  flow = np.empty((*colours.shape[:-1], 2), np.float32)
  for one, target in zip(_frames(colours), flow.reshape(-1, *flow.shape[-3:]), strict=True):
    hue, _, value = _hsv(one)
    position = np.interp(_wheel_hue(hue), *_hues_of_positions())
    angle = (position / (_positions() - 1) * 2 - 1) * np.pi
    speed = FULL * (value / 255) ** (1 / (1 + _RAISED))         # every colour of the wheel has a channel at full
    speed[one.min(-1) > 255 * (1 - _FASTER) / 2] = FULL
    target[..., 0] = -speed * np.cos(angle)
    target[..., 1] = -speed * np.sin(angle)
  return flow if width is None else flow * np.float32(width / WIDTH)


def flip_flow(flow: np.ndarray, fix: bool = True) -> np.ndarray:
  """What belongs to mirrored pictures: the flow mirrored, and left and right exchanged in what it says.

  A panorama that is turned needs no such care: its flow, in numbers or colours, is turned with it (np.roll).

  Args:
    flow: float [... H W 2], or its colours, uint8 [... H W 3], which keep their brightness and get the other hue.
    fix: False: only mirror it, as 360DVD's training does; then what moves to the right is said to move to the left.

  Returns:
    Of the same kind.

  Raises:
    ValueError: if it is neither.
  """
  flow = np.asarray(flow)
  if np.issubdtype(flow.dtype, np.floating) and flow.ndim >= 3 and flow.shape[-1] == 2:
    return mirrored(flow) * np.array([-1, 1], flow.dtype) if fix else mirrored(flow)
  colours = _checked(flow)
  if not fix:
    return mirrored(colours)
  flipped = np.empty_like(colours)
  for one, target in zip(_frames(colours), _frames(flipped), strict=True):
    hue, saturation, value = _hsv(mirrored(one))
    hue = _mirrored_hues()[(hue * _STEPS).astype(np.int32)]
    from_end = np.abs(hue - _wheel_hue(_hues_of_positions()[0][-1]))
    hue = np.where(from_end < _UNSURE / np.maximum(saturation * value, 0.5), _wheel_hue(0), hue)
    target[...] = np.ceil(cv2.cvtColor(cv2.merge([hue, saturation, value]), cv2.COLOR_HSV2RGB) - _BELOW)
  return flipped


def _encode(flow: np.ndarray, target: np.ndarray) -> None:
  """Some rows, float32 [h W 2] -> uint8 [h W 3], in the order and precision of the official code."""
  u, v = flow[..., 0], flow[..., 1]
  raised = np.power(np.sqrt(u * u + v * v) / FULL, _RAISED)
  u, v = (raised * component / (FULL + _EPSILON) for component in (u, v))
  speed = np.sqrt(u * u + v * v)
  position = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (_positions() - 1)
  before = np.floor(position).astype(np.int32)
  share = (position - before)[..., None]
  wheel, following = _wheel() / 255, np.roll(_wheel(), -1, axis=0) / 255
  colour = (1 - share) * wheel.take(before, axis=0) + share * following.take(before, axis=0)
  shown = np.where(speed[..., None] <= 1, 1 - speed[..., None] * (1 - colour), _FASTER * colour)
  target[...] = 255 - np.floor(255 * shown[..., ::-1])


def _positions() -> int:
  """Colours of the wheel."""
  return sum(_SEGMENTS)


@functools.cache
def _wheel() -> np.ndarray:
  """The Middlebury colour wheel, float64 [55 3] of 0 … 255: in each segment one channel rises to full or falls."""
  rising = [np.floor(255 * np.arange(count) / count) for count in _SEGMENTS]
  parts = []
  for number, ramp in enumerate(rising):
    part = np.zeros((len(ramp), 3))
    part[:, (number + 1) // 2 % 3] = 255                        # red, green, green, blue, blue, red
    part[:, (1 - number) % 3] = ramp if number % 2 == 0 else 255 - ramp
    parts.append(part)
  return np.concatenate(parts)


@functools.cache
def _hues_of_positions() -> tuple[np.ndarray, np.ndarray]:
  """The hue of every colour of the wheel in degrees, rising from 0, and its position; for np.interp in both directions.

  The wheel's ends, magenta and red, are one direction: hues between them are nearest to the end.
  """
  hues = cv2.cvtColor(np.float32(_wheel()[None] / 255), cv2.COLOR_RGB2HSV)[0, :, 0].astype(np.float64)
  return hues, np.arange(len(hues), dtype=np.float64)


@functools.cache
def _mirrored_hues() -> np.ndarray:
  """Hues of colours, in steps of 1 / _STEPS degree, to those with left and right exchanged: float32."""
  hues, positions = _hues_of_positions()
  turn = len(positions) - 1                                     # positions per turn: both ends are the same direction
  shown = (np.arange(360 * _STEPS + 1) + 0.5) / _STEPS
  position = np.interp(_wheel_hue(shown), hues, positions)
  return _wheel_hue(np.interp((turn / 2 - position) % turn, positions, hues)).astype(np.float32)


def _wheel_hue(hue: np.ndarray) -> np.ndarray:
  """The hue on the wheel of a colour, which is inverted and has red and blue exchanged; and the way back."""
  return (60 - hue) % 360


def _hsv(colours: np.ndarray) -> tuple[np.ndarray, ...]:
  """uint8 [H W 3] -> hue in degrees, saturation 0 … 1 and value 0 … 255, float32 [H W].

  Levels are whole numbers, rounded up: half a level less is what they were on average.
  """
  return cv2.split(cv2.cvtColor(np.maximum(np.float32(colours) - np.float32(0.5), 0), cv2.COLOR_RGB2HSV))


def _frames(colours: np.ndarray) -> np.ndarray:
  return colours.reshape(-1, *colours.shape[-3:])


def _checked(colours: np.ndarray) -> np.ndarray:
  colours = np.asarray(colours)
  if colours.dtype != np.uint8 or colours.ndim < 3 or colours.shape[-1] != 3:
    raise ValueError(f"flow is float [... H W 2], or colours, uint8 [... H W 3]; got {colours.dtype} "
                     f"{list(colours.shape)}")
  return colours
