"""panda inspect: what a dataset holds."""

import argparse
from collections.abc import Callable
from typing import Any

SUMMARY = "show what a dataset holds: clips, durations, captions, what was rejected and why, a sheet of random clips"
EXAMPLE = """\
panda inspect data/clips
panda inspect data/clips --sheet sheet.png --records 20 --seed 3
panda inspect data/clips --split validation --json"""

_MOST = 12                                   # rows of a table of sizes
_LONG = 90                                   # letters of a caption that are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the arguments of `panda inspect`."""
  parser.add_argument("dataset", metavar="DATASET", help="folder that panda prepare made")
  parser.add_argument("--split", metavar="NAME", help="look at its clips only (default: all splits)")
  parser.add_argument("--sheet", metavar="FILE.png", help="also draw the middle frames of random clips")
  parser.add_argument("--records", type=int, default=12, metavar="N", help="clips on the sheet (default 12)")
  parser.add_argument("--seed", type=int, default=0, help="of the clips that are drawn for the sheet (default 0)")
  parser.add_argument("--model", metavar="MODEL",
                      help="show latents on the sheet as pictures, decoded by the model that made them: a model folder "
                           "or the workdir of a run (default: in false colours)")
  parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(args: argparse.Namespace) -> None:
  """Prints what is in the dataset and draws the sheet.

  Raises:
    InputError: if the dataset is missing, unfinished or damaged, or the sheet cannot be drawn or written.
  """
  import json

  from panda_jax.cli import console
  from panda_jax.data import inspecting
  from panda_jax.tiles import write_png

  _check(args)
  decode = None
  if args.model is not None:
    decode = _decoder(args.dataset, inspecting.find_dataset(args.dataset)["about"], args.model)
  about = inspecting.inspect(args.dataset, args.split, console.progress)
  if args.sheet is not None:
    write_png(args.sheet, inspecting.draw_sheet(args.dataset, args.split, args.records, args.seed, decode))
  if args.json:
    print(json.dumps(about, indent=1, ensure_ascii=False))
    return
  _print(about)
  if args.sheet is not None:
    print(f"\n{args.sheet} shows {min(args.records, sum(split['clips'] for split in about['splits'].values()))} clips")


def _check(args: argparse.Namespace) -> None:
  """What can be known to be wrong before all records are read."""
  from pathlib import Path

  from panda_jax.errors import InputError
  if args.sheet is None:
    if args.model is not None:
      raise InputError("--model is for the pictures of --sheet FILE.png: give both")
    return
  if Path(args.sheet).suffix.lower() != ".png":
    raise InputError(f"--sheet {args.sheet} is not the name of a picture: let it end in .png")
  if Path(args.sheet).is_dir():
    raise InputError(f"--sheet {args.sheet} is a folder: give the name of a file to write")
  if args.records < 1:
    raise InputError(f"--records must be at least 1, got {args.records}")
  if args.seed < 0:
    raise InputError(f"--seed must be 0 or more, got {args.seed}")


def _decoder(dataset: str, key: dict[str, Any], model: str) -> Callable:
  """Stored latents [v h w c] of one frame -> uint8 [v H W 3], by the model that made them."""
  import jax
  import numpy as np

  from panda_jax.data import stores
  from panda_jax.errors import InputError
  from panda_jax.generate.load import open_model
  if "codec" not in key:
    raise InputError(f"--model is for latents, and {dataset} stores none: leave it out")
  system, params, _ = open_model(model)
  stores.check_fresh(dataset, key, system.stored_key(params))

  @jax.jit
  def decode(params, latents):
    latents = latents[None, :, None]
    return system.decode(params, latents if key["scaled"] else system.codec.latents(latents))[0, :, 0]

  return lambda latents: np.asarray(decode(params, latents))


def _print(about: dict[str, Any]) -> None:
  from panda_jax.cli import console
  _print_facts(about["path"], _facts(about))
  console.table("clips", ("split", "clips", "frames", "h:mm:ss", "shortest s", "median s", "longest s", "frames/s",
                          "on disk"),
                [(name, split["clips"], split["frames"], _clock(split["seconds"]), *split["clip_seconds"].values(),
                  _rates(split["fps"]), _size(split["bytes"])) for name, split in about["splits"].items()])
  captions, words = about["captions"], about["captions"]["words"]
  total = sum(split["clips"] for split in about["splits"].values())
  _print_facts("captions", [
    ("words", f"{words['min']:g} to {words['max']:g}, median {words['median']:g}"),
    ("distinct", f"{captions['distinct']} of {total}"),
    ("default", f"{captions['default']} of {total}"),
    *(("shortest", repr(caption if len(caption) <= _LONG else caption[:_LONG] + "…"))
      for caption in captions["shortest"])])
  _print_sources(about)
  for sentence in about["warnings"]:
    print(f"\nworth knowing: {sentence}")


