"""A folder of videos from a table of clips: the same however it is shared out or interrupted; failures are named."""

import csv
import hashlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from panda_jax.data.clips import Clip, find_video
from panda_jax.data.video import probe, read_frames, resize, write_video
from panda_jax.errors import InputError
from panda_jax.evaluation.metrics import psnr
from panda_jax.generate.batch import (Given, Job, Outcome, check_clips, check_model, clip_seed, make_clips,
                                      write_failures)
from panda_jax.generate.segments import CannotWrite, GrowingVideo
from panda_jax.generate.spherical import spherical_metadata
from panda_jax.generate.windows import Generator, Request, Settings
from panda_jax.geometry import Camera, project, to_uint8
from tests.generate.toy import Counting

HEIGHT = 64                                            # x264 does not give noise of 32 rows the same bytes every time
SETTINGS = Settings(steps=1, text_guidance=3.0, video_guidance=1.0, frames=4, view_sigma=0.0, row_sigma=0.1,
                    panorama_height=HEIGHT)
VIEW, FPS, FRAMES = 16, 8.0, 7                         # 2 windows
MODEL = {"the set of weights": "sha256:1"}


class Seeing(Counting):
  """Shows what it is given as it is, and its noise everywhere else."""

  def __init__(self, **options):
    super().__init__(**options)
    self.view_size = VIEW, VIEW

  def encode_images(self, params, images):
    return images.astype(jnp.float32)

  def sample_latents(self, params, given, request, rng, **options):
    noise = jax.random.uniform(rng, given.shape) * 60 + request["text"][:, 0][:, None, None, None, None, None]
    return jnp.where(request["mask"][..., None, None, None] > 0, given, noise)

  def decode(self, params, latents):
    return jnp.round(latents).astype(jnp.uint8)


def model(**options):
  said = []
  return types.SimpleNamespace(generate=Generator(Seeing(**options), {"start": np.float32(0)}, SETTINGS, said.append),
                               said=said)


@pytest.fixture(scope="module")
def shared():
  """One model for all tests, so that its two programs are compiled once: by a prompt, and from a given view."""
  return model()


