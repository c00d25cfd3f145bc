"""The argument behind a config's colon: `--config configs/tiny.py:steps=1000,runlocal`."""

import ast

from ml_collections import ConfigDict

from panda_jax.errors import InputError


def parse_arg(arg: str | None, **defaults) -> ConfigDict:
  """"a=1,b" -> the defaults with a=1 and b=True; values are read as the type of their default.

  Raises:
    InputError: for an unknown name or a value of another type.
  """
  parsed = ConfigDict(defaults)
  for item in (arg or "").split(","):
    name, has_value, text = item.strip().partition("=")
    if not name:
      continue
    if name not in defaults:
      raise InputError(f"the config has no argument {name!r}; it takes {', '.join(defaults)}")
    default = defaults[name]
    try:
      value = True if not has_value else text if isinstance(default, str) else ast.literal_eval(text)
      if type(value) is not type(default) and (type(default), type(value)) != (float, int):
        raise TypeError
      parsed[name] = type(default)(value)
    except (ValueError, SyntaxError, TypeError) as error:
      raise InputError(f"the config's argument {item.strip()} is not of type {type(default).__name__}, as in "
                       f"{name}={default}") from error
  return parsed
