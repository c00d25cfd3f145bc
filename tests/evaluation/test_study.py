"""Runs of a study are scored alike, once each; what is measured is what it is called."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from panda_jax import systems
from panda_jax.diffusion import Schedule
from panda_jax.errors import InputError
from panda_jax.evaluation import study
from panda_jax.evaluation.study import Protocol, Truth, compare, timestep_at
from panda_jax.training.config import load_config, write_config
from tests.fast import draw

WORDS = ["--frames", "3", "--steps", "2", "--windows", "2", "--worlds", "1", "--long-worlds", "1"]
PROTOCOL = Protocol(frames=3, steps=2, windows=2, early=1)                  # what these words mean
MODEL = ["--config.model.rig=horizontal4", "--config.model.unet.block_out_channels=(8,)",
         "--config.model.unet.attention=(True,)", "--config.model.unet.heads=(1,)"]


def write_run(folder, seed):
  """A run as the trainer leaves it, with random weights."""
  config = load_config("configs/ablations.py:row=full,size=tiny,runlocal", MODEL)
  folder.mkdir(parents=True)
  write_config(folder, config)
  params = draw(jax.eval_shape(systems.build(config).init, jax.random.key(0)), seed)
  with ocp.PyTreeCheckpointer() as checkpointer:
    checkpointer.save((folder / "checkpoints" / "1" / "state").absolute(),
                      {"ema": {"unet": params["unet"]}, "frozen": {"text": params["text"]}})


def run_main(workdir, *words):
  return study.main(["--workdir", str(workdir), *WORDS, *words])


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
  """A workdir with two runs of the same weights, scored, one that has no checkpoint, and a folder that is no run."""
  workdir = tmp_path_factory.mktemp("study")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("PANDA_CACHE", "off")
    patch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    write_run(workdir / "full-0", 0)
    shutil.copytree(workdir / "full-0", workdir / "fixed-0")
    shutil.copytree(workdir / "full-0", workdir / "full-1", ignore=shutil.ignore_patterns("checkpoints"))
    (workdir / "notes").mkdir()
    assert run_main(workdir, "--report", str(workdir / "report.md")) == 0
    yield workdir


@pytest.fixture(scope="module")
def scores(scored):
  return json.loads((scored / "scores.json").read_text())


# --- real models


def test_every_score_is_there_and_a_number(scored, scores):
  """Losses in all regimes and at all timesteps, the parts of a sample, the windows of a long video where asked for."""
  assert set(scores) == {"full-0", "fixed-0"}
  for name, entry in scores.items():
    loss, = entry["loss"].values()
    assert set(loss) == {f"{kind} {regime} {timestep:04d}" for kind in ("loss", "clean")
                         for regime in ("text", "video", "continuation") for timestep in (100, 300, 500, 700, 900)}
    assert all(math.isfinite(value) and value > 0 for value in loss.values())
    sample, = entry["sampling"].values()
    assert set(sample) == {"all", "early", "late"} and 0 < sample["all"]["psnr"] < 60
    assert all(x > 0 for x in sample["all"]["sharpness"]) and sample["all"]["flicker"][0] > 0
    assert len(entry["long"]) == (name == "full-0")                          # of the rows of --long alone
  long, = scores["full-0"]["long"].values()
  assert len(long["windows"]) == 2 and long["jump"] > 0


def test_the_paper_schedule_is_scored_at_its_own_timesteps(scores):
  """Its noise levels are the reference: the clean error is the loss of the v-prediction times 1 - ᾱ."""
  loss = scores["full-0"]["loss"]["0"]
  for timestep in (100, 900):
    noise = 1 - Schedule.scaled_linear().shifted(8.0).alphas_cumprod[timestep]
    assert loss[f"clean video {timestep:04d}"] == pytest.approx(noise * loss[f"loss video {timestep:04d}"])


def test_the_report_names_every_run_and_compares_rows(scored):
  text = (scored / "report.md").read_text()
  assert "| full-0 |" in text and "| fixed-0 |" in text and "Less full" in text and "Long video" in text


def test_the_same_weights_have_the_same_scores(scored, scores):
  """Made by programs of their own, on the same worlds with the same noise: equal to the last bit."""
  for part in ("identity", "loss", "sampling"):
    assert scores["full-0"][part] == scores["fixed-0"][part]
  assert study.Scorer(scored / "full-0", PROTOCOL).identity == scores["full-0"]["identity"]


def test_only_what_the_model_must_invent_and_its_rig_sees_is_scored(scored):
  scorer = study.Scorer(scored / "full-0", PROTOCOL)
  height, width = scorer.size
  middle, quarter = scorer.unseen[height // 2], width // 4
  assert not middle[quarter + quarter // 2 + 1: -quarter - quarter // 2 - 1].any()      # the given view, straight ahead
  assert middle[:quarter].all() and not scorer.unseen[0].any()                          # four side views: no poles
  assert scorer.truth(0, 2).kept.shape == (2, height, width, 3)


def test_a_run_without_checkpoint_is_named_and_left_out(scored, capsys):
  assert run_main(scored) == 0
  out, err = capsys.readouterr()
  assert "full-1 is left out" in err and "no complete checkpoint" in err and "full-1" not in out
  assert "notes" not in out + err


def test_what_is_scored_already_is_not_scored_again(scored, scores, capsys, monkeypatch):
  """Neither model makes anything; the tables are those of before."""
  for part in ("loss", "sampling", "long"):
    monkeypatch.setattr(study.Scorer, part, None)
  assert run_main(scored) == 0
  out, err = capsys.readouterr()
  assert out.strip() == (scored / "report.md").read_text().strip()
  assert "full-0: was scored already" in err
  assert json.loads((scored / "scores.json").read_text()) == scores


# --- the file of scores, with a stub instead of a model


@dataclasses.dataclass
class Stub:
  """Scores that say how often something was made; its identity is what the run's file says."""

  folder: object
  protocol: Protocol
  made, killed_at = [], None

  def __post_init__(self):
    self.identity = {"weights": (self.folder / "weights").read_text(), "frames": self.protocol.frames}

  def loss(self, world):
    self.made.append((self.folder.name, "loss", world))
    return {"loss text 0100": 1.0 + world}

  def sampling(self, world):
    self.made.append((self.folder.name, "sampling", world))
    if world == self.killed_at:
      raise KeyboardInterrupt
    return {"all": {"psnr": 20.0}, "early": {}, "late": {}}

  def long(self, world):
    self.made.append((self.folder.name, "long", world))
    return {"windows": [], "jump": None}


