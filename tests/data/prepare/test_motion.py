"""`panda prepare --flow` and `--flow-videos`: motion beside every frame, to the film's own next one, none over cuts."""

import json

import cv2
import numpy as np
import pytest

from panda_jax.data import prepare, video
from panda_jax.data.checks import check
from panda_jax.data.flow import DISFlow, Turn, decode_flow, draw_motion, encode_flow
from panda_jax.data.prepare import motion, plan, run, work
from panda_jax.data.records import dataset_info, decode_frame, decode_motion, open_records
from panda_jax.errors import InputError
from tests.data.made_clips import panorama, write
from tests.data.prepare.killing import digests
from tests.data.test_prepare import make_still, make_video, options, turning

SIZE = (64, 128)


def prepared(inputs, output, **changes):
  return prepare.prepare(inputs, output, options(**{"height": 64, "encoding": "png", "holdout": 0} | changes))


def motion_of(path, split="train") -> list[np.ndarray]:
  """The motion of every clip, [f H W 3]."""
  return [decode_motion(record, range(len(record["frames"]))) for record in open_records(path, split)]


def colours(frames) -> np.ndarray:
  """What the motion of consecutive frames should be."""
  return encode_flow(DISFlow()(np.stack(list(frames))), SIZE[1])


@pytest.fixture(scope="module")
def films(tmp_path_factory):
  """Two films that turn, and a photograph."""
  folder = tmp_path_factory.mktemp("films")
  make_video(folder / "beach.mp4", 24)
  make_video(folder / "wood.mp4", 30, seed=1)
  make_still(folder / "hall.jpg")
  return folder


def test_every_frame_has_its_motion_to_the_next_frame_of_the_film(films, tmp_path):
  """Also at the end of a clip whose film goes on; the film's last frame repeats the one before."""
  prepared([films / "beach.mp4"], tmp_path / "out", flow="dis", max_frames_per_clip=10)
  whole = colours(video.read_frames(films / "beach.mp4"))
  clips = motion_of(tmp_path / "out")
  assert [len(clip) for clip in clips] == [8, 8, 8]
  np.testing.assert_array_equal(np.concatenate(clips), whole)
  np.testing.assert_array_equal(whole[-1], whole[-2])
  about = dataset_info(tmp_path / "out")["about"]["motion"]
  assert (about["estimator"], about["preset"], about["step"]) == ("dis", "medium", "one frame of the source")
  assert json.loads((tmp_path / "out" / "manifest.json").read_text())["about"]["motion"] == about


@pytest.mark.parametrize("fps", [16, 8, 5])
def test_motion_is_of_one_step_of_the_film_however_many_frames_are_dropped(films, tmp_path, fps):
  prepared([films / "beach.mp4"], tmp_path / "out", flow="dis", fps=fps)
  whole, frames = (list(read) for read in (colours(video.read_frames(films / "beach.mp4")),
                                           video.read_frames(films / "beach.mp4")))
  stored, = motion_of(tmp_path / "out")
  record = open_records(tmp_path / "out", "train")[0]
  assert len(stored) == len(record["frames"]) == fps and record["fps"] == fps
  for data, found in zip(record["frames"], stored, strict=True):
    place = next(place for place, frame in enumerate(frames) if np.array_equal(decode_frame(data), frame))
    np.testing.assert_array_equal(found, whole[place])


def test_no_motion_goes_over_a_cut(tmp_path):
  frames = [*turning(panorama(seed=0), 20), *turning(panorama(seed=3)[::-1], 24)]
  film = write(tmp_path / "cut.mp4", frames)
  assert check(film).shots == [(0, 20), (20, 44)]
  prepared([film], tmp_path / "out", flow="dis")
  decoded = list(video.read_frames(film))
  first, second = motion_of(tmp_path / "out")
  np.testing.assert_array_equal(first, colours(decoded[:20]))
  np.testing.assert_array_equal(second, colours(decoded[20:]))


def test_the_turn_of_a_photograph_is_known(films, tmp_path):
  prepared([films / "hall.jpg"], tmp_path / "out", flow="dis")
  record = open_records(tmp_path / "out", "train")[0]
  frames = [decode_frame(data) for data in record["frames"]]
  step = next(step for step in range(1, 9) if np.array_equal(np.roll(frames[0], -step, axis=1), frames[1]))
  pan = draw_motion(64, SIZE, [Turn(yaw_deg=360 * step / SIZE[1])])
  np.testing.assert_allclose(decode_motion(record, range(64)).astype(int), encode_flow(pan, SIZE[1]), atol=1)


