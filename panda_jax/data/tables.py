"""Tables of captions as people have them: csv files, read strictly, with a sentence for whatever is wrong."""

import csv
import dataclasses
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from panda_jax.errors import InputError

_LARGEST = 1 << 30                                     # bytes; a million captions are a few hundred megabytes


@dataclasses.dataclass(frozen=True)
class Row:
  """One row: `row["caption"]` is the text of a column without blanks around it; `line` is where it begins."""

  line: int
  values: Mapping[str, str]

  def __getitem__(self, column: str) -> str:
    return self.values[column]


@dataclasses.dataclass(frozen=True)
class Table:
  """What a csv file holds; `layout` is the one of the layouts asked for that it has."""

  path: Path
  layout: tuple[str, ...]
  rows: list[Row]
  warnings: list[str]


def read_table(path: str | Path, layouts: Sequence[Sequence[str]], what: str = "table") -> Table:
  """Reads a csv file whose first line names its columns.

  A byte order mark, any line ends, blank lines, quoted commas and line breaks, columns in any order and with any case
  and blanks in their names, and further columns are all fine. Rows with too few or too many fields are left out, with
  a warning.

  Args:
    path: the file.
    layouts: sets of columns that will do, in lower case, the one to prefer first.
    what: what to call it in a sentence: "captions", "list of films".

  Returns:
    The rows in order.

  Raises:
    InputError: if it is no such file: missing, not UTF-8, not closed quotes, columns that are missing or named twice.
  """
  path = Path(path)
  name = f"the {what} {printable(path)}"
  wanted = " or ".join(f"`{','.join(layout)}`" for layout in layouts)
  records = _records(_read_text(path, what, wanted), name)
  header = next(records, (1, []))[1]
  columns = ["".join(column.split()).lower() for column in header]
  layout = next((tuple(layout) for layout in layouts if set(layout) <= set(columns)), None)
  if layout is None:
    raise InputError(f"{name} {'lack' if what == 'captions' else 'lacks'} a header: its first line must be {wanted}, "
                     f"{_lacks(header, columns, layouts)}")
  if twice := [column for column in layout if columns.count(column) > 1]:
    raise InputError(f"{name} cannot be used: its first line names the column {twice[0]} twice")
  rows, odd = [], []
  for line, fields in records:
    while len(fields) > len(columns) and not fields[-1].strip():      # spreadsheets pad rows
      fields.pop()
    if not any(map(str.strip, fields)):
      continue
    if len(fields) == len(columns):
      rows.append(Row(line, dict(zip(columns, map(str.strip, fields)))))
    else:
      odd.append((line, len(fields)))
  warnings = []
  if odd:
    warnings.append(f"{len(odd)} rows of {printable(path)} do not have {len(columns)} fields and are left out (text "
                    f"with a comma needs quotes around it): the first is line {odd[0][0]} with {odd[0][1]}")
  return Table(path, layout, rows, warnings)


def first_of_each(rows: Sequence[Row], column: str) -> tuple[list[Row], list[Row]]:
  """The rows that are the first with their value of a column, and the others; both in order."""
  seen: set[str] = set()
  firsts, repeats = [], []
  for row in rows:
    (repeats if row[column] in seen else firsts).append(row)
    seen.add(row[column])
  return firsts, repeats


def printable(name: str | Path) -> str:
  """A name as it can be printed and written to JSON: line breaks, control characters and stray bytes are escaped.

  >>> printable("two" + chr(10) + "lines.mp4")
  'two\\\\nlines.mp4'
  """
  return "".join(letter if letter.isprintable() else _escape(letter) for letter in str(name))


def _escape(letter: str) -> str:
  if "\udc80" <= letter <= "\udcff":                   # how Python writes a byte of a file name that is not UTF-8
    return f"\\x{ord(letter) - 0xdc00:02x}"
  return letter.encode("unicode_escape").decode("ascii")


def _read_text(path: Path, what: str, wanted: str) -> str:
  name = f"the {what} {printable(path)}"
  if not os.path.exists(path):
    raise InputError(f"there is no {what} file {printable(path)}: give a csv file with a header {wanted}")
  if not os.path.isfile(path):                         # a named pipe would be waited for
    raise InputError(f"{name} is no file: give a csv file with a header {wanted}")
  try:
    if (size := path.stat().st_size) > _LARGEST:
      raise InputError(f"{name} has {size / 1e9:.1f} GB: that is no table of captions")
    data = path.read_bytes()
  except OSError as error:
    raise InputError(f"{name} cannot be read ({error.strerror}): give a csv file in UTF-8") from error
  try:
    text = data.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
      raise InputError(f"{name} is in UTF-16: save it as csv in UTF-8") from error
    line = data.count(b"\n", 0, error.start) + 1
    raise InputError(f"{name} is not in UTF-8 (line {line}): save it as csv in UTF-8") from error
  if "\0" in text:
    raise InputError(f"{name} is no text (line {text.count(chr(10), 0, text.index(chr(0))) + 1} holds a zero byte): "
                     "give a csv file in UTF-8")
  return text


def _records(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
  """(line, fields) of every row, the blank ones too."""
  reader = csv.reader(io.StringIO(text, newline=""), strict=True)
  while True:
    line = reader.line_num + 1
    try:
      fields = next(reader, None)
    except csv.Error as error:                         # a quote left open also ends at the limit of a field's size
      raise InputError(f"{name} cannot be read: the row that begins in line {line} is no csv ({error}); quotes belong "
                       "around a whole field, and a quote inside is written twice") from error
    if fields is None:
      return
    yield line, fields


def _lacks(header: Sequence[str], columns: Sequence[str], layouts: Sequence[Sequence[str]]) -> str:
  """What is wrong with a first line, as a clause."""
  if not any(columns):
    return "it is empty"
  shown = printable(",".join(header))
  shown = shown if len(shown) <= 100 else shown[:100] + " …"
  if len(columns) == 1 and any(mark in columns[0] for mark in ";\t"):
    return f"separated by commas, it is `{shown}`"
  nearest = max(layouts, key=lambda layout: len(set(layout) & set(columns)))
  missing = [column for column in nearest if column not in columns]
  has = f"it has {', '.join(shown.split(','))}"
  return has if len(missing) == len(nearest) else f"{has} and lacks {', '.join(missing)}"
