"""Reports are kept under names that say all they depend on, and a damaged one is made again."""

import pytest

import panda_jax
from panda_jax.planning import store as store_lib
from panda_jax.planning.store import Store, key


def test_kept_and_found(tmp_path):
  name = key("step", {"a": 1})
  Store(tmp_path / "plans").put(name, {"fits": True})
  assert Store(tmp_path / "plans").get(name) == {"fits": True}
  assert Store(tmp_path / "plans").get(key("step", {"a": 2})) is None
  assert [path.name for path in (tmp_path / "plans").iterdir()] == [f"{name}.json"]


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b'{"key": "other", "report": {}}', b"\xff\xfe", b'{"report": 3}'],
    ids=("empty", "cut", "list", "another's", "binary", "no report"))
def test_a_damaged_entry_is_told_of_and_made_again(tmp_path, content):
  name, said = key("step"), []
  store = Store(tmp_path, said.append)
  store.put(name, {"fits": True})
  (tmp_path / f"{name}.json").write_bytes(content)
  assert store.get(name) is None
  assert len(said) == 1 and "damaged" in said[0]
  store.put(name, {"fits": False})
  assert store.get(name) == {"fits": False}


def test_a_folder_that_cannot_be_written_is_told_of(tmp_path):
  (tmp_path / "file").write_text("")
  said = []
  Store(tmp_path / "file" / "plans", said.append).put(key("step"), {})
  assert len(said) == 1 and "cannot be written" in said[0]


def test_without_a_folder_nothing_is_kept():
  store = Store(None)
  store.put(key("step"), {})
  assert store.get(key("step")) is None


def test_the_name_changes_with_the_versions(monkeypatch):
  before = key("step")
  monkeypatch.setattr(panda_jax, "__version__", "0.0.0")
  assert key("step") != before


def test_the_source_changes_with_a_network_and_not_with_the_command_line(tmp_path, monkeypatch):
  for folder in ("models", "cli"):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "a.py").write_text("a = 1\n")
  monkeypatch.setattr(panda_jax, "__file__", str(tmp_path / "__init__.py"))
  first = store_lib.source_digest()
  (tmp_path / "cli" / "a.py").write_text("a = 2\n")
  assert store_lib.source_digest() == first
  (tmp_path / "models" / "a.py").write_text("a = 2\n")
  assert store_lib.source_digest() != first
