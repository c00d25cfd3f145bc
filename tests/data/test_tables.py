"""Tables of captions come from spreadsheets and scripts: all that are csv read alike, all others are refused."""

import csv
import doctest
import json
import os

import pytest

from panda_jax.data import tables
from panda_jax.data.tables import first_of_each, printable, read_table
from panda_jax.errors import InputError
from tests.data.broken_files import TABLES, deadline

LAYOUTS = (("file", "caption"), ("videoid", "name"))


def write(path, data: bytes):
  path.write_bytes(data)
  return path


@pytest.mark.parametrize("name", [name for name, (_, refused) in TABLES.items() if refused is None])
def test_a_table_reads_the_same_however_it_was_saved(tmp_path, name):
  table = read_table(write(tmp_path / "t.csv", TABLES[name][0]), LAYOUTS)
  assert [[row[column] for column in table.layout] for row in table.rows] in (
    [["beach.mp4", "a beach"]], [["beach", "a beach"]])
  assert table.warnings == []


@pytest.mark.parametrize("name", [name for name, (_, refused) in TABLES.items() if refused is not None])
def test_what_is_no_table_is_refused_in_one_sentence(tmp_path, name):
  data, words = TABLES[name]
  with pytest.raises(InputError) as caught:
    read_table(write(tmp_path / "t.csv", data), LAYOUTS, "captions")
  said = str(caught.value)
  assert words in said and said.startswith(f"the captions {tmp_path / 't.csv'} ") and len(said) < 500
  assert said.isprintable()


def test_any_text_survives_a_trip_through_a_table(tmp_path):
  """Commas, quotes, line breaks, emoji: as written by Python's csv module or a spreadsheet."""
  texts = ["plain", "a, b", 'the "best"', "two\nlines", "двое 二人 🏖", "'", "=1+1", "x" * 100_000]
  with open(tmp_path / "t.csv", "w", encoding="utf-8-sig", newline="") as file:
    csv.writer(file).writerows([("videoid", "name"), *enumerate(texts)])
  table = read_table(tmp_path / "t.csv", LAYOUTS)
  assert table.layout == ("videoid", "name")
  assert [row["name"] for row in table.rows] == texts
  assert [row["videoid"] for row in table.rows] == [str(number) for number in range(len(texts))]
  assert [row.line for row in table.rows] == [2, 3, 4, 5, 7, 8, 9, 10]


def test_rows_of_another_length_are_left_out_and_the_first_is_named(tmp_path):
  """A comma without quotes would shift or cut what follows it."""
  path = write(tmp_path / "t.csv", b"file,caption\na,one\nb,two, three\nc,four\nd\n")
  table = read_table(path, LAYOUTS)
  assert [row["file"] for row in table.rows] == ["a", "c"]
  [warning] = table.warnings
  assert "2 rows" in warning and "the first is line 3 with 3" in warning and str(path) in warning


def test_the_first_layout_that_is_there_counts(tmp_path):
  path = write(tmp_path / "t.csv", b"name,videoid,file,caption\nn,v,f,c\n")
  assert read_table(path, LAYOUTS).layout == ("file", "caption")
  assert read_table(path, LAYOUTS[::-1]).layout == ("videoid", "name")


def test_missing_columns_are_named(tmp_path):
  path = write(tmp_path / "t.csv", b"youtubeid,caption,tstart\na,b,1\n")
  with pytest.raises(InputError, match="list of films .*lacks videoid, tend"):
    read_table(path, [("youtubeid", "videoid", "caption", "tstart", "tend")], "list of films")


def test_a_path_that_is_no_file_is_refused_at_once(tmp_path):
  os.mkfifo(tmp_path / "pipe.csv")
  for path, words in ((tmp_path / "pipe.csv", "is no file"), (tmp_path, "is no file"), ("/dev/zero", "is no file"),
                      (tmp_path / "none.csv", "there is no table file"), (tmp_path / ("x" * 300), "there is no table"),
                      (tmp_path / "two\nlines.csv", r"two\nlines.csv")):
    with deadline(5), pytest.raises(InputError) as caught:
      read_table(path, LAYOUTS)
    assert words in str(caught.value)


def test_the_first_row_of_each_id_counts(tmp_path):
  table = read_table(write(tmp_path / "t.csv", b"file,caption\na,1\nb,2\na,3\na,4\n"), LAYOUTS)
  firsts, repeats = first_of_each(table.rows, "file")
  assert [row["caption"] for row in firsts] == ["1", "2"] and [row["caption"] for row in repeats] == ["3", "4"]


def test_any_name_can_be_printed(tmp_path):
  """And written to JSON in UTF-8, and no two bytes look alike."""
  for name in (b"plain.mp4", b"\xff\xfe.mp4", "пляж 🏖.mp4".encode(), b"a\nb\t\x1b[31m.mp4", "\u202egpj.mp4".encode()):
    shown = printable(os.fsdecode(name))
    assert shown.isprintable()
    json.dumps(shown, ensure_ascii=False).encode("utf-8")
  assert printable(os.fsdecode(b"\xff\xfe.mp4")) == r"\xff\xfe.mp4" and printable("пляж 🏖.mp4") == "пляж 🏖.mp4"
  assert not doctest.testmod(tables).failed
