"""The same work through Apache Beam, on this machine and with inputs and outputs in a bucket."""

import pytest

beam = pytest.importorskip("apache_beam")

from apache_beam.options.pipeline_options import PipelineOptions

from panda_jax.data import prepare
from panda_jax.data.prepare.beam import BeamPool
from panda_jax.errors import InputError
from tests import fake_bucket
from tests.data.prepare import pieces
from tests.data.prepare.killing import digests
from tests.data.test_prepare import make_still, make_video, options

IN_PROCESS = PipelineOptions(["--runner=DirectRunner", "--direct_running_mode=in_memory"])


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "in" / "below").mkdir(parents=True)
  make_video(tmp_path / "in" / "beach.mp4", 24)
  make_video(tmp_path / "in" / "below" / "wood.mp4", 25, seed=1)
  make_still(tmp_path / "in" / "hall.jpg")
  (tmp_path / "in" / "text.mp4").write_text("not a video")
  return tmp_path / "in"


def test_every_piece_is_done_once(tmp_path):
  assert dict(BeamPool(IN_PROCESS, str(tmp_path)).map(pieces.double, [(k,) for k in range(20)])) == {
    k: 2 * k for k in range(20)}
  assert list(tmp_path.iterdir()) == []


def test_a_pipeline_makes_the_same_bytes(folder, tmp_path):
  here = prepare.prepare([folder], tmp_path / "here", options(height=16))
  there = prepare.prepare([folder], tmp_path / "there", options(height=16), pool=BeamPool(IN_PROCESS, str(tmp_path)))
  assert here.manifest == there.manifest and here.manifest["counts"]["skipped"] == 1
  assert digests(tmp_path / "here") == digests(tmp_path / "there")


def test_from_a_bucket_into_a_bucket(folder, tmp_path, monkeypatch):
  """Workers fetch films and leave shards there; a run after an interruption does only what is missing."""
  prepare.prepare([folder], tmp_path / "here", options(height=16))
  with fake_bucket.bucket(monkeypatch) as address:
    for file in folder.rglob("*.*"):
      fake_bucket.put(f"films/{file.relative_to(folder).as_posix()}", file.read_bytes())
    pool = BeamPool(IN_PROCESS, str(tmp_path))
    with monkeypatch.context() as broken:
      broken.setattr(prepare.run, "put_in_place", _fail)
      with pytest.raises(InputError, match="the network is gone"):
        prepare.prepare([f"{address}/films"], f"{address}/records", options(height=16), pool=pool)
    assert any(name.startswith("records.incomplete/work/unit-") for name in fake_bucket.objects())
    monkeypatch.setattr(prepare.run, "check_source", None)
    monkeypatch.setattr(prepare.run, "write_unit", None)
    made = prepare.prepare([f"{address}/films"], f"{address}/records", options(height=16), pool=pool)
    assert made.manifest["counts"]["used"] == 3
    assert {entry["file"] for entry in made.manifest["files"]} == {
      f"{address}/films/{name}" for name in ("beach.mp4", "below/wood.mp4", "hall.jpg", "text.mp4")}
    there = {name.removeprefix("records/"): content for name, content in fake_bucket.objects().items()
             if not name.startswith("films/")}
    shards = {file.name: file.read_bytes() for file in (tmp_path / "here").glob("*array_record*")}
    assert {name: there[name] for name in shards} == shards
    assert set(there) == {file.name for file in (tmp_path / "here").iterdir()}
    assert prepare.prepare([f"{address}/films"], f"{address}/records", options(height=16)).already


def _fail(*_):
  raise InputError("the network is gone")
