"""Datasets that several files read."""

import pytest

from tests.data.toy import write_busy, write_plain


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
  return write_plain(tmp_path_factory.mktemp("records") / "plain")


@pytest.fixture(scope="session")
def busy(tmp_path_factory):
  return write_busy(tmp_path_factory.mktemp("records") / "busy")
