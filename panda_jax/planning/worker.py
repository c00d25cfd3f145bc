"""Makes one report, in a process of its own so that its memory is given back.

  python -m panda_jax.planning.worker OUT [STORE]

Reads the request as JSON from standard input, writes {"report": …}, or {"error": sentence}, to the file OUT.
"""

import json
import sys
from pathlib import Path

from ml_collections import ConfigDict

from panda_jax.errors import InputError
from panda_jax.parallel import topology
from panda_jax.planning.store import Store


def make_report(request: dict, store: Store) -> dict:
  """The report that a request asks for; see `panda_jax.planning.plan.Request`.

  Raises:
    InputError: for what cannot be planned.
  """
  config = ConfigDict(request["config"])
  chip, _ = topology.parse(request["topology"])
  devices = topology.devices(request["topology"], request["slices"])
  from panda_jax.planning.measure import measure                # after libtpu's environment is set
  from panda_jax.planning.programs import make_program
  shape = request["shape"] and tuple(request["shape"])
  program = make_program(config, devices, request["program"], shape, request["clips_per_chip"], request["guidance"])
  if request["state_alone"]:
    return {"state": program.state, "clips": program.clips, "mesh": program.mesh}
  return measure(program, chip, f"{request['topology']} {request['slices']}", request["effort"], store)


def main(arguments: list[str]) -> None:
  out, *folder = arguments
  store = Store(Path(folder[0]) if folder else None)
  try:
    answer = {"report": make_report(json.load(sys.stdin), store)}
  except InputError as error:
    answer = {"error": str(error)}
  Path(out).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
  main(sys.argv[1:])
