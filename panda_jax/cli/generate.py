"""panda generate: a prompt, a perspective video, or both, become a 360° video; a table of clips, a folder of them."""

import argparse
from collections.abc import Callable

SUMMARY = "make a 360° video from a prompt, from a perspective video, or from both; or one for every clip of a table"
EXAMPLE = """\
panda generate --prompt "sunset over the open sea, a few clouds, a red balloon" --frames 24 --output samples
panda generate --batch clips/master.csv --given view --output generated/ours
panda generate --workdir runs/dvd --batch clips/master.csv --motion like --output generated/dvd360"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the arguments of `panda generate`."""
  parser.add_argument("--prompt", default="", metavar="TEXT", help="one caption for the whole panorama")
  parser.add_argument("--video", metavar="FILE",
                      help="a perspective clip; unless told otherwise its central square is taken to be 90° wide and to "
                           "look straight ahead, and it becomes the middle of the panorama")
  parser.add_argument("--motion", metavar="WHAT",
                      help="for models that see whole panoramas: none, rotate:DEG or forward:STEP (per frame), "
                           "like:FILM for the motion of a 360° film, or a film of flow in colours; with --batch also "
                           "like, the motion of each clip's own video, or a folder of films of flow (default none)")
  parser.add_argument("--negative", default="", metavar="TEXT",
                      help="for the same models: what to keep away from, such as \"worst quality, low quality\"")
  parser.add_argument("--flow", default="dis", metavar="NAME",
                      help="estimates the motion of like: as `panda prepare --flow` (default dis)")
  parser.add_argument("--frames", type=int, metavar="N", help="frames to make; more than one window's are made window "
                                                              "by window (default: one window)")
  parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, another video (default 0)")
  parser.add_argument("--output", default="samples", metavar="DIR", help="folder for the results (default samples)")
  parser.add_argument("--name", metavar="NAME", help="of the files (default: from the prompt or the video)")
  parser.add_argument("--overwrite", action="store_true",
                      help="start over where a video of another request has this name; without it the same command "
                           "goes on behind the last finished window")
  batch = parser.add_argument_group(
      "many clips",
      "OUTPUT/CLIP_ID.mp4 for every clip, as `panda evaluate` wants them. Clips that are there from the same\n"
      "request are kept; those that cannot be made are named, counted, and listed in OUTPUT/failed.csv (of a\n"
      "shard: failed_I_of_N.csv). A clip's seed is made of --seed and its id. Exit status: 0 if all were made,\n"
      "1 if some, 2 if none.")
  batch.add_argument("--batch", metavar="FILE.csv",
                     help="a table with columns clip_id and any of prompt, caption, caption_path and video_path, or a "
                          "folder with master.csv or with videos")
  batch.add_argument("--given", choices=("none", "view"),
                     help="view: the model is given what the rig's first camera sees of the clip's own 360° video, "
                          "turned by --yaw (own_view models: also --pitch, --roll, --fov); none: the prompt alone "
                          "(default none)")
  batch.add_argument("--shard", metavar="I/N",
                     help="of N processes that write into one folder this is number I, from 0: it makes every N-th "
                          "clip (under Slurm: $SLURM_PROCID/$SLURM_NTASKS)")
  source = parser.add_argument_group("model (default: the tiny one that comes with panda_jax)")
  source.add_argument("--workdir", metavar="DIR", help="a training run; its newest checkpoint is used")
  source.add_argument("--checkpoint", metavar="DIR", help="a model folder, as `panda train` leaves in WORKDIR/model")
  camera = parser.add_argument_group("how the given clip was filmed (any of it, if the model was trained with own_view)")
  camera.add_argument("--fov", type=float, metavar="DEG",
                      help="horizontal field of view of the clip as filmed, before its central square is cut")
  camera.add_argument("--yaw", type=float, metavar="DEG", help="where it looks, to the right of straight ahead")
  camera.add_argument("--pitch", type=float, metavar="DEG", help="how far it looks up")
  camera.add_argument("--roll", type=float, metavar="DEG", help="how far it is turned clockwise about its own axis")
  camera.add_argument("--camera", metavar="FILE.csv",
                      help="for a camera that moves: columns frame or time (of the clip as filmed; seconds), and any of "
                           "yaw, pitch, roll, fov; linear between the rows")
  how = parser.add_argument_group("sampling (defaults: the model's own)")
  how.add_argument("--steps", type=int, metavar="N", help="DDIM steps")
  how.add_argument("--guidance", type=float, metavar="X", help="scale of classifier-free guidance; 1 is none")
  how.add_argument("--view-sigma", type=float, metavar="X", help="noise on the given video")
  how.add_argument("--row-sigma", type=float, metavar="X",
                   help="noise on the frames carried from window to window; more restores detail, but flickers")
  how.add_argument("--height", type=int, metavar="H", help="rows of the panorama")
  how.add_argument("--switch", action="append", default=[], metavar="NAME=VALUE",
                   help="what the model has of its own, such as 360DVD's unrotate_output=True; may be repeated")
  how.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32",
                   help="type to compute in; bfloat16 takes half the memory, and on accelerators much less time "
                        "(default float32)")
  how.add_argument("--no-keep-given", action="store_true",
                   help="with an own_view model: show what the model made where the given clip looks, not the clip")
  how.add_argument("--views", action="store_true",
                   help="also write NAME_views.mp4, the views that the panorama was stitched from, side by side")
  how.add_argument("--no-viewer", action="store_true", help="write the mp4 alone, without viewer and contact sheet")


