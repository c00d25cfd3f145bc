"""panda caption: a sentence for every 360° video, from four views of a frame, or from one."""

import argparse
import json
import sys

from panda_jax.cli import console
from panda_jax.errors import InputError

SUMMARY = "Write captions for 360° videos: describe four views of a frame, and fuse the sentences (360 Text Fusion)."
EXAMPLE = """panda caption --input my_360_videos --model blip-image-captioning-large --output captions.csv
panda caption --input data/clips --model blip2-opt-2.7b --output captions.csv \\
    --fuse http://localhost:8000/v1 --model-name llama
panda caption --input my_360_videos --export views"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the options of `panda caption`."""
  parser.add_argument("--input", nargs="+", required=True, metavar="PATH",
                      help="360° videos, equirectangular stills, folders of them, or one dataset of `panda prepare`")
  parser.add_argument("--output", metavar="CSV",
                      help="table to write (file,caption), for `panda prepare --captions`. What is finished is kept "
                           "beside it in CSV.partial.jsonl: the same command goes on from there")
  parser.add_argument("--style", choices=("fusion", "view"), default="fusion",
                      help="fusion: four views of the first frame (360DVD's 360 Text Fusion). view: one view of the "
                           'middle frame, "A view of …" (VideoPanda\'s evaluation) (default fusion)')
  parser.add_argument("--frame", choices=("first", "middle"), help="look at this frame instead")
  parser.add_argument("--yaw", type=int, default=0, metavar="DEG", dest="yaw_deg",
                      help="where the one view of --style view looks, to the right of the middle (default 0)")
  parser.add_argument("--per", choices=("file", "clip"), default="file",
                      help="of a dataset: one row per file it was made of, or one per clip (default file)")
  parser.add_argument("--dataset", choices=("auto", "web360", "youtube360", "folder360"), default="auto",
                      help="how to read folders, as in `panda prepare` (default auto)")
  parser.add_argument("--view-size", type=int, default=512, metavar="N",
                      help="side of the views in pixels (default 512)")
  parser.add_argument("--allow-flat", action="store_true", help="caption also what is no panorama by its looks")
  parser.add_argument("--export", metavar="DIR",
                      help="also write the views as DIR/<clip>/yaw_<degrees>.jpg, and views.csv with a column for "
                           "sentences")
  seen = parser.add_argument_group("who describes the views")
  seen.add_argument("--model", metavar="DIR",
                    help="folder of an image-to-text model (BLIP, BLIP-2, GIT, LLaVA …) as transformers saves it; "
                         "needs torch")
  seen.add_argument("--prompt", metavar="TEXT",
                    help="beginning of the sentence, or the question to a model that talks (default: a plain question; "
                         'none for BLIP, or with --style view "a view of")')
  seen.add_argument("--beams", type=int, default=3, help="of the search for a sentence; nothing is random (default 3)")
  seen.add_argument("--longest-sentence", type=int, default=40, metavar="TOKENS", help="of one view (default 40)")
  seen.add_argument("--batch-size", type=int, default=16, metavar="N", help="views at a time (default 16)")
  seen.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (default auto: a GPU if there is one)")
  seen.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
                    help="of the weights (default auto: as stored; on a CPU float32)")
  seen.add_argument("--sentences", metavar="FILE",
                    help="written elsewhere: csv with id,yaw_deg,sentence, txt with a line per view in the order 0, "
                         "90, -90, 180, or an older .partial.jsonl")
  fuse = parser.add_argument_group("who fuses the four sentences")
  fuse.add_argument("--fuse", default="template", metavar="template|URL",
                    help="a plain template, or the base address of an OpenAI-compatible server, such as "
                         "http://localhost:8000/v1 (default template)")
  fuse.add_argument("--model-name", default="", metavar="NAME", help="of the server's model")
  fuse.add_argument("--api-key-env", default="OPENAI_API_KEY", metavar="NAME",
                    help="environment variable that holds the server's key, if it wants one (default OPENAI_API_KEY)")
  fuse.add_argument("--directions", action="store_true",
                    help="let captions say what is left, right and behind; such clips must not be mirrored in training")
  fuse.add_argument("--instructions", metavar="FILE",
                    help="text that tells the server's model what to do, instead of ours")
  fuse.add_argument("--request", metavar="JSON", default="{}",
                    help="more of the request's body, null takes out: '{\"max_tokens\": null, \"temperature\": null}'")
  fuse.add_argument("--concurrency", type=int, default=4, metavar="N", help="requests at a time (default 4)")
  fuse.add_argument("--requests-per-minute", type=float, metavar="N", help="at most so many (default: no limit)")
  fuse.add_argument("--timeout", type=float, default=60, metavar="SECONDS", help="for one answer (default 60)")
  fuse.add_argument("--tries", type=int, default=6, metavar="N", help="for one caption (default 6)")
  fuse.add_argument("--seed", type=int, default=0, help="of the pauses between tries (default 0)")


def run(args: argparse.Namespace) -> None:
  """Captions, and says what came of it.

  Raises:
    InputError: also if some clips got no caption; the others are in the table.
  """
  from panda_jax.captioning.run import VIEWS_TABLE, caption
  options = _options(args)
  if options.server and options.server.sends_key_in_clear():
    console.note(f"panda caption: the key in {args.api_key_env} goes to {args.fuse} unencrypted; https would hide it")
  result = caption(options, console.progress)
  for sentence in result.warnings:
    console.note(f"panda caption: {sentence}")
  if args.output:
    print(f"{args.output}: {result.captioned} captioned, {result.reused} reused, {len(result.failed)} failed")
  else:
    there = result.clips - len(result.failed)
    print(f"{args.export}: views of {there} clips and {VIEWS_TABLE}, {len(result.failed)} failed")
  if result.failed:
    for name, why in result.failed:
      print(f"  {name} {why}", file=sys.stderr)
    raise InputError(f"{len(result.failed)} of {result.clips} clips failed, they are named above; the others are "
                     "finished, and the same command tries only those again")


def _options(args: argparse.Namespace):
  from panda_jax.captioning.endpoint import Settings
  from panda_jax.captioning.run import Options
  server = None
  if args.fuse != "template":
    server = Settings(
      args.fuse, args.model_name, args.api_key_env, timeout=args.timeout, tries=args.tries, seed=args.seed,
      requests_per_minute=args.requests_per_minute, concurrency=args.concurrency, request=_json(args.request))
  elif args.model_name or args.instructions:
    raise InputError("--model-name and --instructions are for a server: give its address with --fuse")
  same = ("output", "style", "frame", "yaw_deg", "per", "dataset", "view_size", "allow_flat", "export", "model",
          "prompt", "beams", "longest_sentence", "batch_size", "device", "dtype", "sentences", "directions")
  return Options(args.input, **{name: getattr(args, name) for name in same}, server=server,
                 instructions=_text(args.instructions))


def _json(text: str) -> dict:
  try:
    value = json.loads(text)
  except ValueError as error:
    raise InputError(f"--request is no JSON ({error}): give something like '{{\"max_tokens\": 2000}}'") from None
  if not isinstance(value, dict):
    raise InputError(f"--request must be a JSON object such as '{{\"max_tokens\": 2000}}', got {text}")
  return value


def _text(path: str | None) -> str:
  if path is None:
    return ""
  try:
    with open(path, encoding="utf-8") as file:
      text = file.read().strip()
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f"the instructions {path} cannot be read ({error}): give a text file in UTF-8") from error
  if not text:
    raise InputError(f"the instructions {path} are empty: write what the model shall do, or leave --instructions out")
  return text