@pytest.fixture(scope="module")
def films(tmp_path_factory):
  """Panoramas of smooth clouds that drift, 20 frames: at 8 and at 16 per second."""
  folder = tmp_path_factory.mktemp("films")
  x, y = np.meshgrid(np.linspace(0, 2 * np.pi, 96, endpoint=False), np.linspace(0, np.pi, 48))
  for number, fps in enumerate((8, 16)):
    def frame(time):
      waves = [np.sin((k + 1) * x + (2 - k) * y + 0.5 * time + number + k) for k in range(3)]
      return (100 + 60 * np.stack(waves, -1) * np.sin(y)[..., None]).astype(np.uint8)
    write_video(folder / f"film{number}.mp4", map(frame, range(20)), fps, crf=4)
  write_video(folder / "square.mp4", [np.zeros((32, 32, 3), np.uint8)] * 20, 8)
  write_video(folder / "short.mp4", [np.full((32, 64, 3), 9, np.uint8)] * 6, 8)
  data = (folder / "film0.mp4").read_bytes()
  (folder / "damaged.mp4").write_bytes(data[:len(data) // 2])
  return folder


def batch(shared, clips, folder, **options):
  """The outcomes by the clips' ids."""
  folder.mkdir(exist_ok=True)
  outcomes = make_clips(shared.generate, clips, Job(folder, MODEL, FRAMES, FPS, **options), shared.said.append)
  return {outcome.clip.id: outcome for outcome in outcomes}


def prompts(*names):
  return [Clip(name, f"a {name}") for name in names]


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- what is made


def test_a_clip_is_the_same_alone_in_any_order_and_in_any_shard(shared, tmp_path):
  clips = prompts("sea", "argus::land", "sky")
  made = batch(shared, clips, tmp_path / "all")
  batch(shared, clips[1:2], tmp_path / "alone")
  for index in range(2):
    batch(shared, clips[::-1][index::2], tmp_path / "shards")
  whole = contents(tmp_path / "all")
  assert sorted(whole) == ["argus__land.mp4", "sea.mp4", "sky.mp4"] and len(set(whole.values())) == 3
  assert contents(tmp_path / "shards") == whole
  assert contents(tmp_path / "alone") == {"argus__land.mp4": whole["argus__land.mp4"]}
  assert list(made["argus::land"].paths) == [find_video(tmp_path / "all", "argus::land")]
  info = probe(tmp_path / "all/sea.mp4")
  assert (info.frames, info.fps, info.height) == (FRAMES, FPS, HEIGHT)
  assert set(spherical_metadata(tmp_path / "all/sea.mp4")) == {"v1", "v2"}


def test_a_clip_is_what_its_own_seed_gives(shared, tmp_path):
  (clip,) = prompts("sea")
  batch(shared, [clip], tmp_path, seed=3)
  seed = int(hashlib.sha256(b"3 sea").hexdigest()[:8], 16)
  assert seed == clip_seed(3, clip) not in (clip_seed(4, clip), clip_seed(3, Clip("sea2")))
  alone = list(shared.generate(Request(clip.prompt, FRAMES, seed=seed)))
  write_video(tmp_path / "alone.mp4", alone, FPS)
  one, other = (np.stack(list(read_frames(tmp_path / name))).astype(int) for name in ("sea.mp4", "alone.mp4"))
  assert np.abs(one - other).mean() < 2                # encoded in two parts
  others = np.stack(list(shared.generate(Request(clip.prompt, FRAMES, seed=seed + 1))))
  assert np.abs(others.astype(int) - alone).mean() > 8


def test_all_clips_share_one_program(films, tmp_path):
  """Of different prompts, videos of different rates and lengths, cameras that stand still."""
  own = model()
  clips = [Clip("a", "short", films / "film0.mp4"), Clip("b", "a much longer prompt", films / "film1.mp4"),
           Clip("c", "", films / "film0.mp4")]
  assert not any(outcome.failure for outcome in batch(own, clips, tmp_path, given=Given(Camera(90, 0))).values())
  assert sum(line.startswith("compiled") for line in own.said) == 1


def seen(frames, camera):
  """The middle of what a camera sees, away from the border where views are blended."""
  return to_uint8(project(np.stack([resize(frame, (48, 96)) for frame in frames]), camera, (VIEW, VIEW)))[:, 3:-3, 3:-3]


@pytest.mark.parametrize("film, own_view, camera", [
  ("film0.mp4", False, Camera(0, 0)), ("film1.mp4", False, Camera(90, 0)), ("film1.mp4", True, Camera(-60, 25, 75, 10)),
])
def test_the_given_view_lies_where_and_when_it_was_cut_out(shared, films, tmp_path, film, own_view, camera):
  own = model(own_view=True) if own_view else shared
  outcome = batch(own, [Clip("a", "", films / film)], tmp_path, given=Given(camera, 40))["a"]
  assert not outcome.failure
  made, truth = list(read_frames(outcome.paths[0])), list(read_frames(films / film))
  step = round(probe(films / film).fps / FPS)
  given = seen(made, camera)
  right = psnr(given, seen(truth[::step][:FRAMES], camera))
  later = psnr(given, seen(truth[step::step][:FRAMES], camera))
  beside = psnr(given, seen(truth[::step][:FRAMES], Camera(camera.yaw_deg + 15, camera.pitch_deg, camera.fov_deg)))
  assert right > 28 and right > later + 6 and right > beside + 6, (right, later, beside)


def test_views_are_written_too(shared, tmp_path):
  outcome = batch(shared, prompts("sea"), tmp_path, views=True)["sea"]
  assert [path.name for path in outcome.paths] == ["sea.mp4", "sea_views.mp4"]
  info = probe(tmp_path / "sea_views.mp4")
  assert (info.height, info.width, info.frames, info.fps) == (VIEW, 6 * VIEW, FRAMES, FPS)


# --- again


def test_after_an_interruption_finished_clips_are_kept_and_the_one_under_way_goes_on(shared, tmp_path, monkeypatch):
  clips = prompts("sea", "land", "sky")
  batch(shared, clips, tmp_path / "straight")
  add, added = GrowingVideo.add, []

  def interrupted(self, frames, row):
    if len(added) == 3:                                # in the middle of the second clip
      raise KeyboardInterrupt
    added.append(1)
    add(self, frames, row)

  monkeypatch.setattr(GrowingVideo, "add", interrupted)
  with pytest.raises(KeyboardInterrupt):
    batch(shared, clips, tmp_path / "stopped")
  monkeypatch.setattr(GrowingVideo, "add", lambda self, frames, row: added.append(1) or add(self, frames, row))
  made = batch(shared, clips, tmp_path / "stopped")
  assert [outcome.kept for outcome in made.values()] == [True, False, False] and len(added) == 3 + 1 + 2
  assert shared.said[-1] == "clip land: 1 of 2 windows are there, going on"
  assert contents(tmp_path / "stopped") == contents(tmp_path / "straight")


def test_a_video_of_another_request_is_refused_by_name_until_overwritten(shared, films, tmp_path):
  clips = [Clip("sea", "a sea", films / "film0.mp4"), Clip("land", "a land", films / "film0.mp4")]
  batch(shared, clips[:1], tmp_path)
  changes = [dict(seed=1), dict(given=Given(Camera(0, 0)))]
  for change in changes:
    made = batch(shared, clips, tmp_path, **change, overwrite=False)
    assert "sea.mp4 is from another request" in made["sea"].failure and "--overwrite" in made["sea"].failure
    (tmp_path / "land.mp4").unlink()
  made = batch(shared, clips, tmp_path, given=Given(Camera(0, 0)), overwrite=True)
  assert not made["sea"].failure and not made["sea"].kept
  again = batch(shared, clips, tmp_path, given=Given(Camera(0, 0), panorama_height=24))
  assert "the given view was 'cut out of the video', is now" in again["sea"].failure


# --- what cannot be made


def test_a_clip_that_fails_is_named_and_the_others_are_made(shared, films, tmp_path):
  clips = [Clip("gone", "a", films / "gone.mp4"), Clip("damaged", "a", films / "damaged.mp4"),
           Clip("short", "a", films / "short.mp4"), Clip("square", "a", films / "square.mp4"),
           Clip("novideo", "a"), Clip("good", "", films / "film0.mp4")]
  made = batch(shared, clips, tmp_path, given=Given(Camera(0, 0)))
  reasons = {name: outcome.failure for name, outcome in made.items()}
  assert "no video file" in reasons["gone"] and "damaged.mp4" in reasons["damaged"]
  assert "short.mp4 gives 6 frames at 8 per second, 7 are to be made" in reasons["short"]
  assert "32x32, not 2:1" in reasons["square"] and "no video to take the given view from" in reasons["novideo"]
  assert reasons["good"] == "" and sorted(contents(tmp_path)) == ["good.mp4"]
  made = batch(shared, [Clip("film", "", films / "film0.mp4"), *prompts("sea")], tmp_path)
  assert "no prompt" in made["film"].failure and made["sea"].failure == ""


def test_failures_are_written_as_a_table_and_its_end_is_no_file(tmp_path):
  outcomes = [Outcome(Clip("a")), Outcome(Clip("b::1"), failure='it has no "prompt", none')]
  write_failures(tmp_path / "failed.csv", outcomes)
  with open(tmp_path / "failed.csv", newline="", encoding="utf-8") as file:
    assert list(csv.reader(file)) == [["clip_id", "failure"], ["b::1", 'it has no "prompt", none']]
  write_failures(tmp_path / "failed.csv", outcomes[:1])
  write_failures(tmp_path / "failed.csv", [])
  assert not list(tmp_path.iterdir())


def test_a_full_disk_ends_the_batch(shared, tmp_path, monkeypatch):
  """Sampling every other clip in vain would take hours."""
  def full(self, frames, row):
    raise CannotWrite("no space left")
  monkeypatch.setattr(GrowingVideo, "add", full)
  with pytest.raises(CannotWrite):
    batch(shared, prompts("sea", "land"), tmp_path)


@pytest.mark.parametrize("clips, given, words", [
  ([Clip("a", video="a.mp4")], False, "no clip of t.csv has a prompt: give --given view"),
  ([Clip("a"), Clip("b")], False, "no clip of t.csv has a prompt: give the table a column prompt"),
  ([Clip("a", "text")], True, "no clip of t.csv has a video .*column video_path"),
  ([Clip("a", "text"), Clip("a_views", "text")], False, "a_views.mp4 holds the views of the former"),
])
def test_tables_of_which_nothing_can_be_made_are_refused_at_once(clips, given, words):
  with pytest.raises(InputError, match=words):
    check_clips(clips, given, "t.csv")
  check_clips([Clip("a", "text"), Clip("b", "", "b.mp4")], given, "t.csv")


def test_what_the_model_can_make_of_no_clip_is_refused_at_once(shared, tmp_path):
  check_model(shared.generate, Job(tmp_path, MODEL, FRAMES, FPS, given=Given(Camera(90, 0))))
  with pytest.raises(InputError, match="a pitch of 20°"):
    check_model(shared.generate, Job(tmp_path, MODEL, FRAMES, FPS, given=Given(Camera(0, 20))))