def test_interrupted_and_continued_or_shared_out_the_bytes_are_the_same(films, tmp_path, monkeypatch):
  monkeypatch.setattr(plan, "_FEWEST_FRAMES", 1)
  made = dict(flow="dis", encoding="jpeg", holdout=0.25)
  prepared([films], tmp_path / "whole", **made)
  with monkeypatch.context() as patch:
    calls = iter(range(9))
    patch.setattr(run, "write_unit", lambda *given: work.write_unit(*given) if next(calls) < 2 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
      prepared([films], tmp_path / "again", **made)
  with pytest.raises(InputError, match="unfinished work of a run with other options .flow dis instead of None"):
    prepared([films], tmp_path / "again", **made | {"flow": None})
  prepared([films], tmp_path / "again", **made)
  whole = digests(tmp_path / "whole")
  assert sum("array_record" in name for name in whole) == 6 and digests(tmp_path / "again") == whole
  prepare.prepare([films], tmp_path / "shared", options(height=64, **made), pool=prepare.Pool(2))
  monkeypatch.undo()                                  # units are planned here, not in the processes
  assert digests(tmp_path / "shared") == whole


def test_a_dataset_is_told_from_one_with_other_motion_or_none(films, tmp_path, monkeypatch):
  film = [films / "beach.mp4"]
  prepared(film, tmp_path / "out", flow="dis")
  assert prepared(film, tmp_path / "out", flow="dis").already
  for flow, said in ((None, "flow dis instead of None"), ("dis-symmetric", "flow dis instead of dis-symmetric")):
    with pytest.raises(InputError, match=f"made with other options .{said}"):
      prepared(film, tmp_path / "out", flow=flow)
  monkeypatch.setattr(DISFlow, "about", lambda self: {"preset": "better"})
  with pytest.raises(InputError, match="made with other options .dis with other settings"):
    prepared(film, tmp_path / "out", flow="dis")


def test_datasets_without_motion_know_nothing_of_it(films, tmp_path):
  prepared([films / "beach.mp4"], tmp_path / "out")
  for name in ("manifest.json", "metadata.json", "features.json", "dataset_info.json"):
    text = (tmp_path / "out" / name).read_text()
    assert "motion" not in text and '"flow' not in text
  record = open_records(tmp_path / "out", "train")[0]
  assert "motion" not in record
  with pytest.raises(InputError, match="'beach_000' has no motion: prepare its dataset again with --flow"):
    decode_motion(record, [0])


def test_your_own_network_goes_in_by_its_name(films, tmp_path, monkeypatch):
  (tmp_path / "flow_of_ours.py").write_text("""
import numpy as np
class Network:
  def about(self): return {"weights": 7}
  def __call__(self, frames): return np.broadcast_to(np.float32([2, -1]), (*frames.shape[:3], 2))
def broken(frames): return np.zeros(3)
""")
  monkeypatch.syspath_prepend(tmp_path)
  prepared([films / "beach.mp4"], tmp_path / "out", flow="flow_of_ours:Network")
  about = dataset_info(tmp_path / "out")["about"]["motion"]
  assert (about["estimator"], about["weights"]) == ("flow_of_ours:Network", 7)
  expected = encode_flow(np.full((24, *SIZE, 2), (2, -1), np.float32), SIZE[1])
  np.testing.assert_array_equal(motion_of(tmp_path / "out")[0], expected)
  with pytest.raises(InputError, match="^flow_of_ours:broken gave float64"):
    prepared([films / "beach.mp4"], tmp_path / "broken", flow="flow_of_ours:broken")


# Flow videos


def flow_video(path, count, size=SIZE, turn=3.0):
  """A film of the flow of a pan whose speed rises from frame to frame, in 360DVD's codec."""
  writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 24, size[::-1])
  for k in range(count):
    flow = np.full((*size, 2), (turn + k / 4, 0), np.float32)
    writer.write(encode_flow(flow)[..., ::-1])
  writer.release()
  return path


@pytest.fixture
def flows(films, tmp_path):
  (tmp_path / "flows").mkdir()
  flow_video(tmp_path / "flows" / "beach.mp4", 24)
  flow_video(tmp_path / "flows" / "wood.mp4", 29, size=(32, 64))       # one less is fine: the last one is repeated
  return tmp_path / "flows"