@pytest.fixture
def stubs(tmp_path, monkeypatch):
  monkeypatch.setattr(study, "Scorer", Stub)
  monkeypatch.setattr(Stub, "made", [])
  for name in ("full-0", "full-1"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "weights").write_text("first")
  return tmp_path


def score(folder, worlds, protocol=PROTOCOL, **options):
  """What was made for it."""
  Stub.made.clear()
  study.score_runs(study.find_runs(folder, "*"), folder / "scores.json", protocol, worlds=worlds,
                   **{"long_worlds": 0, "long_rows": set()} | options)
  return list(Stub.made)


def test_more_worlds_are_added_to_those_that_are_scored(stubs):
  assert len(score(stubs, 2)) == 2 * 4
  assert score(stubs, 1) == score(stubs, 2) == []
  assert score(stubs, 3) == [(run, part, 2) for run in ("full-0", "full-1") for part in ("loss", "sampling")]
  assert score(stubs, 3, long_worlds=1, long_rows={"full"}) == [(run, "long", 0) for run in ("full-0", "full-1")]


def test_other_weights_or_another_protocol_are_scored_anew(stubs):
  score(stubs, 1)
  (stubs / "full-1" / "weights").write_text("trained on")
  assert score(stubs, 1) == [("full-1", "loss", 0), ("full-1", "sampling", 0)]
  assert len(score(stubs, 1, dataclasses.replace(PROTOCOL, frames=4))) == 4


def test_an_interrupted_study_goes_on_where_it_was(stubs, monkeypatch):
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(Stub, "killed_at", 1)
    score(stubs, 2)
  made = [("full-0", "sampling", 1), *(("full-1", part, world) for part in ("loss", "sampling") for world in (0, 1))]
  assert score(stubs, 2) == made


def test_scores_of_runs_that_are_not_asked_for_stay_in_the_file(stubs):
  score(stubs, 1)
  shutil.rmtree(stubs / "full-0")
  assert score(stubs, 1) == []
  assert set(json.loads((stubs / "scores.json").read_text())) == {"full-0", "full-1"}


def test_runs_are_found_by_their_names(tmp_path):
  for name in ("full-10", "full-9", "no-shift-0", "full", "fixed-1x", "-3"):
    (tmp_path / name).mkdir()
  (tmp_path / "file-0").write_text("")
  assert [path.name for path in study.find_runs(tmp_path, "*")] == ["full-9", "full-10", "no-shift-0"]
  assert [path.name for path in study.find_runs(tmp_path, "no*")] == ["no-shift-0"]
  assert study.split_name("no-shift-0") == ("no-shift", 0)