def run(args: argparse.Namespace) -> None:
  """Generates one video, or one for every clip of a table, and prints what was written.

  Raises:
    InputError: for bad input, in one sentence.
    SystemExit: with status 1 if some clips of a table could not be made.
  """
  from panda_jax.errors import InputError
  if args.frames is not None and args.frames < 1:
    raise InputError(f"--frames {args.frames}: give 1 or more")
  if not 0 <= args.seed < 2**32:
    raise InputError(f"--seed {args.seed}: give a number between 0 and 2**32 - 1")
  if args.batch:
    _run_batch(args)
  else:
    _run_one(args)


def _run_one(args: argparse.Namespace) -> None:
  from panda_jax.errors import InputError
  if not args.prompt and not args.video:
    raise InputError("nothing to go by: give --prompt TEXT, --video FILE, or both")
  for name in ("given", "shard"):
    if getattr(args, name) is not None:
      raise InputError(f"--{name} is for a table of clips: give it with --batch FILE.csv")
  for name in ("fov", "yaw", "pitch", "roll", "camera"):
    if getattr(args, name) is not None and not args.video:
      raise InputError(f"--{name} says how the given clip was filmed, and there is none: give --video FILE")

  import sys

  from panda_jax.cli import console
  from panda_jax.generate.camera_track import camera_track
  from panda_jax.generate.fingerprint import fingerprint
  from panda_jax.generate.given_video import GivenVideo
  from panda_jax.generate.motion import make_motion
  from panda_jax.generate.results import Results
  from panda_jax.generate.windows import Request
  from panda_jax.generate.write import make_folder, slug, write_extras
  from panda_jax.geometry import RigViews

  track = camera_track(args.camera, fov_deg=args.fov, pitch_deg=args.pitch, yaw_deg=args.yaw, roll_deg=args.roll)
  generate, params, config, frames = _open(args, console.note)
  _note_unknown(generate, [args.prompt, args.negative])
  fps = config.data.fps
  if args.video and not isinstance(generate.system.shows, RigViews):
    raise InputError("--video: this model sees whole panoramas and cannot be given a view; --motion says what moves")
  video = GivenVideo(args.video, generate.system.view_size, fps) if args.video else None
  if video is not None and (there := video.count(frames)) < frames:
    console.note(f"panda generate: {args.video} gives {there} frames at {fps:g} per second, {frames} are made: "
                 "its last frame stands for the rest")
  name = args.name or slug(args.prompt) or slug(args.video)

  request = Request(args.prompt, frames, video, args.seed, track, _motion(args, generate, frames, config, make_motion),
                    args.negative)
  generate.check(request)
  folder = make_folder(args.output)
  made_from = fingerprint(request, generate.settings, params, config, args.video)
  with Results(generate, request, folder, name, fps, made_from, views=args.views, overwrite=args.overwrite) as results:
    if results.complete:
      console.note(f"panda generate: {results.paths[0]} is finished already")
    elif results.finished:
      console.note(f"panda generate: {results.finished} of {results.windows} windows are there, going on")
    if not results.complete:
      steps = generate.settings.steps
      with console.progress("generating", results.windows * steps, results.finished * steps) as advance:
        # A program that reports its steps is compiled anew by every run: only where somebody watches.
        for _ in results.make(advance if sys.stderr.isatty() else None):
          pass
  for path in results.paths:
    print(path)
  if not args.no_viewer:
    for path in write_extras(results.paths[0], args.prompt or name, say=console.note):
      print(path)