def test_flow_videos_are_taken_as_they_are(films, flows, tmp_path):
  """Frame by frame, resized; a photograph needs none."""
  result = prepared([films], tmp_path / "out", flow_videos=str(flows), fps=12)
  assert [entry["used"] for entry in result.manifest["files"]] == [True] * 3
  assert dataset_info(tmp_path / "out")["about"]["motion"]["estimator"] == "flow videos"
  for record in open_records(tmp_path / "out", "train"):
    name, found = record["id"].removesuffix("_000"), decode_motion(record, range(len(record["frames"])))
    if name == "hall":
      continue
    film = list(video.read_frames(flows / f"{name}.mp4", SIZE))
    np.testing.assert_array_equal(found, film[:2 * len(found):2])
    speeds = np.median(decode_flow(found)[..., 0], axis=(1, 2))
    np.testing.assert_allclose(speeds, 3 + np.arange(len(found)) / 2, atol=1)


def test_the_last_frame_of_a_flow_video_repeats_the_one_before(films, flows, tmp_path):
  prepared([films / "beach.mp4", films / "wood.mp4"], tmp_path / "out", flow_videos=str(flows))
  for record in open_records(tmp_path / "out", "train"):
    last, before = decode_motion(record, [-1, -2])
    np.testing.assert_array_equal(last, before)


@pytest.mark.parametrize("spoil, why", [
  (lambda flows: (flows / "beach.mp4").unlink(), "has no flow video: beach.mp4 is not in"),
  (lambda flows: flow_video(flows / "beach.mp4", 20), "has 24 frames, and its flow video 20"),
  (lambda flows: flow_video(flows / "beach.mp4", 24, size=(64, 96)), "has a flow video of 96x64"),
  (lambda flows: (flows / "beach.mp4").write_bytes(b"no film"), "has a flow video that cannot be read"),
  (lambda flows: write(flows / "beach.mp4", [255 - encode_flow(np.zeros((*SIZE, 2), np.float32))] * 24),
   "has a flow video in other colours than 360DVD's, in which no motion is black")])
def test_films_without_a_proper_flow_video_are_left_out_and_named(films, flows, tmp_path, spoil, why):
  spoil(flows)
  result = prepared([films], tmp_path / "out", flow_videos=str(flows))
  beach, hall, wood = result.manifest["files"]
  assert not beach["used"] and why in beach["why"] and hall["used"] and wood["used"]
  assert result.manifest["rules"]["no_flow"] == {
    "count": 1, "means": motion.RULES["no_flow"], "effect": "rejected",
    "example": {"file": beach["file"], "why": beach["why"]}}


def test_changed_flow_videos_are_other_inputs(films, flows, tmp_path):
  prepared([films], tmp_path / "out", flow_videos=str(flows))
  assert prepared([films], tmp_path / "out", flow_videos=str(flows)).already
  flow_video(flows / "wood.mp4", 30)
  with pytest.raises(InputError, match="made from other or older input files"):
    prepared([films], tmp_path / "out", flow_videos=str(flows))


def test_cubemaps_have_no_flow_video(flows):
  """Its flow would be of what the film was before it was converted."""
  verdict = check(flows / "beach.mp4")
  verdict.repairs = ["eac"]
  assert "is repaired (eac)" in motion.check_flow(flows / "beach.mp4", verdict).why


def test_flow_videos_that_cannot_be_meant_are_refused(films, flows, tmp_path):
  with pytest.raises(InputError, match="there is no folder"):
    prepared([films], tmp_path / "out", flow_videos=str(tmp_path / "nowhere"))
  (tmp_path / "empty").mkdir()
  with pytest.raises(InputError, match="has no flow video of any film: looked for beach.mp4"):
    prepared([films], tmp_path / "out", flow_videos=str(tmp_path / "empty"))
  with pytest.raises(InputError, match="is a flow video and part of the input, too"):
    prepared([films, flows], tmp_path / "out", flow_videos=str(flows))


@pytest.mark.parametrize("changes, said", [
  (dict(flow="dis", flow_videos="flows"), "give one of them"),
  (dict(flow="dis", store="crops"), "--flow is for --store pixels"),
  (dict(flow_videos="flows", flat=True), "--flow-videos is for --store pixels")])
def test_motion_is_for_whole_panoramas(changes, said):
  with pytest.raises(InputError, match=said):
    prepare.Options(**changes)
