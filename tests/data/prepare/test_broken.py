"""Thirty broken inputs at once: nothing crashes or hangs, each is in the manifest under the rule that it broke."""

import json

from panda_jax.data import prepare
from panda_jax.data.inspecting import inspect
from tests.data.broken_files import make_corpus
from tests.data.test_prepare import make_video


def test_every_broken_file_is_named_with_its_rule(tmp_path):
  corpus = make_corpus(tmp_path / "in")
  assert len(corpus) >= 30
  make_video(tmp_path / "in" / "good.mp4", 24)
  result = prepare.prepare([tmp_path / "in"], tmp_path / "out", prepare.Options(height=16), pool=prepare.Pool(2))
  json.dumps(result.manifest).encode("utf-8")
  by_name = {}
  for entry in result.manifest["files"]:
    by_name[entry["file"].removeprefix(str(tmp_path / "in")).strip("/")] = {each["rule"] for each in entry["findings"]}
    assert entry["used"] or entry["why"]
  wrong = {name: (rule, by_name.get(name)) for name, rule in corpus.items()
           if rule is not None and rule not in by_name.get(name, ())}
  assert not wrong
  assert result.manifest["counts"]["used"] >= 1
  assert inspect(tmp_path / "out")["rules"]
