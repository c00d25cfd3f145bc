"""`panda study`: builds the page of a preference study, and reads what participants send back."""

import argparse
from pathlib import Path

from panda_jax.errors import InputError

SUMMARY = "have people choose between the videos of methods: an offline page, then preference with intervals"
EXAMPLE = """\
panda study --generated samples --methods ours,baseline --reference clips/master.csv --output page
panda study --key page.key.json --answers answers_ann.json answers_bob.json --output preference.md"""

_BUILD = ("generated", "methods", "reference", "conditions", "clips", "question", "ties", "encode")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the arguments of `panda study`."""
  build = parser.add_argument_group("build a page")
  build.add_argument("--generated", metavar="DIR", help="videos: DIR/METHOD/CLIP_ID.mp4, of two methods or more")
  build.add_argument("--methods", metavar="A,B", help="the methods to compare, the one that preferences are of first "
                     "(default: all in DIR); of more than two, all pairs")
  build.add_argument("--reference", metavar="CSV|DIR", help="the clips to choose from, with their prompts: master.csv "
                     "or a folder of videos (default: whatever the methods have)")
  build.add_argument("--conditions", metavar="DIR", help="videos CLIP_ID.mp4 that the methods were given; shown above")
  build.add_argument("--clips", type=int, metavar="N", help="for each pair of methods, drawn at random (default 20)")
  build.add_argument("--question", nargs="+", metavar="TEXT", help="asked about each pair of videos, one after the "
                     'other (default "Which video do you prefer?")')
  build.add_argument("--ties", action="store_true", help='allow "cannot tell"; without it, one has to choose')
  build.add_argument("--encode", action="store_true", help="encode all videos alike, if browsers cannot play some")
  read = parser.add_argument_group("read the answers")
  read.add_argument("--key", metavar="FILE", help="DIR.key.json, which was written beside the page's folder DIR")
  read.add_argument("--answers", nargs="+", metavar="FILE", help="what participants sent back")
  parser.add_argument("--seed", type=int, default=0, help="of what is drawn, or of the bootstrap (default 0)")
  parser.add_argument("--output", metavar="DIR|FILE", help="folder of the page to build; or file for the result, "
                      ".json, .md or .csv, beside the table printed")


def run(args: argparse.Namespace) -> None:
  """Builds the page, or prints and writes the result.

  Raises:
    InputError: if arguments do not go together, or what they name cannot be used.
  """
  reading = args.key is not None or args.answers is not None
  if reading and (building := [name for name in _BUILD if getattr(args, name) not in (None, False)]):
    raise InputError(f"--{building[0]} is for building a page, --key and --answers for reading answers: do one of both")
  if "://" in (args.output or ""):
    raise InputError(f"--output {args.output} is not on this machine: give a place that is, and copy it from there")
  if args.seed < 0:
    raise InputError(f"--seed must be 0 or more, got {args.seed}")
  if reading:
    _read(args)
  else:
    _build(args)


def _build(args: argparse.Namespace) -> None:
  from panda_jax.cli import console
  from panda_jax.data.tables import printable
  from panda_jax.data import clips as layout
  from panda_jax.evaluation.preference import page, trials

  if args.generated is None or args.output is None:
    raise InputError("give --generated DIR and --output DIR to build a page, or --key FILE and --answers FILE … to "
                     "read answers")
  count = 20 if args.clips is None else args.clips
  if count < 1:
    raise InputError(f"--clips must be at least 1, got {count}")
  questions = args.question or [page.QUESTION]
  if "" in map(str.strip, questions) or len(set(questions)) < len(questions):
    raise InputError("--question must not be empty, nor ask the same twice")
  conditions = None if args.conditions is None else Path(args.conditions)
  if conditions is not None and not conditions.is_dir():
    raise InputError(f"--conditions {printable(conditions)} is no folder: give one that holds CLIP_ID.mp4")
  methods = _choose(layout.find_methods(args.generated), args.methods, args.generated)
  clips = layout.clips_of_methods(methods) if args.reference is None else layout.read_clips(args.reference)
  pairs = trials.draw_pairs(methods, clips, count, args.seed)
  study, key, notes = page.build_study(Path(args.output), methods, pairs, args.seed, questions, args.ties, conditions,
                                       args.encode, console.progress)
  for pair in pairs:
    fewer = f", fewer than the {count} asked for" if len(pair.clips) < count else ""
    print(f"{printable(pair.a)} against {printable(pair.b)}: {_clips(len(pair.clips))}{fewer}")
    for method, ids in pair.lacking.items():
      print(f"  {printable(method)} has no video of {_clips(len(ids))}, left out: {', '.join(map(printable, ids))}")
  for method, names in layout.unlisted(methods, clips).items():
    print(f"{printable(method)} has videos of no clip in {printable(args.reference)}, {len(names)} of them left out: "
          f"{', '.join(map(printable, names))}")
  for note in notes:
    print(note)
  folder = Path(args.output)
  whole = "the whole folder" if (folder / "media").is_dir() else "this one file"
  print(f"{printable(folder / 'index.html')} has {len(study.trials)} pairs of videos: hand out {whole}")
  print(f"{printable(key)} says which method is which: keep it, since answers cannot be read without it, and do not "
        "hand it out")


def _clips(count: int) -> str:
  return f"{count} clip{'' if count == 1 else 's'}"


def _choose(found: dict[str, Path], wanted: str | None, generated: str) -> dict[str, Path]:
  names = list(found) if wanted is None else [name.strip() for name in wanted.split(",") if name.strip()]
  if unknown := [name for name in names if name not in found]:
    raise InputError(f"--methods: there is no {unknown[0]} in {generated}, only {', '.join(found)}")
  if len(set(names)) < len(names):
    raise InputError(f"--methods {wanted} names a method twice")
  if len(names) < 2:
    raise InputError(f"a preference is between two methods, and there is only {', '.join(names) or 'none'}: let "
                     "--generated be a folder that holds a folder of videos for each")
  return {name: found[name] for name in names}


def _read(args: argparse.Namespace) -> None:
  from panda_jax import paths
  from panda_jax.cli import console
  from panda_jax.evaluation.preference import answers, statistics, tables, trials

  if args.key is None or args.answers is None:
    raise InputError("--key FILE and --answers FILE … go together: the key lies beside the folder of the page")
  ending = None if args.output is None else Path(args.output).suffix.lower()
  if ending not in (None, ".json", ".md", ".csv"):
    raise InputError(f"--output {args.output} is not the name of a result: let it end in .json, .md or .csv")
  study = trials.read_key(Path(args.key))
  sheets = answers.read_sheets([Path(name) for name in args.answers], study)
  results = statistics.preferences(study, sheets, args.seed)
  for question in study.questions:
    console.table(question, tables.COLUMNS, tables.rows([r for r in results if r.question == question]))
  print("\n" + "\n".join([tables.NOTE, *tables.remarks(sheets)]))
  if ending is None:
    return
  text = {
    ".json": lambda: tables.as_json(study, sheets, results, args.seed),
    ".md": lambda: tables.as_markdown(study, sheets, results),
    ".csv": lambda: tables.as_csv(results),
  }[ending]()
  with paths.written_whole(args.output) as unfinished:
    unfinished.write_text(text, encoding="utf-8")
  print(args.output)
