import fsspec
import pytest

from panda_jax.errors import InputError
from panda_jax.paths import as_path, files_below, local_copy, write_text
from tests import fake_bucket


def missing(name):
  raise ImportError(name)


def test_what_is_no_folder_of_ours_is_refused(monkeypatch):
  for address in ("s3://bucket/run", "gs://", "http://host/run"):
    with pytest.raises(InputError, match="give a folder of this machine, or gs://bucket/folder"):
      as_path(address)
  monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
  with pytest.raises(InputError, match=r"gcsfs.* is not installed: pip install .panda_jax\[gs\]"):
    as_path("gs://bucket/run")


def test_files_are_written_and_listed_alike_here_and_in_a_bucket(tmp_path, monkeypatch):
  with fake_bucket.bucket(monkeypatch) as address:
    for folder in (as_path(tmp_path), as_path(f"{address}/some/folder")):
      (folder / "a" / "b").mkdir(parents=True)
      write_text(folder / "a" / "b" / "deep.txt", "deep")
      write_text(folder / "top.txt", "old")
      write_text(folder / "top.txt", "täglich")
      assert sorted(files_below(folder)) == ["a/b/deep.txt", "top.txt"]
      with local_copy(folder) as copy:
        assert (copy / "top.txt").read_text(encoding="utf-8") == "täglich"
        assert (copy / "a" / "b" / "deep.txt").read_text() == "deep"
