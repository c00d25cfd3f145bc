"""What is said of a dataset is what is in it, whoever made it and however it is stored."""

import json

import ml_dtypes
import numpy as np
import pytest

from panda_jax.data import inspecting, prepare
from panda_jax.data.inspecting import draw_sheet, inspect
from panda_jax.data.records import Clip, write_records
from panda_jax.data.stores import Crops, TurnedViews
from panda_jax.errors import InputError
from panda_jax.geometry import Camera, Rig, cubemap_rig

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (30, 200, 200), (200, 30, 200)]


def clip(name, frames=16, fps=8.0, caption="a 360 degree video", colour=COLOURS[0]):
  return Clip(name, caption, fps, [np.full((16, 32, 3), colour, np.uint8)] * frames)


def clips():
  return {
    "train": [clip(f"t{k}", 16 + 8 * k, caption=f"clip {'very ' * k}fine", colour=colour)
              for k, colour in enumerate(COLOURS[:4])],
    "validation": [clip("v0", 20, 25.0, colour=COLOURS[4]), clip("v1", 20, 29.97, colour=COLOURS[5])],
  }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  path = tmp_path_factory.mktemp("inspect") / "clips"
  write_records(path, clips(), "png", metadata={"made": "here"})
  return path


def shows(sheet, colour, least=1000):
  return np.count_nonzero(np.abs(sheet.astype(int) - colour).max(-1) < 6) >= least


class Means:
  """Latents that are the means of the views' pixels, four numbers each; the last is their log-variance."""

  name, views = "latents", 6

  def __init__(self):
    self._turned = TurnedViews(cubemap_rig(), (8, 8), 1)

  def about(self):
    return {"store": "latents", **self._turned.about(), "flips": False, "shape": [2, 2, 4], "dtype": "bfloat16",
            "codec": {"kind": "means"}, "codec weights": "sums:0123456789abcdef", "scaled": False, "text": None}

  def variants(self, clip_id, caption):
    return self._turned.variants(clip_id)

  def images(self, frames, variants):
    for view in self._turned(frames, variants):
      latents = np.full((2, 2, 4), -9, ml_dtypes.bfloat16)
      latents[..., :3] = view.reshape(2, 4, 2, 4, 3).mean((1, 3))
      yield latents.tobytes()

  def text(self, caption):
    return b""


class WholeMeans(Means):
  """The same of whole panoramas, which have no rig."""

  name, views = "panorama_latents", 1

  def about(self):
    return {key: value for key, value in super().about().items() if key not in ("rig", "view_size", "yaws")} | {
      "shape": [2, 4, 4]}

  def images(self, frames, variants):
    for frame in frames:
      latents = np.full((2, 4, 4), -9, ml_dtypes.bfloat16)
      latents[..., :3] = frame.reshape(2, 8, 4, 8, 3).mean((1, 3))
      yield latents.tobytes()


@pytest.fixture(scope="module")
def crops(dataset):
  path = dataset.with_name("crops")
  options = prepare.Options(height=16, store="crops", rig="cubemap", view_size=16, yaws=2)
  prepare.prepare([dataset], path, options, store=Crops(cubemap_rig(), (16, 16), 2))
  return path


@pytest.fixture(scope="module")
def latents(dataset):
  path = dataset.with_name("latents")
  prepare.prepare([dataset], path, prepare.Options(height=16, store="latents", model="means"), store=Means())
  return path


def test_clips_frames_and_durations_are_counted_by_split(dataset):
  train, validation = (inspect(dataset)["splits"][name] for name in ("train", "validation"))
  assert (train["clips"], train["frames"], train["seconds"], train["shortest"]) == (4, 112, 14.0, "t0")
  assert train["clip_frames"] == {"min": 16, "median": 28.0, "max": 40}
  assert train["clip_seconds"] == {"min": 2.0, "median": 3.5, "max": 5.0}
  assert validation["fps"] == [{"fps": 25.0, "clips": 1}, {"fps": 29.97, "clips": 1}]
  assert train["bytes"] == sum(file.stat().st_size for file in dataset.glob("clips-train.array_record*")) > 1000


def test_captions_are_measured_in_words(dataset):
  assert inspect(dataset)["captions"] == {
    "words": {"min": 2, "median": 4.0, "max": 5}, "distinct": 5, "default": 2,
    "shortest": ["clip fine", "clip very fine", "a 360 degree video"]}


def test_one_split_can_be_looked_at_alone(dataset):
  about = inspect(dataset, "validation")
  assert list(about["splits"]) == ["validation"] and about["captions"]["distinct"] == 1
  with pytest.raises(InputError, match="has no split 'test': it has train, validation"):
    inspect(dataset, "test")


