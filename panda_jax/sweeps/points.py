"""The points of a sweep file: which runs there are, and the command line of each."""

from collections.abc import Sequence
import dataclasses
import re
import runpy
import shlex
from typing import Any

from panda_jax.errors import InputError
from panda_jax.training.config import find_config, load_config, to_plain


@dataclasses.dataclass(frozen=True)
class Point:
  """One run of a sweep.

  Attributes:
    name: of its folder below the sweep's workdir.
    config: its config file, with the argument behind the colon.
    values: what the sweep file sets: dotted key -> value.
    common: overrides that all points have, such as "--config.data.path=worlds".
    plain: its whole config, as JSON has it.
    is_named: whether the name is the sweep file's; otherwise it is made of the values.
  """
  name: str
  config: str
  values: dict[str, object]
  common: Sequence[str]
  plain: dict
  is_named: bool

  @property
  def steps(self) -> int:
    """How many steps it is to train."""
    return self.plain["training"]["steps"]

  def arguments(self, workdir: str) -> list[str]:
    """The words after `panda train`; `workdir` is the sweep's, a folder or a bucket's."""
    return ["--config", self.config, "--workdir", f"{workdir.rstrip('/')}/{self.name}", *self.common,
            *_overrides(self.values)]


def read_points(sweep: str, common: Sequence[str] = ()) -> list[Point]:
  """Runs a sweep file; what is wrong with any of its points is found here, before any training.

  A sweep file has CONFIG, the base config, and sweep(), which yields each point's overrides: a dict of dotted key and
  value. Beside those a point may hold "config", which it has instead of CONFIG (such as another argument behind the
  colon), and "name", that of its folder.

  Args:
    sweep: the file; looked up as given, then in the project's own configs.
    common: overrides for all points, "--config.key=value"; a point's own come after them.

  Raises:
    InputError: for a file that is absent or fails, a wrong key, and points that would share a folder or have none.
  """
  content = run_file(sweep, "sweep", ("CONFIG",), "a sweep file has CONFIG and sweep(), as in "
                     "configs/sweeps/tiny_learning_rate.py")
  base, yielded = content["CONFIG"], content["sweep"]
  points = {}
  for values in yielded:
    config, given = str(values.pop("config", base)), values.pop("name", None)
    name = _name(values) if given is None else str(given)
    if given is not None:
      check_name(name, f"{sweep} names a point")
    if not name or name in points:
      raise InputError(f"{sweep} yields a second point named {name!r}, or one without overrides: make each differ")
    points[name] = make_point(name, config, values, common, is_named=given is not None)
  if not points:
    raise InputError(f"{sweep} yields no point: its sweep() must yield one dict of overrides for each run")
  return list(points.values())


def shell_lines(points: Sequence[Point], workdir: str, launcher: str = "panda train") -> list[str]:
  """One line for a shell per point.

  Args:
    workdir: the sweep's.
    launcher: what stands before the arguments of `panda train`, such as "launch/tpu_vm.sh my-tpu us-east5-b". {name}
      in it becomes the point's name in small letters, digits and hyphens, as Kubernetes wants it.

  Raises:
    InputError: if two points would have one such name.
  """
  hyphened = [re.sub(r"[^a-z0-9]+", "-", point.name.lower()).strip("-") for point in points]
  if "{name}" in launcher and len(set(hyphened)) < len(points):
    twice = next(name for name in hyphened if hyphened.count(name) > 1)
    raise InputError(f"two points would be launched as {twice!r}: give them a \"name\" each in the sweep file")
  return [f"{launcher.replace('{name}', name)} {shlex.join(point.arguments(workdir))}"
          for point, name in zip(points, hyphened, strict=True)]


def make_point(name: str, config: str, values: dict[str, object], common: Sequence[str],
               is_named: bool = True) -> Point:
  """A point with its whole config; arguments as the attributes of `Point`.

  Raises:
    InputError: for a config that is absent or a wrong key.
  """
  plain = to_plain(load_config(config, [*common, *_overrides(values)]))
  return Point(name, config, values, tuple(common), plain, is_named)


def check_name(name: str, what: str) -> None:
  """Raises InputError, which begins with `what`, for what cannot be a folder's name in any file system or shell."""
  if not re.fullmatch(r"\w[\w.=+,-]*", name):
    raise InputError(f"{what} {name!r}: give a folder's name of letters, digits and any of _.=+,-")


def run_file(file: str, function: str, constants: Sequence[str], form: str) -> dict[str, Any]:
  """Runs a file of Python that yields dicts.

  Args:
    file: looked up as given, then in the project's own configs.
    function: of the file, which yields the dicts.
    constants: names that it must have, too.
    form: a clause that says what such a file has, for errors.

  Returns:
    The constants by their names, and under the function's name the list of what it yields.

  Raises:
    InputError: if it is absent or fails.
  """
  path = find_config(file)
  try:
    content = runpy.run_path(str(path))
    return {name: content[name] for name in constants} | {function: [dict(values) for values in content[function]()]}
  except InputError:
    raise
  except KeyError as error:
    raise InputError(f"{file} has no {error}: {form}") from error
  except Exception as error:                                   # such a file may do anything; say it in one sentence
    raise InputError(f"{file}: {type(error).__name__}: {error}") from error


def _name(values: dict) -> str:
  """The last parts of the keys with their values, as a folder may be named."""
  return ",".join(re.sub(r"[^\w.=+-]+", "_", f"{key.split('.')[-1]}={value}") for key, value in values.items())


def _overrides(values: dict) -> list[str]:
  return [f"--config.{key}={value}" for key, value in values.items()]
