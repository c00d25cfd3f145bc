"""Cameras from flags and tables: between rows, across the seam, of the cut square, and what is refused."""

import numpy as np
import pytest

from panda_jax.errors import InputError
from panda_jax.generate.camera_track import CameraTrack, camera_track
from panda_jax.geometry import Camera, crop_fov_deg

WIDE = (90, 160)


def table(tmp_path, text):
  path = tmp_path / "camera.csv"
  path.write_text(text, encoding="utf-8")
  return path


def at(track, frames, fps=8.0, size=WIDE):
  return track.cameras(frames, fps, size, unknown_fov_deg=90.0)


def test_nothing_said_is_no_track():
  assert camera_track() is None


def test_flags_hold_for_the_whole_clip():
  track = camera_track(fov_deg=70, pitch_deg=-10, yaw_deg=200, roll_deg=3)
  assert at(track, [0, 500], size=(50, 50)) == [Camera(200, -10, 70, 3)] * 2


def test_the_field_of_view_is_that_of_the_whole_picture_and_becomes_that_of_its_square():
  (camera,) = at(camera_track(fov_deg=106.26), [0], size=(75, 100))
  assert camera.fov_deg == pytest.approx(crop_fov_deg(106.26, (75, 100))) == pytest.approx(90, abs=0.01)
  assert at(camera_track(pitch_deg=5), [0])[0].fov_deg == 90.0        # nobody knows: the square is taken to be 90°


def test_a_table_is_linear_between_its_rows_and_constant_outside(tmp_path):
  track = camera_track(table(tmp_path, "frame,yaw_deg,pitch,FOV\n10,0,10,60\n20,40,10,80\n"))
  yaws = [camera.yaw_deg for camera in at(track, [0, 10, 15, 20, 99], size=(9, 9))]
  np.testing.assert_allclose(yaws, [0, 0, 20, 40, 40])
  assert [camera.fov_deg for camera in at(track, [0, 15, 99], size=(9, 9))] == [60, 70, 80]
  assert {camera.pitch_deg for camera in at(track, range(30))} == {10} and at(track, [3])[0].roll_deg == 0


def test_a_table_of_seconds_goes_by_the_clips_own_rate(tmp_path):
  track = camera_track(table(tmp_path, "time,pitch\n0,0\n2,20\n"))
  assert [camera.pitch_deg for camera in at(track, [0, 25, 50], fps=25)] == [0, 10, 20]
  with pytest.raises(ValueError, match="frame rate"):
    at(track, [0], fps=None)


def test_angles_take_the_shorter_way_round(tmp_path):
  """350 to 10 passes 0, not 180; so does the roll."""
  track = camera_track(table(tmp_path, "frame,yaw,roll\n0,350,170\n2,10,-170\n4,30,-170\n"))
  cameras = at(track, [1, 3])
  assert [camera.yaw_deg % 360 for camera in cameras] == [0, 20]
  assert [camera.roll_deg % 360 for camera in cameras] == [180, 190]


def test_flags_fill_in_what_the_table_has_no_column_for(tmp_path):
  path = table(tmp_path, "frame,yaw\n0,0\n10,10\n")
  track = camera_track(path, pitch_deg=30, fov_deg=80)
  assert at(track, [5], size=(1, 1)) == [Camera(5, 30, 80)]
  with pytest.raises(InputError, match="--yaw was given and .*camera.csv has a column yaw"):
    camera_track(path, yaw_deg=3)


def test_tables_of_spreadsheets_are_read(tmp_path):
  """A byte order mark, spaces, quotes, empty lines and Windows line ends."""
  path = tmp_path / "camera.csv"
  path.write_bytes("\ufeffTime, Yaw_deg\r\n0, \"5\"\r\n\r\n1, 6\r\n".encode())
  assert [camera.yaw_deg for camera in at(camera_track(path), [0, 8])] == [5, 6]


def test_a_camera_that_stands_still_is_a_track():
  assert at(CameraTrack.still(Camera(1, 2, 30, 4)), [7], size=(5, 5)) == [Camera(1, 2, 30, 4)]


@pytest.mark.parametrize("text, words", [
  ("", "is empty"),
  ("time,yaw\n", "has a header and no rows"),
  ("yaw,pitch\n0,1\n", "line 1: .* needs a column frame or a column time"),
  ("frame,time,yaw\n0,0,1\n", "line 1: .* and not both"),
  ("frame\n0\n", "line 1: there is no column of yaw"),
  ("frame,tilt\n0,1\n", "line 1, column 2: there is no column 'tilt'"),
  ("frame,yaw,yaw_deg\n0,1,1\n", "line 1, column 3: yaw is there twice"),
  ("frame,yaw\n0,1\n1\n", "line 3 has 1 cells and the header 2"),
  ("frame,yaw\n0,1\n\n1,east\n", "line 4, column yaw: 'east' is no number"),
  ("frame,yaw\n0,\n", "line 2, column yaw: '' is no number"),
  ("frame,yaw\n0,nan\n", "line 2, column yaw: nan is no angle"),
  ("frame,fov_deg\n0,190\n", "line 2, column fov_deg: 190 is no field of view"),
  ("time,yaw\n-1,0\n", "line 2, column time: -1 is no moment"),
  ("time,yaw\n1,0\n1,0\n", "line 3, column time: 1 does not come after 1"),
  ("frame,yaw\n0,\"1\n", "no CSV table"),
])
def test_a_wrong_table_is_refused_with_line_and_column(tmp_path, text, words):
  with pytest.raises(InputError, match=words) as refused:
    camera_track(table(tmp_path, text))
  assert "camera.csv" in str(refused.value) and "\n" not in str(refused.value)


def test_a_table_that_cannot_be_read_is_refused(tmp_path):
  with pytest.raises(InputError, match="nowhere.csv cannot be read"):
    camera_track(tmp_path / "nowhere.csv")
  (tmp_path / "film.csv").write_bytes(bytes(range(256)))
  with pytest.raises(InputError, match="film.csv is no CSV table"):
    camera_track(tmp_path / "film.csv")


@pytest.mark.parametrize("flags, words", [
  (dict(fov_deg=180), "--fov 180 is no field of view"), (dict(fov_deg=0), "--fov 0"), (dict(yaw_deg=float("nan")), "--yaw nan"),
])
def test_wrong_flags_are_refused(flags, words):
  with pytest.raises(InputError, match=words):
    camera_track(**flags)
