"""panda prepare: 360° videos and photographs, or ordinary films, become a dataset of clips."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from panda_jax.cli import console
from panda_jax.errors import InputError

if TYPE_CHECKING:
  from panda_jax.data.prepare import Options, Pool
  from panda_jax.data.stores import Store

SUMMARY = "Turn 360° videos and equirectangular photographs, or with --flat ordinary films, into a dataset of clips."
EXAMPLE = """\
panda prepare --input my_360_videos --output data/clips --captions captions.csv
panda prepare --input WEB360 --output data/web360 --height 512
panda prepare --input WEB360 --output data/web360_motion --flow
panda prepare --input data/web360 --output data/latents --store latents --model base --yaws 4"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the options of `panda prepare`."""
  parser.add_argument("--input", nargs="+", required=True, metavar="PATH",
                      help="360° videos (mp4, mov, webm, mkv), equirectangular stills (jpg, png), or folders to search "
                           "through; WEB360 or YouTube360 as they are distributed; or one dataset of panoramas, to "
                           "make crops or latents of. A still becomes 8 s of slow camera turn (6°/s, 8 frames/s)")
  parser.add_argument("--output", required=True, metavar="DIR",
                      help="folder to make, also gs://…; appears when it is complete. The same command after an "
                           "interruption continues in DIR.incomplete")
  parser.add_argument("--captions", metavar="CSV",
                      help="table with a header `file,caption` (or `videoid,name`, as in WEB360); rows name a file by "
                           'its name or stem. A file without a row is captioned "a 360 degree video", with --flat '
                           '"a video"')
  parser.add_argument("--dataset", default="auto", choices=("auto", "web360", "youtube360", "folder360"),
                      help="what the input is (default: seen from its files)")
  parser.add_argument("--height", type=int,
                      help="rows of the stored frames; columns are twice as many, with --flat as many (default 512, or "
                           "those of the input dataset)")
  parser.add_argument("--encoding", choices=("jpeg", "png", "webp"), default="jpeg",
                      help="how frames are stored; png is lossless and 3-4 times as large (default jpeg)")
  parser.add_argument("--quality", type=int, default=95, help="of jpeg and webp, 1-100 (default 95)")
  parser.add_argument("--fps", type=float, help="drop frames of faster videos to reach this rate (default: keep all)")
  parser.add_argument("--max-frames-per-clip", type=int, default=100, metavar="N",
                      help="cut longer videos into clips of at most N frames (default 100)")
  parser.add_argument("--holdout", type=float, default=0.25, metavar="SHARE",
                      help="share for the split `validation`; the rest is `train` (default 0.25, 0 for none)")
  parser.add_argument("--holdout-by", choices=("frames", "files"), default="frames",
                      help="hold out the end of every video, or whole files (default frames)")
  parser.add_argument("--allow-flat", action="store_true",
                      help="keep ordinary films among the 360° videos, stretched to 2:1")
  parser.add_argument("--flat", action="store_true",
                      help="make a dataset of ordinary films (not 360°): the central square of every frame, no checks "
                           "for panoramas, no pictures. For the stage of training that has one view (data.kind=flat)")
  _add_store(parser.add_argument_group("what is stored"))
  parser.add_argument("--processes", type=int, metavar="N", help="that share the work (default: one per core)")
  parser.add_argument("--dry-run", action="store_true", help="print the verdict of every file; write nothing")
  parser.add_argument("--config", default="configs/data/checks.py", metavar="FILE.py",
                      help="thresholds of the checks; --config.checks.NAME=VALUE changes one (default "
                           "configs/data/checks.py)")


def _add_store(group) -> None:
  group.add_argument("--store", choices=("pixels", "crops", "latents", "panorama_latents"), default="pixels",
                     help="panoramas, views of a rig, those views as a codec's latents, or whole panoramas as latents "
                          "(default pixels). Latents bring text states along where the text encoder is not trained")
  group.add_argument("--model", metavar="MODEL",
                     help="latents: whose codec, text encoder and rig make them; a model folder or a run's workdir")
  group.add_argument("--rig", help="crops and latents: videopanda, cubemap, horizontalN, icosahedron (default: the "
                                   "model's, or videopanda)")
  group.add_argument("--view-size", type=int, metavar="PIXELS",
                     help="crops and latents: side of a view (default: the model's, or 512)")
  group.add_argument("--yaws", type=int, default=1, metavar="K",
                     help="crops and latents: directions of the first view that are stored of each clip, for training "
                          "to choose from (default 1)")
  group.add_argument("--flips", action="store_true",
                     help="latents: store each mirrored as well, but for clips whose captions name left or right")
  group.add_argument("--flow", nargs="?", const="dis", metavar="NAME",
                     help="pixels: store motion beside every frame, as 360DVD reads it: the optical flow to the next "
                          "frame of the film, in colours. NAME: dis (default), dis-symmetric (twice the time; mirrored "
                          "films give exactly mirrored flow), or your own network as module:function")
  group.add_argument("--flow-videos", metavar="DIR",
                     help="pixels: take motion from videos of flow named as the films, such as WEB360's "
                          "flows_512x1024x100, instead of estimating it")


