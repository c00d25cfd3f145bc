"""The seam in the report's close-ups: in the middle, enlarged, and where it is worst."""

import base64
import io
import re

import numpy as np
from PIL import Image

from panda_jax.data.video import write_video
from panda_jax.evaluation.report import media, write_report
from tests.evaluation.report.made_up import evaluation, panorama
from tests.evaluation.report.reading import Page


def steps(picture):
  """Mean difference of neighbouring columns."""
  return np.abs(np.diff(picture.astype(int), axis=1)).mean((0, 2))


def test_the_seam_is_in_the_middle_and_the_reference_has_none(tmp_path):
  made = evaluation(tmp_path, ("ours",), 2)
  write_report(tmp_path / "report.html", *made.arguments)
  section = Page((tmp_path / "report.html").read_text("utf-8")).section("seams")
  pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
              for data in re.findall(r'src="data:image/png;base64,([^"]+)"', section.content)]
  assert len(pictures) == 4, "of the worst and of the best clip, each beside the reference"
  for ours, truth in zip(pictures[::2], pictures[1::2]):
    assert ours.shape == truth.shape == (4 * 64, 4 * 72, 3)
    np.testing.assert_array_equal(ours, ours[::4, ::4].repeat(4, 0).repeat(4, 1))          # every pixel is a square
    small, true = ours[::4, ::4], truth[::4, ::4]
    assert steps(small).argmax() == 35 and steps(small)[35] > 30
    assert steps(true)[35] < 3 * np.median(steps(true))


def test_columns_left_of_the_seam_are_the_right_edge():
  frame = np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3)
  picture = media.cut(frame, media.Seam((8, 16), 0, 2, 4, 6))
  np.testing.assert_array_equal(picture, np.roll(frame, 8, axis=1)[2:6, 5:11])


def test_it_looks_where_the_step_is_largest_and_at_the_scored_size(tmp_path):
  """A seam in the lower part alone; the file is twice as large as what is scored."""
  frame = panorama(size=(256, 512))
  frame[180:220, :4] = 255
  frame[180:220, -4:] = 0
  write_video(tmp_path / "a.mp4", [frame] * 8, 8)
  seam, picture = media.find_seam(tmp_path / "a.mp4", {"frames": 6, "start": 1, "stride": 1, "height": 128})
  assert seam.size == (128, 256) and seam.frame == 4 and seam.top <= 90 and seam.top + seam.rows >= 110
  assert picture.shape == (64, 72, 3)
  write_video(tmp_path / "b.mp4", [panorama(size=(64, 128))] * 8, 8)
  assert media.cut_seam(tmp_path / "b.mp4", seam).shape == picture.shape


def test_what_is_shown_is_what_is_scored():
  span = media.span_of
  assert span({"frames": 16, "start": 2, "stride": 3}, 24) == media.Span(2, 3, 16)
  assert span({"frames": 16, "start": 2, "fps": 4.0}, 24) == media.Span(12, 1, 96), "all frames of the same seconds"
  assert span({"frames": 16, "fps": 1.0}, 30) == media.Span(0, 4, 120), "thinned, for the same seconds"
  assert span({}, 30) == media.Span(0, 1, media.MOST_FRAMES)
