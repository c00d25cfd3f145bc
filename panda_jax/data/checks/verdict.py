"""The named rules, the numbers they use, and what a check says of a file."""

import dataclasses

from panda_jax.data.checks.edges import Seam

RULES = {
  "unreadable": "nothing of the file can be decoded: damaged, empty, or something else than its name says",
  "truncated": "the file decodes in part only: it is cut off or damaged further on",
  "missing": "the file does not exist",
  "duplicate": "the same file, or the same id, was given before",
  "too_large": "its frames have more pixels than any camera's: a damaged header, or a trap",
  "one_colour": "every frame shows one colour only",
  "flat": "no panorama: its left and right edges do not join, or its shape is none of a panorama's",
  "stored_16_9": "a 2:1 panorama that was stored as 16:9: resized",
  "eac": "an equi-angular cubemap (3x2 faces, as video sites store 360° films): converted",
  "stereo_top_bottom": "two panoramas, one above the other, for two eyes: the upper one is kept",
  "stereo_side_by_side": "two panoramas side by side for two eyes: the left one is kept",
  "half_sphere": "a 180° film: half of the sphere, for one eye or for two",
  "static": "nothing moves from the first frame to the last",
  "black": "most of its frames are black",
  "short": "it has fewer frames than a clip needs",
  "shot_change": "the film cuts from one shot to another: each becomes clips of its own",
  "letterbox": "black bars along the top and the bottom",
  "poles": "an even or unmoving patch covers the zenith or the nadir: a watermark, a logo, the camera's mount",
  "few_pixels": "it has so few rows that it is enlarged",
}
"""Every rule's name and what it means. `missing` and `duplicate` are found before a file is opened."""


@dataclasses.dataclass(frozen=True)
class Thresholds:
  """Every number that a rule uses. Levels are of 255; the modules that measure say what the numbers were chosen by.

  Attributes:
    most_pixels: too_large: width x height of a frame.
    seam_floor: flat: edges that differ by less join always, in levels.
    seam_sharpness: flat: edges join up to this multiple of the geometric mean of sharpness and variety.
    seam_variety: flat: and up to this share of how much the picture varies at all.
    stereo_difference: stereo: largest difference of the two halves, as a share of their difference when one is turned.
    stereo_detail: stereo: smallest correlation of the halves' details.
    stereo_variety: stereo: halves that vary by less say nothing, in levels.
    eac_difference: eac: largest difference across the faces' edges, as a share of that of pixels far apart.
    eac_variety: eac: edges that vary by less say nothing, in levels.
    empty_share: half_sphere: smallest share of the width that is of one colour from top to bottom.
    static_level: static: what counts as a change of a cell of 1/64 x 1/32 of the frame, in levels.
    static_noise: static: and as a multiple of the cells' noise from frame to frame.
    static_share: static: largest share of the cells that may change.
    black_level: black and letterbox: brightest luma that is black, in levels.
    black_share: black: largest share of the frames that may be black.
    short: short and shot_change: fewest frames of a shot.
    cut_level: shot_change: smallest change from one frame to the next, in levels.
    cut_ratio: shot_change: and as a multiple of the fourth largest change among the eight frames before and after.
    cut_return: shot_change: a picture is back after a flash if it differs by less than this share of the change.
    black_run: shot_change: fewest black frames that end a shot.
    letterbox_share: letterbox: smallest height of each bar, as a share of the frame's.
    pole_share: poles: smallest height of an even patch, as a share of the frame's (0.03 is 5.4 degrees).
    pole_edge: poles: smallest step at the patch's border, in levels.
    few_pixels: few_pixels: fewest rows of the panorama.
  """

  most_pixels: int = 16384 * 8192
  seam_floor: float = 2.0
  seam_sharpness: float = 1.1
  seam_variety: float = 0.47
  stereo_difference: float = 0.45
  stereo_detail: float = 0.7
  stereo_variety: float = 3.0
  eac_difference: float = 0.6
  eac_variety: float = 4.0
  empty_share: float = 0.4
  static_level: float = 4.0
  static_noise: float = 8.0
  static_share: float = 0.001
  black_level: float = 20.0
  black_share: float = 0.5
  short: int = 16
  cut_level: float = 5.0
  cut_ratio: float = 3.0
  cut_return: float = 0.5
  black_run: int = 3
  letterbox_share: float = 0.02
  pole_share: float = 0.03
  pole_edge: float = 16.0
  few_pixels: int = 256


@dataclasses.dataclass(frozen=True)
class Finding:
  """A rule that fired: its name, what comes of it, and a clause that follows the file's name."""

  rule: str
  effect: str                                         # "rejected", "repaired", "split" or "reported"
  why: str


@dataclasses.dataclass
class Verdict:
  """What a look at one file, or a span of one, said.

  Attributes:
    path: the file.
    kind: "video" or "still".
    ok: it can go into a dataset.
    verdict: what it is taken for, in a word or two.
    why: why it is left out, or what was done to it: a clause that follows the file's name, empty for a plain panorama.
    width, height: of the file's frames, in pixels.
    fps: frames per second; None for a still.
    frames: decoded frames of the span; a header's count is not to be trusted.
    first: index in the file of the span's first frame.
    start, end: the span in seconds; `end` None: to the end of the file.
    seam: how the edges of what is kept join, where that was measured.
    findings: every rule that fired.
    repairs: what `repairs.frames` does, in order: "eac", "top_half", "left_half", "resize".
    shots: frames [start, stop) that may become clips, relative to `first`; empty if not ok.
  """

  path: str
  kind: str
  ok: bool = False
  verdict: str = "broken"
  why: str = ""
  width: int = 0
  height: int = 0
  fps: float | None = None
  frames: int = 0
  first: int = 0
  start: float = 0.0
  end: float | None = None
  seam: Seam | None = None
  findings: list[Finding] = dataclasses.field(default_factory=list)
  repairs: list[str] = dataclasses.field(default_factory=list)
  shots: list[tuple[int, int]] = dataclasses.field(default_factory=list)

  def to_json(self) -> dict:
    """As plain dicts, lists and numbers."""
    return dataclasses.asdict(self) | {"shots": [list(shot) for shot in self.shots]}

  @classmethod
  def from_json(cls, data: dict) -> "Verdict":
    """What `to_json` gave."""
    return cls(**data | {
      "seam": data["seam"] and Seam(**data["seam"]),
      "findings": [Finding(**finding) for finding in data["findings"]],
      "shots": [tuple(shot) for shot in data["shots"]],
    })
