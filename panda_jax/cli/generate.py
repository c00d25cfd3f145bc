"""panda generate: a prompt, a perspective video, or both, become a 360° video."""

import argparse

SUMMARY = "make a 360° video from a prompt, from a perspective video, or from both"
EXAMPLE = 'panda generate --prompt "sunset over the open sea, a few clouds, a red balloon" --frames 24 --output samples'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the arguments of `panda generate`."""
  parser.add_argument("--prompt", default="", metavar="TEXT", help="one caption for the whole panorama")
  parser.add_argument("--video", metavar="FILE",
                      help="a perspective clip; unless told otherwise its central square is taken to be 90° wide and to "
                           "look straight ahead, and it becomes the middle of the panorama")
  parser.add_argument("--frames", type=int, metavar="N", help="frames to make; more than one window's are made window "
                                                              "by window (default: one window)")
  parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, another video (default 0)")
  parser.add_argument("--output", default="samples", metavar="DIR", help="folder for the results (default samples)")
  parser.add_argument("--name", metavar="NAME", help="of the files (default: from the prompt or the video)")
  parser.add_argument("--overwrite", action="store_true",
                      help="start over where a video of another request has this name; without it the same command "
                           "goes on behind the last finished window")
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
  how.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32",
                   help="type to compute in; bfloat16 takes half the memory, and on accelerators much less time "
                        "(default float32)")
  how.add_argument("--no-keep-given", action="store_true",
                   help="with an own_view model: show what the model made where the given clip looks, not the clip")
  how.add_argument("--no-viewer", action="store_true", help="write the mp4 alone, without viewer and contact sheet")


def run(args: argparse.Namespace) -> None:
  """Generates one video and prints what was written.

  Raises:
    InputError: for bad input, in one sentence.
  """
  from panda_jax.errors import InputError
  if not args.prompt and not args.video:
    raise InputError("nothing to go by: give --prompt TEXT, --video FILE, or both")
  if args.frames is not None and args.frames < 1:
    raise InputError(f"--frames {args.frames}: give 1 or more")
  if not 0 <= args.seed < 2**32:
    raise InputError(f"--seed {args.seed}: give a number between 0 and 2**32 - 1")
  for name in ("fov", "yaw", "pitch", "roll", "camera"):
    if getattr(args, name) is not None and not args.video:
      raise InputError(f"--{name} says how the given clip was filmed, and there is none: give --video FILE")

  import sys

  from panda_jax.cli import console
  from panda_jax.diffusion.ddim import strides_end
  from panda_jax.generate.camera_track import camera_track
  from panda_jax.generate.fingerprint import fingerprint
  from panda_jax.generate.given_video import GivenVideo
  from panda_jax.generate.load import open_system, settings_of
  from panda_jax.generate.segments import GrowingVideo
  from panda_jax.generate.windows import Generator, Request, plan_windows
  from panda_jax.generate.write import make_folder, slug, write_extras

  track = camera_track(args.camera, fov_deg=args.fov, pitch_deg=args.pitch, yaw_deg=args.yaw, roll_deg=args.roll)
  system, params, config = open_system(args.workdir, args.checkpoint, args.dtype)
  settings = settings_of(config, steps=args.steps, text_guidance=args.guidance, video_guidance=args.guidance,
                         view_sigma=args.view_sigma, row_sigma=args.row_sigma, panorama_height=args.height,
                         keep_given=False if args.no_keep_given else None)
  frames = settings.frames if args.frames is None else args.frames
  if settings.steps > system.timesteps:
    raise InputError(f"--steps {settings.steps}: the model knows {system.timesteps} timesteps, give no more")
  if not strides_end(settings.steps, system.timesteps, settings.spacing):
    raise InputError(f"--steps {settings.steps}: give at most {system.timesteps // 4}, or a number that divides "
                     f"{system.timesteps}")
  if unknown := system.unknown_words(args.prompt):
    console.note(f"panda generate: the text encoder does not know {', '.join(unknown)}")
  fps = config.data.fps
  video = GivenVideo(args.video, system.view_size, fps) if args.video else None
  if video is not None and (there := video.count(frames)) < frames:
    console.note(f"panda generate: {args.video} gives {there} frames at {fps:g} per second, {frames} are made: "
                 "its last frame stands for the rest")
  name = args.name or slug(args.prompt) or slug(args.video)
  title = args.prompt or name

  plan = plan_windows(frames, settings.frames)
  request = Request(args.prompt, frames, video, args.seed, track)
  generate = Generator(system, params, settings, say=console.note)
  generate.check(request)
  folder = make_folder(args.output)
  made_from = fingerprint(request, settings, params, config, args.video)
  with GrowingVideo(folder / f"{name}_360.mp4", fps, made_from, len(plan), args.overwrite) as result:
    if result.complete:
      console.note(f"panda generate: {result.path} is finished already")
    elif result.finished:
      console.note(f"panda generate: {result.finished} of {len(plan)} windows are there, going on")
    if not result.complete:
      row = result.row(generate.row_spec(request).shape, generate.row_spec(request).dtype)
      with console.progress("generating", len(plan) * settings.steps, result.finished * settings.steps) as advance:
        # A program that reports its steps is compiled anew by every run: only where somebody watches.
        for made in generate.windows(request, result.finished, row, advance if sys.stderr.isatty() else None):
          result.add(made.frames, made.row)
  print(result.path)
  if not args.no_viewer:
    for path in write_extras(result.path, title, say=console.note):
      print(path)
