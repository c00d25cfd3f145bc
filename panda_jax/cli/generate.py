"""panda generate: a prompt, a perspective video, or both, become a 360° video."""

import argparse

SUMMARY = "make a 360° video from a prompt, from a perspective video, or from both"
EXAMPLE = 'panda generate --prompt "sunset over the open sea, a few clouds, a red balloon" --frames 24 --output samples'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the arguments of `panda generate`."""
  parser.add_argument("--prompt", default="", metavar="TEXT", help="one caption for the whole panorama")
  parser.add_argument("--video", metavar="FILE",
                      help="a perspective clip, 90° wide, looking straight ahead; it becomes the middle of the panorama")
  parser.add_argument("--frames", type=int, metavar="N", help="frames to make; more than one window's are made window "
                                                              "by window (default: one window)")
  parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, another video (default 0)")
  parser.add_argument("--output", default="samples", metavar="DIR", help="folder for the results (default samples)")
  parser.add_argument("--name", metavar="NAME", help="of the files (default: from the prompt or the video)")
  source = parser.add_argument_group("model (default: the tiny one that comes with panda_jax)")
  source.add_argument("--workdir", metavar="DIR", help="a training run; its newest checkpoint is used")
  source.add_argument("--checkpoint", metavar="DIR", help="a model folder, as `panda train` leaves in WORKDIR/model")
  how = parser.add_argument_group("sampling (defaults: the model's own)")
  how.add_argument("--steps", type=int, metavar="N", help="DDIM steps")
  how.add_argument("--guidance", type=float, metavar="X", help="scale of classifier-free guidance; 1 is none")
  how.add_argument("--row-sigma", type=float, metavar="X",
                   help="noise on the frames carried from window to window; more restores detail, but flickers")
  how.add_argument("--height", type=int, metavar="H", help="rows of the panorama")
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

  from panda_jax.cli import console
  from panda_jax.generate.load import open_system, settings_of
  from panda_jax.generate.perspective import read_perspective
  from panda_jax.generate.windows import Generator, Request, plan_windows
  from panda_jax.generate.write import slug, write_results

  system, params, config = open_system(args.workdir, args.checkpoint)
  settings = settings_of(config, steps=args.steps, text_guidance=args.guidance, video_guidance=args.guidance,
                         row_sigma=args.row_sigma, panorama_height=args.height)
  frames = settings.frames if args.frames is None else args.frames
  if settings.steps > system.timesteps:
    raise InputError(f"--steps {settings.steps}: the model knows {system.timesteps} timesteps, give no more")
  if unknown := system.unknown_words(args.prompt):
    console.note(f"panda generate: the text encoder does not know {', '.join(unknown)}")
  fps = config.data.fps
  video = read_perspective(args.video, system.view_size, fps, frames) if args.video else None
  if video is not None and len(video) < frames:
    console.note(f"panda generate: {args.video} gives {len(video)} frames at {fps:g} per second, {frames} are made: "
                 "its last frame stands for the rest")
  name = args.name or slug(args.prompt) or slug(args.video)

  generate = Generator(system, params, settings, say=console.note)
  with console.progress("generating", len(plan_windows(frames, settings.frames))) as advance:
    panorama = generate(Request(args.prompt, frames, video, args.seed), on_window=advance)
    for path in write_results(panorama, args.output, name, fps, title=args.prompt or name, extras=not args.no_viewer):
      print(path)
