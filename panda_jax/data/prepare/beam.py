"""`panda prepare` on many machines: the pieces of work of `Pool`, as Apache Beam pipelines.

Needs `pip install panda_jax[beam]`. data_prep/beam_prepare.py is the command line.
"""

import base64
import pickle
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from panda_jax.paths import as_path


class BeamPool:
  """Has Beam's workers do what `Pool` has processes do; one pipeline for each call of `map`.

  Args:
    options: of the pipelines, such as PipelineOptions(["--runner=DataflowRunner", …]).
    scratch: a folder that this machine and all workers see, for what the workers answer; gs://… unless they are here.
  """

  def __init__(self, options: PipelineOptions, scratch: str):
    self.options, self.scratch = options, scratch

  def map(self, function: Callable, pieces: Sequence[tuple]) -> Iterator[tuple[int, Any]]:
    """Calls function(*piece) for each piece, somewhere; every answer comes when all are there.

    A piece whose worker dies is tried again by the runner; after that the pipeline fails.

    Yields:
      (number of the piece, result).
    """
    if not pieces:
      return
    answers = as_path(self.scratch) / f"answers-{uuid.uuid4().hex}"
    answers.mkdir(parents=True, exist_ok=True)
    with beam.Pipeline(options=self.options) as pipeline:
      (pipeline
       | "pieces" >> beam.Create([_pack((number, piece)) for number, piece in enumerate(pieces)])
       | "share out" >> beam.Reshuffle()
       | "work" >> beam.Map(_work, function)
       | "answers" >> beam.io.WriteToText(str(answers / "part")))
    for file in sorted(answers.iterdir()):
      for line in file.read_text().splitlines():
        yield _unpack(line)
    answers.rmtree()


def _work(packed: str, function: Callable) -> str:
  number, piece = _unpack(packed)
  return _pack((number, function(*piece)))


def _pack(value: Any) -> str:
  return base64.b64encode(pickle.dumps(value)).decode("ascii")


def _unpack(packed: str) -> Any:
  return pickle.loads(base64.b64decode(packed))