def _facts(about: dict[str, Any]) -> list[tuple[str, str]]:
  """What it is, in words."""
  key, (height, width) = about["about"], about["size"]
  facts = [("kind", about["kind"]), ("store", about["store"].replace("_", " ")), ("frames", f"{width}x{height}")]
  if "codec" not in key:
    lossless = about["encoding"] == "png"
    facts.append(("encoding", about["encoding"] + ("" if lossless else f", quality {about['quality']}")))
  if "motion" in key:
    facts.append(("motion", f"optical flow by {key['motion'].get('estimator', 'an unknown estimator')}, in the colours of "
                            "the 360-Adapter"))
  if "rig" in key:
    (h, w), cameras = key["view_size"], f"{len(key['rig'])} cameras"
    named = about["rig"] if about["rig"] == cameras else f"{about['rig']}, {cameras}"
    facts += [("rig", named), ("views", f"{w}x{h} at {key['yaws']} yaw{'s' if key['yaws'] > 1 else ''} of each clip")]
  if "codec" in key:
    (h, w, c), text = key["shape"], key.get("text")
    facts += [("latents", f"{w}x{h} of {c} numbers, {key['dtype']}{', mirrored as well' if key['flips'] else ''}"),
              ("codec", f"{key['codec']['kind']}, {_short(key.get('codec weights'))}"),
              ("text", f"{text['kind']}, {_short(key.get('text weights'))}" if text else "not stored")]
  return facts


def _print_sources(about: dict[str, Any]) -> None:
  """What the manifest says of the files and of the rules that fired."""
  import json

  from panda_jax.cli import console
  sources, rules = about["sources"], about["rules"]
  if sources is None:
    print(f"\nthere is no manifest.json that names its sources; it says of itself: {json.dumps(about['metadata'])}")
    return
  if sources["made_of"]:
    print(f"\nmade of the dataset {sources['made_of']}, which says what its sources were")
    return
  kinds = ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in sources["kinds"].items())
  sizes = sorted(sources["resolutions"], key=lambda row: -row["used"] - row["skipped"])
  rows = [(f"{row['width']}x{row['height']}" if row["width"] else "unknown", row["used"], row["skipped"])
          for row in sizes[:_MOST]]
  if len(sizes) > _MOST:
    rest = sizes[_MOST:]
    rows.append((f"{len(rest)} more", *(sum(row[name] for row in rest) for name in ("used", "skipped"))))
  console.table(f"sources: {sources['files']} files ({kinds})", ("size", "used", "skipped"),
                [*rows, ("all", sources["used"], sources["skipped"])])
  if rules is None:
    verdicts = sorted(sources["verdicts"].items(), key=lambda item: -item[1])
    console.table("verdicts (the manifest is from before there were rules)", ("verdict", "files"), verdicts)
    return
  fired = sorted(((name, row) for name, row in rules.items() if row["count"]), key=lambda item: -item[1]["count"])
  if not fired:
    print("\nno rule had anything to say about them")
    return
  console.table("rules that fired", ("rule", "files", "effect"),
                [(name, row["count"], row["effect"]) for name, row in fired])
  _print_facts("for example", [(name, f"{row['example']['file']} {row['example']['why']}") for name, row in fired
                               if row["example"]])


def _print_facts(title: str, facts: list[tuple[str, str]]) -> None:
  width = max((len(name) for name, _ in facts), default=0)
  print(f"\n{title}")
  for name, said in facts:
    print(f"  {name.ljust(width)}  {said}")


def _rates(rates: list[dict[str, float]]) -> str:
  """The most common first: "8, 29.97 (3 clips)"."""
  rates = sorted(rates, key=lambda row: -row["clips"])
  said = [f"{row['fps']:g}" + (f" ({row['clips']})" if len(rates) > 1 else "") for row in rates[:4]]
  return ", ".join(said) + (", …" if len(rates) > 4 else "")


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _size(count: float) -> str:
  for unit in ("B", "KB", "MB", "GB"):
    if count < 1000:
      return f"{count:.3g} {unit}"
    count /= 1000
  return f"{count:.3g} TB"


def _short(checksum: str | None) -> str:
  return "no weights" if checksum is None else f"weights {checksum.removeprefix('sums:')[:8]}"