def test_every_clip_is_read_once_and_reported(dataset):
  read = []

  class Progress:
    def __init__(self, description, total):
      self.total = total

    def __enter__(self):
      return lambda n=1, note=None: read.append(n)

    def __exit__(self, *error):
      assert self.total == sum(read) == 6

  inspect(dataset, progress=Progress)
  assert read == [1] * 6


def test_a_dataset_without_a_manifest_has_no_sources_and_says_what_it_says(dataset):
  about = inspect(dataset)
  assert about["sources"] is None and about["rules"] is None and about["metadata"] == {"made": "here"}


def test_what_it_returns_is_json(dataset, crops):
  for path in (dataset, crops):
    assert json.loads(json.dumps(inspect(path))) == inspect(path)


def test_stores_are_counted_in_frames_of_clips_and_name_their_rig(dataset, crops, latents):
  pixels = inspect(dataset)["splits"]
  for path, variants in ((crops, 2), (latents, 1)):
    about = inspect(path)
    assert about["rig"] == "cubemap" and about["sources"]["made_of"] == str(dataset)
    for name, split in about["splits"].items():
      assert split["variants"] == {"min": variants, "median": variants, "max": variants}
      assert all(split[key] == pixels[name][key] for key in ("clips", "frames", "seconds", "clip_frames", "shortest"))
      assert split["bytes"] == sum(file.stat().st_size for file in path.glob(f"*-{name}.array_record*"))


def test_a_rig_without_a_name_is_counted():
  rig = Rig((Camera(0, 0), Camera(90, 0)))
  assert inspecting._name_of_rig(Crops(rig, (8, 8)).about()["rig"]) == "2 cameras"
  rig = Rig(tuple(Camera(360 * k / 5, 0, 90) for k in range(5)))
  assert inspecting._name_of_rig(Crops(rig, (8, 8)).about()["rig"]) == "horizontal5"


def manifest(**changes):
  files = [{"file": "a.mp4", "used": True, "kind": "video", "verdict": "panorama", "why": "", "size": [512, 1024],
            "fps": 30.0, "frames": 90, "caption": "a", "clips": {"train": ["a_000"]}},
           {"file": "b.mp4", "used": False, "kind": "video", "verdict": "flat", "why": "is a film", "size": [512, 1024],
            "fps": 30.0, "frames": 90},
           {"file": "c.jpg", "used": False, "kind": "still", "verdict": "broken", "why": "cannot be read",
            "size": [0, 0], "fps": None, "frames": 0}]
  return {"inputs": [{"file": "/x/a.mp4"}] * 3, "options": {}, "files": files} | changes


@pytest.fixture
def prepared(tmp_path):
  write_records(tmp_path / "clips", {"train": [clip("a_000", 12)] * 1})
  return tmp_path / "clips"


def test_an_older_manifest_has_sources_but_no_rules(prepared):
  (prepared / "manifest.json").write_text(json.dumps(manifest()))
  about = inspect(prepared)
  assert about["rules"] is None and about["sources"] == {
    "files": 3, "used": 1, "skipped": 2, "made_of": None, "kinds": {"video": 2, "still": 1},
    "verdicts": {"panorama": 1, "flat": 1, "broken": 1},
    "resolutions": [{"width": 0, "height": 0, "used": 0, "skipped": 1},
                    {"width": 1024, "height": 512, "used": 1, "skipped": 1}]}


def test_rules_are_told_with_their_count_and_an_example(prepared):
  example = {"file": "b.mp4", "why": "is a film"}
  rules = {"flat": {"count": 1, "means": "no panorama", "effect": "rejected", "example": example},
           "eac": {"count": 0, "means": "a cubemap"}}
  (prepared / "manifest.json").write_text(json.dumps(manifest(rules=rules)))
  assert inspect(prepared)["rules"] == {
    "flat": rules["flat"], "eac": {"count": 0, "means": "a cubemap", "effect": None, "example": None}}


@pytest.mark.parametrize("text", ["", "[]", "{}", "{\"files\": [{}]}", "nonsense"])
def test_a_manifest_that_is_damaged_is_said_to_be(prepared, text):
  (prepared / "manifest.json").write_text(text)
  with pytest.raises(InputError, match=r"manifest.json (cannot be read|is not what panda prepare).*copy it again"):
    inspect(prepared)


def test_what_is_wrong_for_training_is_said(tmp_path, dataset, prepared):
  """Short clips, a missing split, captions that are all the same; nothing of a good dataset."""
  assert inspect(dataset)["warnings"] == []
  (prepared / "manifest.json").write_text(json.dumps(manifest()))
  short, missing, skipped = inspect(prepared)["warnings"]
  assert "'train' has clips of fewer than 16 frames, the shortest is 'a_000' with 12" in short
  assert "no split 'validation'" in missing and "2 of 3 files were skipped" in skipped
  write_records(tmp_path / "same", {"validation": [clip("a"), clip("b")]})
  missing, same = inspect(tmp_path / "same")["warnings"]
  assert "no split 'train'" in missing and "all 2 captions are 'a 360 degree video'" in same


