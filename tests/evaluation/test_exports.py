"""Views for VBench and Q-Align: the right pictures under the right names, once, and commands to type as they are."""

import csv
import dataclasses
import importlib.resources
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

from panda_jax.data.clips import Clip
from panda_jax.data.video import probe, read_frames, write_video
from panda_jax.errors import InputError
from panda_jax.evaluation.exports import export_views, view_names
from panda_jax.evaluation.protocol import Protocol
from panda_jax.geometry import Camera, make_rig, project, to_uint8
from tests.evaluation.report.made_up import film, panorama

PROTOCOL = Protocol(frames=4, height=64, view_size=32, surfaces=("panorama", "horizontal4"))


@pytest.fixture
def place(tmp_path):
  """Two methods and the truth, of clips "a::1" and "b"."""
  for method, seam in (("ours", 60), ("blur", 20), ("truth", 0)):
    for name in ("a__1", "b"):
      film(tmp_path / method / f"{name}.mp4", seam=seam)
  return tmp_path


def export(place, protocol=PROTOCOL, **options):
  notes = []
  methods = {name: place / name for name in ("ours", "blur")}
  clips = [Clip("a::1", video=place / "truth" / "a__1.mp4"), Clip("b", video=place / "truth" / "b.mp4")]
  commands = export_views(place / "out", methods, options.pop("clips", clips), protocol, note=notes.append, **options)
  return commands, notes


def files(place):
  return {str(path.relative_to(place)): path.stat().st_mtime_ns for path in sorted(place.rglob("*.mp4"))}


def test_vbench_gets_a_folder_of_views_for_every_method_and_the_truth(place):
  export(place)
  for method in ("ours", "blur", "reference"):
    assert sorted(os.listdir(place / "out" / "vbench" / method)) == [
      f"{clip}_yaw{yaw:03d}.mp4" for clip in ("a__1", "b") for yaw in (0, 90, 180, 270)]
  for name in files(place / "out"):
    info = probe(place / "out" / name)
    assert (info.height, info.width, info.fps, info.frames) == (32, 32, 8, 4)


def test_a_view_shows_what_its_camera_sees_of_the_compared_frames(place):
  protocol = dataclasses.replace(PROTOCOL, start=1, stride=2, frames=3)
  export(place, protocol, cameras=[Camera(90, 0), Camera(30, -40, 70)], view_size=(48, 64), truth=False)
  source = np.stack(list(read_frames(place / "ours" / "b.mp4")))[1:6:2]
  for name, camera in (("yaw090", Camera(90, 0)), ("yaw030_pitch-40", Camera(30, -40, 70))):
    path = place / "out" / "vbench" / "ours" / f"b_{name}.mp4"
    seen = np.stack(list(read_frames(path)))
    assert seen.shape == (3, 48, 64, 3) and probe(path).fps == 4
    expected = to_uint8(project(source, camera, (48, 64)))
    assert np.abs(seen.astype(int) - expected).mean() < 2


def test_a_rate_picks_frames_and_is_the_views_own(place):
  export(place, dataclasses.replace(PROTOCOL, fps=2.0, frames=2))
  path = place / "out" / "vbench" / "ours" / "b_yaw000.mp4"
  info = probe(path)
  assert (info.fps, info.frames) == (2, 2)
  source = list(read_frames(place / "ours" / "b.mp4"))[4]
  expected = to_uint8(project(source, Camera(0, 0), (32, 32)))
  assert np.abs(list(read_frames(path))[1].astype(int) - expected).mean() < 2


def test_the_same_command_again_writes_nothing(place):
  commands, _ = export(place)
  before = files(place / "out")
  assert export(place)[0] == commands and files(place / "out") == before


def test_only_what_is_missing_or_made_of_another_file_is_written_again(place):
  export(place)
  before = files(place / "out")
  (place / "out" / "vbench" / "ours" / "b_yaw090.mp4").unlink()
  film(place / "blur" / "a__1.mp4", seam=90)
  export(place)
  after = files(place / "out")
  changed = {name for name in after if after[name] != before[name]}
  assert after.keys() == before.keys()
  assert {name.rsplit("_", 1)[0] for name in changed} == {"vbench/ours/b", "vbench/blur/a__1"}