def _run_batch(args: argparse.Namespace) -> None:
  from panda_jax.errors import InputError
  for name, instead in (("prompt", "the table has the prompts"), ("video", "the table has the videos"),
                        ("name", "files are named after their clips"), ("camera", "the given view stands still")):
    if getattr(args, name):
      raise InputError(f"--{name} is not for --batch, {instead}: leave it out")
  for name in ("fov", "yaw", "pitch", "roll"):
    if getattr(args, name) is not None and args.given != "view":
      raise InputError(f"--{name} says where the given view looks, and there is none: add --given view")

  from pathlib import Path

  from panda_jax.cli import console
  from panda_jax.data.clips import parse_shard, read_clips
  from panda_jax.generate import batch
  from panda_jax.generate.fingerprint import of_model
  from panda_jax.generate.motion import motion_of_clips
  from panda_jax.generate.write import make_folder
  from panda_jax.geometry import RigViews

  index, count = parse_shard(args.shard) if args.shard else (0, 1)
  clips = read_clips(args.batch)
  batch.check_clips(clips, args.given == "view", args.batch)
  clips = clips[index::count]
  generate, params, config, frames = _open(args, _once(console.note))
  if args.given == "view" and not isinstance(generate.system.shows, RigViews):
    raise InputError("--given view: this model sees whole panoramas and cannot be given a view: leave it out")
  given = batch.Given(_given_camera(args, generate.system.rig[0]),
                      config.data.panorama_height) if args.given == "view" else None
  job = batch.Job(Path(args.output), of_model(generate.settings, params, config), frames, config.data.fps, args.seed,
                  given, _motion(args, generate, frames, config, motion_of_clips), args.negative, args.views,
                  args.overwrite)
  batch.check_model(generate, job)
  make_folder(job.folder)
  _note_unknown(generate, [*(clip.prompt for clip in clips), args.negative])
  table = job.folder / (f"failed_{index}_of_{count}.csv" if args.shard else "failed.csv")
  outcomes: list[batch.Outcome] = []
  batch.write_failures(table, outcomes)                  # those of an earlier run are tried again
  with console.progress("clips", len(clips)) as advance:
    for outcome in batch.make_clips(generate, clips, job, console.note):
      outcomes.append(outcome)
      for path in outcome.paths:
        print(path, flush=True)
      if outcome.failure:
        console.note(f"panda generate: clip {outcome.clip.id}: {outcome.failure}")
        batch.write_failures(table, outcomes)
      advance()
  failed = sum(bool(outcome.failure) for outcome in outcomes)
  if failed and failed == len(clips):
    raise InputError(f"none of {failed} clips could be made: see {table}")
  kept = sum(outcome.kept for outcome in outcomes)
  console.note(f"{len(clips) - failed} of {len(clips)} clips made" + (f" ({kept} before)" if kept else "")
               + (f", {failed} failed: see {table}" if failed else ""))
  if failed:
    raise SystemExit(1)


def _open(args: argparse.Namespace, say: Callable[[str], None]) -> tuple:
  """The model as a generator that tells `say` what to know, its parameters on the host and config, how many frames."""
  from panda_jax.diffusion.ddim import strides_end
  from panda_jax.errors import InputError
  from panda_jax.generate.load import make_generator, open_system, settings_of

  switches = dict(text.partition("=")[::2] for text in args.switch)
  system, params, config = open_system(args.workdir, args.checkpoint, args.dtype, switches)
  settings = settings_of(config, steps=args.steps, text_guidance=args.guidance, video_guidance=args.guidance,
                         view_sigma=args.view_sigma, row_sigma=args.row_sigma, panorama_height=args.height,
                         keep_given=False if args.no_keep_given else None)
  if settings.steps > system.timesteps:
    raise InputError(f"--steps {settings.steps}: the model knows {system.timesteps} timesteps, give no more")
  if not strides_end(settings.steps, system.timesteps, settings.spacing):
    raise InputError(f"--steps {settings.steps}: give at most {system.timesteps // 4}, or a number that divides "
                     f"{system.timesteps}")
  frames = settings.frames if args.frames is None else args.frames
  return make_generator(system, params, settings, say), params, config, frames


def _motion(args: argparse.Namespace, generate, frames: int, config, make: Callable):
  """What `make` understands of --motion, at the size of a model that sees whole panoramas."""
  from panda_jax.errors import InputError
  from panda_jax.generate.motion import NONE
  from panda_jax.geometry import WholePanoramas
  if args.motion in (None, NONE):
    return None
  if not isinstance(generate.system.shows, WholePanoramas):
    raise InputError("--motion: this model sees views and takes no motion: leave it out, or give it a --video")
  return make(args.motion, frames, generate.system.shows.size, config.data.fps, args.flow)


def _once(say: Callable[[str], None]) -> Callable[[str], None]:
  """Says no line twice: what holds for one clip holds for all."""
  said = set()

  def say_new(line: str) -> None:
    if line not in said:
      said.add(line)
      say(line)

  return say_new


def _note_unknown(generate, prompts: list[str]) -> None:
  from panda_jax.cli import console
  if unknown := list(dict.fromkeys(word for prompt in prompts for word in generate.system.unknown_words(prompt))):
    more = f" and {len(unknown) - 20} more words" if len(unknown) > 20 else ""
    console.note(f"panda generate: the text encoder does not know {', '.join(unknown[:20])}{more}")


def _given_camera(args: argparse.Namespace, first):
  """The rig's first camera, turned as the user says."""
  import dataclasses

  from panda_jax.generate.camera_track import camera_track
  angles = {f"{name}_deg": getattr(args, name) for name in ("yaw", "pitch", "roll", "fov")}
  camera_track(**angles)                                 # for its checks
  return dataclasses.replace(first, **{name: value for name, value in angles.items() if value is not None})
