"""`panda plan` on the command line, with reports that nobody compiled."""

import importlib.util
import json

import pytest

from panda_jax.cli.main import main
from panda_jax.parallel import topology
from panda_jax.planning import plan
from tests.planning.toy_reports import GIB, report

TINY = ("plan", "--config", "configs/tiny.py", "--topology", "v5e:2x2")


@pytest.fixture
def asked(monkeypatch, tmp_path):
  """The requests that reach the compiler, each answered by a report that `answer` changes."""
  requests = []

  def run_worker(request, folder):
    requests.append(request)
    return report(request.name, **requests_answer)

  requests_answer = {}
  monkeypatch.setattr(plan, "run_worker", run_worker)
  monkeypatch.setattr(topology, "require_libtpu", lambda: None)
  monkeypatch.setenv("PANDA_CACHE", str(tmp_path / "cache"))
  return requests, requests_answer


def test_a_step_for_every_shape_of_the_config(asked, capsys):
  assert main([*TINY, "--clips-per-chip", "2", "--config.mesh.fsdp=2"]) == 0
  assert [request.shape for request in asked[0]] == [(2, 12), (3, 8), (4, 6), (8, 3)]
  assert asked[0][0].config["mesh"]["fsdp"] == 2 and asked[0][0].clips_per_chip == 2
  out = capsys.readouterr().out
  for words in ("Per chip of v5e:2x2, mesh data 2 x fsdp 2 x context 1", "step 8x3", "GiB needed", "all-gather (ici)",
                "12, 3", "unet/down/conv", "estimates"):
    assert words in out
  assert max(map(len, out.splitlines())) <= 125


def test_the_second_time_it_is_kept(asked, capsys):
  command = [*TINY, "--shape", "8x3"]
  assert main(command) == main(command) == 0
  assert len(asked[0]) == 1
  assert "kept from 2026-11-20 19:00" in capsys.readouterr().out
  assert main([*command, "--no-cache"]) == 0
  assert len(asked[0]) == 2


def test_what_does_not_fit_is_status_1(asked, capsys):
  asked[1].update(needed=30 * GIB)
  with pytest.raises(SystemExit, match="1"):
    main([*TINY, "--shape", "8x3"])
  out = capsys.readouterr().out
  assert "DOES NOT FIT" in out and "step 8x3 does not fit: RESOURCE_EXHAUSTED: too much" in out and "30.00" in out


def test_json_has_all_of_it(asked, capsys, tmp_path):
  assert main([*TINY, "--program", "all", "--shape", "8x3", "--guidance", "1", "--slices", "2", "--json", "-"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert set(found) == {"config", "overrides", "topology", "slices", "programs", "search"}
  assert [program["name"] for program in found["programs"]] == ["step 8x3", "sample 8x3", "decode 8x3"]
  assert set(report()) | {"kept"} == set(found["programs"][0])
  assert [request.guidance for request in asked[0]] == [None, 1.0, None]
  assert main([*TINY, "--shape", "8x3", "--json", str(tmp_path / "plan.json")]) == 0
  assert json.loads((tmp_path / "plan.json").read_text())["topology"] == "v5e:2x2"
  assert main([*TINY, "--shape", "8x3", "--json", str(tmp_path / "absent" / "plan.json")]) == 2


def test_a_search_proposes_what_to_type(asked, capsys):
  assert main([*TINY, "--search", "--shape", "8x3"]) == 0
  out = capsys.readouterr().out
  assert "--config.mesh.data=-1 --config.mesh.fsdp=1 --config.mesh.context=1 --config.training.remat=none" in out
  asked[1].update(needed=60 * GIB)
  with pytest.raises(SystemExit, match="1"):
    main([*TINY, "--search", "--shape", "4x6", "--json", "-"])
  found = json.loads(capsys.readouterr().out)
  assert found["search"] and not any(tried["fits"] for tried in found["search"])


@pytest.mark.parametrize("arguments, words", [
    (["--topology", "v5p-512"], "v5p:4x8x8"), (["--topology", "v9:2x2"], "no chip is named"),
    (["--shape", "8"], "views x frames"), (["--slices", "0"], "--slices 0"), (["--clips-per-chip", "0"], "1 or more"),
    (["--guidance", "2"], "--program sample"),
    (["--search", "--program", "sample"], "--search is for the training step"),
    (["--config", "nowhere.py"], "no config file"), (["--config.mesh.contxt=2"], "did you mean mesh.context")])
def test_bad_input_is_one_sentence(asked, capsys, arguments, words):
  assert main([*TINY, *arguments]) == 2
  said = capsys.readouterr().err
  assert words in said and said.startswith("panda plan: ") and said.count("\n") == 1
  assert not asked[0]


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_libtpu_one_is_told_what_to_install(capsys):
  assert main(TINY) == 2
  assert "pip install libtpu" in capsys.readouterr().err