def test_another_protocol_in_the_same_folder_is_refused(place):
  export(place)
  for change, word in (({"stride": 2}, "stride"), ({"view_size": 64}, "view size")):
    with pytest.raises(InputError, match=f"holds views of another {word}: remove it, or export to another folder"):
      export(place, dataclasses.replace(PROTOCOL, **change))
  with pytest.raises(InputError, match="another cameras"):
    export(place, cameras=[Camera(0, 0)])
  (place / "out" / "views.json").write_text("{")
  with pytest.raises(InputError, match="views.json cannot be read"):
    export(place)


def test_videos_that_cannot_be_used_are_named_and_counted_and_their_old_views_go(place):
  export(place)
  whole = (place / "ours" / "b.mp4").read_bytes()
  (place / "ours" / "b.mp4").write_bytes(whole[:len(whole) // 2])
  (place / "blur" / "a__1.mp4").unlink()
  write_video(place / "blur" / "b.mp4", [panorama()] * 2, 8)
  film(place / "truth" / "b.mp4", size=(64, 96))
  commands, notes = export(place)
  text = "\n".join(notes)
  assert re.search(r"ours: b is left out \(damaged\): .*b.mp4", text)
  assert re.search(r"blur: b is left out \(short\): .*has 2 frames, which give 2 of the 4", text)
  assert re.search(r"reference: b is left out \(not 2:1\): .*96x64", text)
  assert {"ours: views of 1 of 2 clips, 1 damaged", "blur: views of 0 of 2 clips, 1 missing, 1 short"} <= set(notes)
  assert {name.rsplit("_", 1)[0] for name in files(place / "out")} == {"vbench/ours/a__1", "vbench/reference/a__1"}
  assert not any("vbench/blur" in line for line in commands), "there is nothing of it to score"
  readme = (place / "out" / "README.txt").read_text()
  assert "blur: 0 of 2 clips" in readme and "left out: b (short)" in readme
  (place / "ours" / "b.mp4").write_bytes(whole)
  export(place)
  assert (place / "out" / "vbench" / "ours" / "b_yaw270.mp4").is_file()


def test_nothing_to_export_is_an_error(place):
  with pytest.raises(InputError, match="no video of ours, blur can be used"):
    export(place, clips=[Clip("nobody made it")])


def test_videos_of_others_in_the_folder_are_pointed_out(place):
  export(place)
  shutil.copy(place / "ours" / "b.mp4", place / "out" / "vbench" / "ours" / "old_yaw000.mp4")
  assert any("also holds old_yaw000.mp4" in line for line in export(place)[1])


# --- commands


def test_commands_are_the_six_dimensions_and_q_align_for_every_method(place):
  commands, _ = export(place)
  words = [shlex.split(line) for line in commands]
  vbench = [dict(zip(line[2::2], line[3::2])) for line in words if line[:2] == ["vbench", "evaluate"]]
  mode = [line[line.index("--mode=custom_input")] for line in words if line[0] == "vbench"]
  assert len(vbench) == len(mode) == 18
  for method in ("ours", "blur", "reference"):
    start = f"vbench evaluate --videos_path {place}/out/vbench/{method} "
    of_method = [line for line in commands if line.startswith(start)]
    assert [re.search(r"--dimension (\S+)", line)[1] for line in of_method] == [
      "subject_consistency", "background_consistency", "motion_smoothness", "dynamic_degree", "aesthetic_quality",
      "imaging_quality"]
  q_align = [line for line in words if line[0] == "python"]
  assert [os.path.basename(line[2]) for line in q_align] == ["reference", "ours", "blur"]
  assert all(os.path.isfile(line[1]) and os.path.isdir(line[2]) for line in q_align)
  readme = (place / "out" / "README.txt").read_text()
  assert all(line in readme for line in commands)
  for text in ("start 0, stride 1, fps as stored", "32x32", "yaw270", "128x64", "ours: 2 of 2 clips, 4 views each",
               "python q_align/evaluate/scorer.py --img_path VIDEO.mp4 --video --model-path q-future/one-align"):
    assert text in readme, text


def test_names_that_a_shell_would_take_apart_are_kept_from_it(place):
  (place / "ours").rename(place / "our $(best) 'one'")
  output = place / "two words"
  methods = {"our $(best) 'one'": place / "our $(best) 'one'"}
  commands = export_views(output, methods, [Clip("b")], PROTOCOL)
  assert shlex.split(commands[0])[3] == str(output / "vbench" / "our___best___one_")
  said = subprocess.run(f"echo {commands[-1]}", shell=True, capture_output=True, text=True, check=True).stdout.strip()
  assert said == " ".join(shlex.split(commands[-1]))
  with pytest.raises(InputError, match=r'has a \$ in its name, which VBench cannot take'):
    export_views(place / "pa$$ing", methods, [Clip("b")], PROTOCOL)
  with pytest.raises(InputError, match="would have one folder, a_b"):
    export_views(place / "both", {"a b": place / "blur", "a_b": place / "blur"}, [Clip("b")], PROTOCOL)
  with pytest.raises(InputError, match="33x32.*even"):
    export_views(place / "odd", methods, [Clip("b")], PROTOCOL, view_size=(32, 33))


def test_every_camera_has_a_name_of_its_own():
  cameras = [Camera(-45, 0), Camera(0, 90), Camera(359.9, -7)]
  assert view_names(cameras) == ["yaw315", "yaw000_pitch+90", "yaw000_pitch-07"]
  assert view_names([Camera(0, 0, 90), Camera(0, 0, 60)]) == ["view00", "view01"]
  for rig in ("videopanda", "cubemap", "icosahedron", "horizontal16"):
    assert len(set(view_names(tuple(make_rig(rig))))) == len(make_rig(rig))


# --- the script for Q-Align


@pytest.fixture
def q_align(tmp_path):
  """What the script needs of Q-Align and decord, as they behave: a reader that takes no frame of a short video."""
  packages = tmp_path / "packages"
  packages.mkdir()
  (packages / "decord.py").write_text(
    "import av\n"
    "class Frame:\n"
    "  def __init__(self, frame): self.frame = frame\n"
    "  def asnumpy(self): return self.frame.to_ndarray(format='rgb24')\n"
    "class VideoReader:\n"
    "  def __init__(self, path):\n"
    "    with av.open(path) as file:\n"
    "      self.fps = float(file.streams.video[0].average_rate)\n"
    "      self.frames = [Frame(frame) for frame in file.decode(video=0)]\n"
    "  def __len__(self): return len(self.frames)\n"
    "  def __getitem__(self, index): return self.frames[index]\n"
    "  def get_avg_fps(self): return self.fps\n")
  (packages / "q_align.py").write_text(
    "import decord, numpy\nfrom PIL import Image\n"
    "def load_video(path):\n"
    "  video = decord.VideoReader(path)\n"
    "  return [Image.fromarray(video[int(video.fps * i)].asnumpy()) for i in range(int(len(video) / video.fps))]\n"
    "class QAlignVideoScorer:\n"
    "  def __init__(self, pretrained, device): print('loaded', pretrained, device)\n"
    "  def __call__(self, videos):\n"
    "    assert all(videos)\n"
    "    return numpy.array([numpy.mean([numpy.mean(frame) for frame in frames]) / 255 for frames in videos])\n")
  return packages


def test_the_q_align_script_scores_each_video_once_and_goes_on(place, q_align):
  """By itself, in another environment: of a clip of half a second the first frame is scored."""
  script = importlib.resources.files("panda_jax.evaluation").joinpath("q_align_scores.py").read_text("utf-8")
  assert "import panda_jax" not in script and "from panda_jax" not in script
  commands, _ = export(place, dataclasses.replace(PROTOCOL, frames=8))
  film(place / "out" / "vbench" / "ours" / "short.mp4", frames=4)
  (line,) = [line for line in commands if line.startswith("python") and line.endswith("ours.csv")]
  words = [sys.executable, *shlex.split(line)[1:]]
  run = lambda: subprocess.run(words, env={**os.environ, "PYTHONPATH": str(q_align)}, capture_output=True, text=True,
                               check=True).stdout
  assert "loaded q-future/one-align cuda:0" in run()
  with open(place / "out" / "q-align" / "ours.csv", newline="") as file:
    scores = {row["video"]: float(row["score"]) for row in csv.DictReader(file)}
  assert scores.keys() == set(os.listdir(place / "out" / "vbench" / "ours")) and len(scores) == 9
  first = next(read_frames(place / "out" / "vbench" / "ours" / "short.mp4"))
  assert scores["short.mp4"] == pytest.approx(first.mean() / 255, abs=0.02)
  said = run()
  assert "loaded" not in said and f"9 videos, mean {np.mean(list(scores.values())):.4f}" in said
