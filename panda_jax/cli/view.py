"""panda view: the one-file 360° viewer of a video."""

import argparse

SUMMARY = "write a 360° video's one-file viewer, an HTML page that works offline"
EXAMPLE = "panda view samples/beach_360.mp4 --open"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the arguments of `panda view`."""
  parser.add_argument("file", metavar="FILE", help="an equirectangular (2:1) mp4 or webm")
  parser.add_argument("--output", metavar="FILE.html", help="where to write the page; default: beside the video")
  parser.add_argument("--title", default="", help="shown above the video; default: its name")
  parser.add_argument("--stretch", action="store_true", help="show a video that is not 2:1 as a whole sphere")
  parser.add_argument("--open", action="store_true", help="open the page in the default browser")


def run(args: argparse.Namespace) -> None:
  """Writes the page, prints its path and opens it if asked to.

  Raises:
    InputError: see write_viewer; also if --open finds no browser.
  """
  import webbrowser
  from pathlib import Path

  from panda_jax.errors import InputError
  from panda_jax.generate.viewer import write_viewer

  video = Path(args.file)
  page = Path(args.output) if args.output else video.with_suffix(".html")
  if page.suffix.lower() not in (".html", ".htm"):
    raise InputError(f"--output {page} is not the name of a page: let it end in .html")
  write_viewer(video, page, title=args.title, stretch=args.stretch)
  print(page)
  if args.open and not webbrowser.open(page.resolve().as_uri()):
    raise InputError(f"no browser was found to open {page}: open it by hand")