def test_a_sheet_of_all_clips_shows_each_of_them(dataset, crops, latents):
  for path in (dataset, crops):
    sheet = draw_sheet(path, count=20, width=800)
    assert sheet.dtype == np.uint8 and sheet.shape[1:] == (800, 3)
    assert all(shows(sheet, colour) for colour in COLOURS)
  decoded = draw_sheet(latents, count=20, decode=lambda x: x[..., :3].astype(np.uint8), width=800)
  assert all(shows(decoded, colour) for colour in COLOURS)


def test_latents_of_whole_panoramas_are_drawn_side_by_side(dataset, tmp_path):
  options = prepare.Options(height=16, store="panorama_latents", model="means")
  prepare.prepare([dataset], tmp_path / "whole", options, store=WholeMeans())
  assert inspect(tmp_path / "whole")["rig"] is None
  decode = lambda latents: latents[..., :3].astype(np.uint8)
  sheet, panoramas = draw_sheet(tmp_path / "whole", decode=decode, width=800), draw_sheet(dataset, width=800)
  assert len(sheet) - len(panoramas) < 40                  # one more line of text, and that is all
  assert all(shows(sheet, colour) for colour in COLOURS)


def test_clips_are_drawn_without_replacement_by_the_seed(dataset):
  sheets = [draw_sheet(dataset, count=3, seed=seed, width=600) for seed in (0, 0, 1)]
  shown = [[colour for colour in COLOURS if shows(sheet, colour)] for sheet in sheets]
  assert np.array_equal(sheets[0], sheets[1]) and shown[0] != shown[2]
  assert [len(colours) for colours in shown] == [3, 3, 3]


def test_a_sheet_of_a_split_shows_no_other(dataset):
  sheet = draw_sheet(dataset, "validation", width=600)
  assert [colour for colour in COLOURS if shows(sheet, colour)] == COLOURS[4:]


def test_it_is_the_middle_frame_that_is_shown(tmp_path):
  frames = [np.full((16, 32, 3), COLOURS[k == 8], np.uint8) for k in range(16)]
  write_records(tmp_path / "clips", {"train": [Clip("a", "a", 8.0, frames)]}, "png")
  sheet = draw_sheet(tmp_path / "clips", width=600)
  assert shows(sheet, COLOURS[1]) and not shows(sheet, COLOURS[0], 1)


def test_latents_without_a_model_are_shown_in_false_colours(latents):
  """Only the first three channels count, and the range of a frame fills that of the colours."""
  mean = np.random.default_rng(0).normal(5, 3, (6, 2, 2, 4)).astype(np.float32)
  colours = inspecting._false_colours(mean)
  assert colours.shape[0] == 6 and colours.dtype == np.uint8 and colours.shape[1] == colours.shape[2] >= 200
  assert colours.min() < 5 and colours.max() > 250
  mean[..., 3] = 1e6
  np.testing.assert_array_equal(inspecting._false_colours(mean), colours)
  assert draw_sheet(latents, count=2, width=600).shape[1] == 600


@pytest.mark.parametrize("changes, said", [(dict(count=0), "1 record or more"), (dict(seed=-1), "must be 0 or more")])
def test_draws_that_make_no_sense_are_refused(dataset, changes, said):
  with pytest.raises(InputError, match=said):
    draw_sheet(dataset, **changes)


def unfinished(folder, files=3, judged=2, units=1):
  (folder / "work").mkdir(parents=True)
  (folder / "recipe.json").write_text(json.dumps({"inputs": [{"file": str(k)} for k in range(files)]}))
  (folder / "verdicts.jsonl").write_text("{}\n" * judged + '{"cut')
  for unit in range(units):
    (folder / "work" / f"unit-{unit:06d}.json").write_text("{}")
    (folder / "work" / f"unit-{unit:06d}.train.00000").write_text("")


@pytest.mark.parametrize("given", ["clips", "clips.incomplete", "clips/"])
def test_an_unfinished_dataset_says_how_far_it_is(tmp_path, given):
  unfinished(tmp_path / "clips.incomplete")
  with pytest.raises(InputError, match=r"clips.incomplete is .*: 2 of 3 files are checked, 1 units of clips are"):
    inspect(f"{tmp_path}/{given}")


def test_an_unfinished_dataset_of_another_program_can_only_be_waited_for(tmp_path):
  (tmp_path / "worlds.incomplete").mkdir()
  with pytest.raises(InputError, match="worlds.incomplete is .* still being made.*: wait for it, or run what made it"):
    inspect(tmp_path / "worlds")


def test_a_finished_dataset_is_not_hidden_by_an_unfinished_one_beside_it(prepared):
  unfinished(prepared.with_name("clips.incomplete"))
  assert inspect(prepared)["splits"]["train"]["clips"] == 1
