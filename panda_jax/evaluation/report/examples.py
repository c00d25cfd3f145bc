"""Clips to look at: the worst and the best of each method beside the reference, and their seams."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from panda_jax.data.clips import TRUTH
from panda_jax.errors import InputError
from panda_jax.evaluation.report import media
from panda_jax.evaluation.report.markup import method_name, safe
from panda_jax.evaluation.report.series import Series

_BAR = ('<div class="bar"><button type="button">Play</button>'
        '<input type="range" min="0" max="1" step="any" value="0" aria-label="Time"></div>')


@dataclasses.dataclass
class Examples:
  """Clips for the page.

  Attributes:
    protocol: of the summary; what is scored of a video is what is shown.
    video_of: (method, clip id) to a video, or None.
    reference_of: clip id to the true panorama, or None.
    prompt_of: clip id to its prompt, or "".
    methods: their numbers, for colours.
    videos: what has been put into the page, base64 by name.
  """

  protocol: Mapping[str, Any]
  video_of: Callable[[str, str], Path | None]
  reference_of: Callable[[str], Path | None]
  prompt_of: Callable[[str], str]
  methods: Mapping[str, int]
  videos: dict[str, str] = dataclasses.field(default_factory=dict)
  _shown: dict[tuple[str | None, str], str] = dataclasses.field(default_factory=dict)

  def clips(self, series: Series, most: int) -> str:
    """HTML of the worst and the best clips of each method."""
    parts = []
    for method in self._made:
      figures = [self._figure(series, method, kind, clip, self._videos(method, clip), _BAR)
                 for kind, clip in series.extremes(method, most)]
      if figures:
        parts.append(self._of_method(method, "examples", figures))
    return "\n".join(parts)

  def seams(self, series: Series) -> str:
    """HTML of the seams of each method's worst and best clip."""
    parts = []
    for method in self._made:
      figures = [self._figure(series, method, kind, clip, self._seams(method, clip))
                 for kind, clip in series.extremes(method, 1)]
      if figures:
        parts.append(self._of_method(method, "seams", figures))
    return "\n".join(parts)

  @property
  def _made(self) -> list[str]:
    return [method for method in self.methods if method != TRUTH]

  def _of_method(self, method: str, kind: str, figures: list[str]) -> str:
    return f'<h3>{method_name(method, self.methods[method])}</h3>\n<div class="{kind}">' + "\n".join(figures) + "</div>"

  def _figure(self, series: Series, method: str, kind: str, clip: str, panes: str, below: str = "") -> str:
    metric = series.metric
    value = f"{safe(metric.title)} {metric.show(series.values[method][clip])} {safe(metric.unit)}".strip()
    prompt = self.prompt_of(clip)
    words = f'<p class="prompt">{safe(prompt)}</p>' if prompt else ""
    return (f'<figure><figcaption><b>{kind}</b> <bdi class="clip">{safe(clip)}</bdi> <span class="score">{value}</span>'
            f'{words}</figcaption>\n<div class="panes">{panes}</div>{below}</figure>')

  # Videos

  def _videos(self, method: str, clip: str) -> str:
    panes = self._video(method, method, clip, lambda: self.video_of(method, clip))
    if self._has_reference(clip):
      panes += self._video(None, "reference", clip, lambda: self.reference_of(clip))
    return panes

  def _video(self, method: str | None, label: str, clip: str, find: Callable[[], Path | None]) -> str:
    """A video and its label; each is put into the page once."""
    if (method, clip) not in self._shown:
      try:
        self._shown[method, clip] = self._embedded(media.small_video(_required(find()), self.protocol))
      except InputError as error:
        self._shown[method, clip] = _missing(error)
    return f'<div class="pane">{self._shown[method, clip]}<span class="label">{safe(label)}</span></div>'

  def _embedded(self, video: bytes) -> str:
    name = f"v{len(self.videos)}"
    self.videos[name] = media.base64_of(video)
    return f'<video data-video="{name}" muted playsinline preload="auto"></video>'

  def _has_reference(self, clip: str) -> bool:
    try:
      return self.reference_of(clip) is not None
    except InputError:                                # there are several: the pane says so
      return True

  # Seams

  def _seams(self, method: str, clip: str) -> str:
    try:
      seam, picture = media.find_seam(_required(self.video_of(method, clip)), self.protocol)
    except InputError as error:
      return f'<div class="pane">{_missing(error)}<span class="label">{safe(method)}</span></div>'
    north, south = (90 - 180 * row / seam.size[0] for row in (seam.top, seam.top + seam.rows))
    where = f"frame {seam.frame}, latitude {north:.0f}° to {south:.0f}°"
    panes = _picture(picture, method, f"seam of {clip}, {method}")
    if self._has_reference(clip):
      try:
        panes += _picture(media.cut_seam(_required(self.reference_of(clip)), seam), "reference",
                          f"seam of {clip}, reference")
      except InputError as error:
        panes += f'<div class="pane">{_missing(error)}<span class="label">reference</span></div>'
    return panes + f'<p class="where">{where}</p>'


def _picture(picture, label: str, words: str) -> str:
  data = media.base64_of(media.enlarged_png(picture))
  return (f'<div class="pane"><div class="seam"><img src="data:image/png;base64,{data}" alt="{safe(words)}"></div>'
          f'<span class="label">{safe(label)}</span></div>')


def _required(path: Path | None) -> Path:
  if path is None:
    raise InputError("there is no video of it any more")
  return path


def _missing(error: InputError) -> str:
  return f'<p class="missing">{safe(error)}</p>'
