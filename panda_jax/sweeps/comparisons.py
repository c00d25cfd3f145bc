"""The methods of a comparison file: what is trained first, and how each makes its videos of the same clips."""

from collections.abc import Sequence
import dataclasses
import shlex

from panda_jax.errors import InputError
from panda_jax.paths import holds_run
from panda_jax.sweeps.points import Point, check_name, make_point, run_file
from panda_jax.weights.shipped import find_model

RUNS, GENERATED = "runs", "generated"                 # folders below the workdir

_KEYS = ("name", "model", "config", "generate")
_FORM = "a comparison file has compare(), as in configs/comparisons/systems.py"


@dataclasses.dataclass(frozen=True)
class Method:
  """One folder of videos.

  Attributes:
    name: of the folder.
    trained: the run that makes its model; None where there is a model already.
    model: a model folder, a run's workdir or the name of a shipped model; empty if it is trained.
    uses: name of the method whose model it has, itself if it has its own.
    options: of `panda generate --batch`, without the dashes: a value, True for a flag, a list for one that is repeated.
  """

  name: str
  trained: Point | None
  model: str
  uses: str
  options: dict[str, object]


def read_methods(file: str, common: Sequence[str] = ()) -> list[Method]:
  """Runs a comparison file; what is wrong with any method is found here, before any training.

  Its compare() yields a dict for each method: "name"; "model" or "config", what it loads or what it trains, where a
  model may be the name of a method before it; "generate", a dict of options of `panda generate --batch`; and with a
  config, overrides by dotted keys.

  Args:
    file: looked up as given, then in the project's own configs.
    common: overrides for all that is trained, "--config.key=value"; a method's own come after them.

  Raises:
    InputError: for a file that is absent or fails, a wrong key, a model that is not there, a name that comes twice.
  """
  methods: dict[str, Method] = {}
  for values in run_file(file, "compare", (), _FORM)["compare"]:
    method = _method(file, values, methods, common)
    if method.name in methods:
      raise InputError(f"{file} yields a second method named {method.name!r}: make each differ")
    methods[method.name] = method
  if not methods:
    raise InputError(f"{file} yields no method: its compare() must yield a dict for each")
  return list(methods.values())


def generate_words(method: Method, methods: Sequence[Method], workdir: str, batch: Sequence[str]) -> list[str]:
  """The words after `panda` that make a method's videos.

  Args:
    method: one of `methods`.
    workdir: of the comparison.
    batch: what all methods are told alike, from --batch on.
  """
  owner = next(other for other in methods if other.name == method.uses)
  model = f"{workdir.rstrip('/')}/{RUNS}/{owner.name}" if owner.trained else owner.model
  is_run = owner.trained is not None or holds_run(model)
  words = ["generate", "--workdir" if is_run else "--checkpoint", model, *batch,
           "--output", f"{workdir.rstrip('/')}/{GENERATED}/{method.name}"]
  for name, value in method.options.items():
    for each in value if isinstance(value, (list, tuple)) else (value,):
      words += [f"--{name}"] if each is True else [f"--{name}", str(each)]
  return words


def shell_line(words: Sequence[str]) -> str:
  """The command for a shell."""
  return shlex.join(["panda", *words])


def _method(file: str, values: dict[str, object], before: dict[str, Method], common: Sequence[str]) -> Method:
  name = str(values.get("name", ""))
  check_name(name, f"{file} names a method")
  config, model, options = values.get("config"), values.get("model"), dict(values.get("generate", {}))
  overrides = {key: value for key, value in values.items() if key not in _KEYS}
  if (config is None) == (model is None):
    raise InputError(f'{file}: the method {name!r} needs either "model", what it loads, or "config", what it trains')
  if config is not None:
    return Method(name, make_point(name, str(config), overrides, common), "", name, options)
  if overrides:
    raise InputError(f"{file}: the method {name!r} has a model and sets {', '.join(overrides)}, which are for "
                     'training: give options of sampling in "generate"')
  if model in before:
    return Method(name, None, "", before[model].uses, options)
  if not find_model(str(model)).is_dir():
    raise InputError(f"{file}: the model {model!r} of the method {name!r} is no folder, no shipped model, and no "
                     "method before it")
  return Method(name, None, str(model), name, options)