@pytest.mark.parametrize("words, sentence", [
  (("--runs", "best-*"), "has no folder 'best-*' that is named like a run"),
  (("--worlds", "0"), "--worlds must be between 1 and 1000, got 0"),
  (("--noise-scale", "0"), "--noise-scale must be above 0 and at most 2, got 0"),
  (("--output", "notes.txt"), "notes.txt is not a readable file of scores"),
  (("--output", "list.json"), "list.json holds something else than scores of runs"),
  (("--output", "missing/scores.json"), "cannot be written"),
  (("--report", "missing/report.md"), "cannot be written"),
])
def test_what_is_wrong_is_said_in_one_sentence(stubs, monkeypatch, capsys, words, sentence):
  monkeypatch.chdir(stubs)
  monkeypatch.setenv("PANDA_CACHE", "off")
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  (stubs / "notes.txt").write_text("not scores")
  (stubs / "list.json").write_text("[1]")
  assert run_main(stubs, *words) == 2
  last = capsys.readouterr().err.splitlines()[-1]
  assert last.startswith("study: ") and sentence in last


def test_a_study_of_which_nothing_can_be_scored_says_so(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("PANDA_CACHE", "off")
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
  (tmp_path / "full-0").mkdir()
  assert run_main(tmp_path) == 2
  err = capsys.readouterr().err
  assert "full-0 is left out" in err and "no run below" in err


# --- what is measured


SIZE = (16, 32)


def noise(frames, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (frames, *SIZE, 3), np.uint8)


def test_a_perfect_model_has_ratios_of_one():
  """All that views and codec keep: sharpness and flicker are those of the truth, though the PSNR is not perfect."""
  truth = Truth(None, None, noise(4), noise(4, seed=1))
  scores = compare(truth, truth.kept, np.ones(SIZE, bool), slice(None))
  for name in ("sharpness", "flicker"):
    made, wanted = scores[name]
    assert made == wanted > 0
  assert compare(truth, truth.panorama, np.ones(SIZE, bool), slice(None))["psnr"] is None       # infinite


def test_parts_of_a_video_are_scored_on_their_own_frames():
  """What is wrong in the late frames does not show in the early ones."""
  truth = Truth(None, None, noise(6), noise(6))
  made = np.concatenate([truth.panorama[:3], 255 - truth.panorama[3:]])
  early, late = (compare(truth, made, np.ones(SIZE, bool), part) for part in (slice(3), slice(3, None)))
  assert early["ssim"] == pytest.approx(1) and late["ssim"] < 0.5 and late["psnr"] < 20
  assert compare(truth, made, np.ones(SIZE, bool), slice(1))["flicker"] == [0, 0]                # one frame


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_losses_of_both_predictions_convert_to_the_error_of_the_clean_latents(prediction):
  """Whatever the network says: the error of x0 computed from it is the loss times the factor."""
  schedule, timestep = Schedule.scaled_linear().shifted(8.0), 600
  rng = np.random.default_rng(0)
  clean, eps, output = (rng.normal(size=(1, 50)) for _ in range(3))
  a, s = (math.sqrt(x) for x in (schedule.alphas_cumprod[timestep], 1 - schedule.alphas_cumprod[timestep]))
  noised, target = a * clean + s * eps, eps if prediction == "epsilon" else a * eps - s * clean
  guess = (noised - s * output) / a if prediction == "epsilon" else a * noised - s * output
  factor = study.clean_error(schedule, prediction, timestep)
  assert np.mean((guess - clean)**2) == pytest.approx(factor * np.mean((output - target)**2))


def test_schedules_are_compared_at_the_same_noise():
  """The paper's own timesteps, the same noise later in the base model's schedule, and nothing where that never goes."""
  paper, base = study.REFERENCE, Schedule.scaled_linear()
  assert [timestep_at(paper, paper.log_snr[t]) for t in (0, 100, 500, 999)] == [0, 100, 500, 999]
  later = timestep_at(base, paper.log_snr[500])
  assert later > 500 and base.log_snr[later] == pytest.approx(paper.log_snr[500], abs=0.01)
  assert timestep_at(base, paper.log_snr[999]) is None


def test_a_model_with_too_few_frame_positions_is_refused(scored):
  with pytest.raises(InputError, match="has 32 frame positions, and 33 frames are scored"):
    study.Scorer(scored / "full-0", dataclasses.replace(PROTOCOL, frames=33))
