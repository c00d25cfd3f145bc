"""panda prepare: 360° videos and photographs, or ordinary films, become a dataset of clips."""

import argparse
import sys

from panda_jax.cli import console

SUMMARY = "Turn 360° videos and equirectangular photographs, or with --flat ordinary films, into a dataset of clips."
EXAMPLE = "panda prepare --input my_360_videos --output data/clips --captions captions.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the options of `panda prepare`."""
  parser.add_argument("--input", nargs="+", required=True, metavar="PATH",
                      help="360° videos (mp4, mov, webm, mkv), equirectangular stills (jpg, png), or folders to search "
                           "through. A still becomes 8 s of slow camera turn (6°/s, 8 frames/s)")
  parser.add_argument("--output", required=True, metavar="DIR", help="folder to make; appears when it is complete")
  parser.add_argument("--captions", metavar="CSV",
                      help="table with a header `file,caption` (or `videoid,name`, as in WEB360); rows name a file by "
                           'its name or stem. A file without a row is captioned "a 360 degree video", with --flat '
                           '"a video"')
  parser.add_argument("--height", type=int, default=512,
                      help="rows of the stored frames; columns are twice as many, with --flat as many (default 512)")
  parser.add_argument("--encoding", choices=("jpeg", "png", "webp"), default="jpeg",
                      help="how frames are stored; png is lossless and 3-4 times as large (default jpeg)")
  parser.add_argument("--quality", type=int, default=95, help="of jpeg and webp, 1-100 (default 95)")
  parser.add_argument("--fps", type=float, help="drop frames of faster videos to reach this rate (default: keep all)")
  parser.add_argument("--max-frames-per-clip", type=int, default=100, metavar="N",
                      help="cut longer videos into clips of at most N frames (default 100)")
  parser.add_argument("--holdout", type=float, default=0.25, metavar="SHARE",
                      help="share of every video, taken from its end, for the split `validation`; the rest is `train` "
                           "(default 0.25, 0 for none)")
  parser.add_argument("--allow-flat", action="store_true",
                      help="keep ordinary films among the 360° videos, stretched to 2:1")
  parser.add_argument("--flat", action="store_true",
                      help="make a dataset of ordinary films (not 360°): the central square of every frame, no checks "
                           "for panoramas, no pictures. For the stage of training that has one view (data.kind=flat)")


def run(args: argparse.Namespace) -> None:
  """Prepares the dataset and says what was taken and what was not."""
  from panda_jax.data import prepare
  options = prepare.Options(args.height, args.encoding, args.quality, args.fps, args.max_frames_per_clip, args.holdout,
                            args.allow_flat, args.flat)
  result = prepare.prepare(args.input, args.output, options, args.captions, console.progress)
  for sentence in result.warnings:
    print(f"panda prepare: {sentence}", file=sys.stderr)
  _report(result.manifest["files"])
  counts, (height, width) = result.manifest["counts"], result.manifest["size"]
  clips = ", ".join(f"{counts['clips'][split]} clips ({frames} frames) to {split}"
                    for split, frames in counts["frames"].items())
  print(f"{args.output}{' is already prepared' if result.already else ''}: {counts['used']} of {counts['files']} files "
        f"used, {counts['skipped']} skipped; {clips}; {width}x{height} {options.encoding}")


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
