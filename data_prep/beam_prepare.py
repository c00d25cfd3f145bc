"""`panda prepare` on many machines, through Apache Beam; see data_prep/README.md for Dataflow.

  python data_prep/beam_prepare.py --input films --output records                      # here, to try it
  python data_prep/beam_prepare.py --input gs://bucket/films --output gs://bucket/records --captions captions.csv \\
      --runner DataflowRunner --project PROJECT --region us-east5 --temp_location gs://bucket/tmp …

Options that are not those of `panda prepare` go to Beam. Needs `pip install panda_jax[beam]`, and for buckets `[gs]`.
"""

import argparse
import sys
import tempfile

from apache_beam.options.pipeline_options import PipelineOptions

from panda_jax.cli import console, prepare
from panda_jax.data.prepare.beam import BeamPool
from panda_jax.errors import InputError
from panda_jax.paths import is_remote


def main(argv: list[str]) -> int:
  """The exit status: 0, or 2 for bad input."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                   allow_abbrev=False)
  prepare.add_arguments(parser)
  parser.add_argument("--temp_location", help="Beam's, and where workers leave their answers; gs://… for Dataflow")
  args, for_beam = parser.parse_known_args(argv)
  args.overrides = [word for word in for_beam if word.startswith("--config.")]
  for_beam = [word for word in for_beam if word not in args.overrides]
  if args.temp_location:
    for_beam.append(f"--temp_location={args.temp_location}")
  console.quiet_libraries()
  try:
    if is_remote(args.output) and not args.temp_location:
      raise InputError("--temp_location is missing: workers elsewhere need a folder in a bucket for their answers")
    with tempfile.TemporaryDirectory() as here:
      prepare.run(args, BeamPool(PipelineOptions(for_beam), args.temp_location or here))
  except InputError as error:
    print(f"beam_prepare: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