def run(args: argparse.Namespace, pool: Pool | None = None) -> None:
  """Prepares the dataset and says what was taken and what was not; `pool`: that does the work, default processes."""
  from panda_jax.data import checks, prepare, records
  from panda_jax.training.config import load_config
  thresholds = checks.Thresholds(**load_config(args.config, args.overrides).checks)
  height = args.height
  if height is None:
    height = records.dataset_info(args.input[0])["size"][0] if prepare.is_dataset(args.input[0]) else 512
  options = prepare.Options(
    height=height, encoding=args.encoding, quality=args.quality, fps=args.fps,
    max_frames_per_clip=args.max_frames_per_clip, holdout=args.holdout, holdout_by=args.holdout_by,
    allow_flat=args.allow_flat, flat=args.flat, dataset=args.dataset, store=args.store, rig=args.rig,
    view_size=args.view_size, yaws=args.yaws, flips=args.flips, model=args.model, flow=args.flow,
    flow_videos=args.flow_videos, checks=thresholds)
  pool = pool or prepare.Pool(_processes(args.processes))
  if args.dry_run:
    result = prepare.judge(args.input, options, args.captions, console.progress, pool)
    _warn(result.warnings)
    _verdicts(result.manifest)
    return
  result = prepare.prepare(args.input, args.output, options, args.captions, console.progress, pool, _store(options))
  _warn(result.warnings)
  _report(result.manifest["files"])
  counts, (height, width) = result.manifest["counts"], result.manifest["size"]
  clips = ", ".join(f"{counts['clips'][split]} clips ({frames} frames) to {split}"
                    for split, frames in counts["frames"].items())
  what = options.encoding if options.store in ("pixels", "crops") else ""
  said = "" if options.store == "pixels" else f" as {options.store.replace('_', ' ')}"
  if options.has_motion:
    said += f" with motion ({result.manifest['about']['motion']['estimator']})"
  of_files = ""
  if counts["files"]:                                 # the clips of a dataset are of no files
    of_files = f"{counts['used']} of {counts['files']} files used, {counts['skipped']} skipped; "
  print(f"{args.output}{' is already prepared' if result.already else ''}: {of_files}{clips}; {width}x{height} "
        f"{what}".rstrip() + said)


def _store(options: Options) -> Store | None:
  """What makes the images of the dataset; None for pixels."""
  from panda_jax.geometry import make_rig
  rig = options.rig and make_rig(options.rig)
  size = options.view_size and (options.view_size, options.view_size)
  if options.store == "pixels":
    return None
  if options.store == "crops":
    from panda_jax.data.stores import Crops
    return Crops(rig or make_rig("videopanda"), size or (512, 512), options.yaws, options.encoding, options.quality)
  from panda_jax.data.latents import PanoramaLatents, ViewLatents
  from panda_jax.generate.load import open_model
  system, params, _ = open_model(options.model)
  if options.store == "latents":
    return ViewLatents(system, params, rig, size, options.yaws, options.flips)
  return PanoramaLatents(system, params, options.size, options.flips)


def _processes(asked: int | None) -> int:
  if asked is not None and asked < 1:
    raise InputError(f"--processes must be at least 1, got {asked}")
  return asked or os.cpu_count() or 1


def _warn(sentences: list[str]) -> None:
  for sentence in sentences:
    print(f"panda prepare: {sentence}", file=sys.stderr)


def _verdicts(manifest: dict) -> None:
  """Every file's verdict, and every rule that fired, on standard output."""
  rows = [(entry["file"], entry["verdict"], f"{entry['size'][1]}x{entry['size'][0]}", entry["frames"],
           sum(map(len, entry.get("clips", {}).values())), entry["why"] or "; ".join(
             finding["why"] for finding in entry["findings"])) for entry in manifest["files"]]
  _left_table(("file", "verdict", "size", "frames", "clips", "why"), rows)
  _left_table(("rule", "effect", "files", "example"), [
    (rule, row["effect"], row["count"], row["example"]["file"])
    for rule, row in manifest["rules"].items() if row["count"]])
  counts = manifest["counts"]
  print(f"{counts['used']} of {counts['files']} files can be used; nothing was written (--dry-run)")


def _left_table(columns: tuple, rows: list[tuple]) -> None:
  cells = [tuple(map(str, row)) for row in (columns, *rows)]
  widths = [max(len(row[column]) for row in cells) for column in range(len(columns) - 1)]
  for row in cells:
    print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[-1]]).rstrip())
  print()


def _report(files: list[dict]) -> None:
  """A table, on standard error, of what is not plain: files skipped, and files used with a remark."""
  rows = [(entry["file"], entry["verdict"] if entry["used"] else f"skipped: {entry['verdict']}", entry["why"])
          for entry in files if entry["why"]]
  if not rows:
    return
  skipped = sum(not entry["used"] for entry in files)
  print(f"panda prepare: {skipped} of {len(files)} files skipped" if skipped else "panda prepare: remarks",
        file=sys.stderr)
  rows = [("clip", "verdict", "why"), *rows]
  widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
  for clip, verdict, why in rows:
    print(f"  {clip:{widths[0]}}  {verdict:{widths[1]}}  {why}", file=sys.stderr)
