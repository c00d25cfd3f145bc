"""panda convert: other people's weights to a model folder of ours, to diffusers, or to where a training begins."""

import argparse
import dataclasses
from pathlib import Path

from panda_jax.cli import console
from panda_jax.errors import InputError

SUMMARY = "Convert weights of Stable Diffusion, AnimateDiff, 360DVD and LoRA, or make the starting point of a training."
EXAMPLE = """panda convert --input stable-diffusion-v1-5 --lora style.safetensors:0.8 --output model
panda convert --input v1-5-pruned.safetensors --output folder --format diffusers --tokenizer tokenizer
panda convert --init videopanda --base stable-diffusion-v1-5 --motion v3_sd15_mm.ckpt --output start
panda convert --init videopanda --stage 1 --base stable-diffusion-v1-5 --motion v3_sd15_mm.ckpt --output base
panda convert --init dvd360 --base stable-diffusion-v1-5 360Adapter_flow_v1.ckpt --motion mm_sd_v14.ckpt --output dvd"""

_DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the options of `panda convert`."""
  parser.add_argument("--input", "--base", nargs="+", required=True, metavar="PATH", dest="input",
                      help="what belongs together: diffusers, transformers and pipeline folders, single files, motion "
                           "modules, LoRA files, the 360DVD adapter, our own folders")
  parser.add_argument("--output", required=True, metavar="DIR", help="folder to make; appears when it is complete")
  parser.add_argument("--format", choices=("panda", "diffusers"), default="panda",
                      help="a model folder of ours, or one that diffusers and transformers load (default panda)")
  parser.add_argument("--init", choices=("videopanda", "dvd360"),
                      help="make the starting point of training this system, instead of a plain conversion; of dvd360 also "
                           "a model to generate with, where its adapter is given")
  parser.add_argument("--stage", type=int, choices=(1, 2),
                      help="of --init videopanda, the one that is to begin: 1 trains on single views, and makes motion "
                           "modules where there are none; 2 on panoramas (default 2)")
  parser.add_argument("--preset", choices=("official", "paper"),
                      help="of --init dvd360: as its published code does, or as its paper says (default official)")
  parser.add_argument("--motion", metavar="PATH", help="AnimateDiff motion modules for the UNet")
  parser.add_argument("--lora", action="append", default=[], metavar="PATH[:STRENGTH]",
                      help="LoRA to merge, of strength 1 or as given; may be repeated")
  parser.add_argument("--network", choices=("unet", "vae", "text_encoder", "adapter360"),
                      help="take only this network (default: all that are there)")
  parser.add_argument("--dtype", choices=_DTYPES, help="of the tensors (default: as they are)")
  parser.add_argument("--tokenizer", metavar="DIR", help="its folder, if no pipeline folder with one is given")
  parser.add_argument("--variant", metavar="WORD", help="read the files of this variant, such as fp16")
  parser.add_argument("--sizes", metavar="JSON", help="config.json of a network whose file does not say its sizes")
  parser.add_argument("--ignore-lora-alpha", action="store_true",
                      help="merge with a factor of 1 whatever alpha a LoRA states, as AnimateDiff's scripts do")


def run(args: argparse.Namespace) -> None:
  """Converts, and says what was written."""
  from panda_jax.weights.resolve import resolve
  if args.stage and args.init != "videopanda":
    raise InputError("--stage is a stage of training a system: give --init videopanda, too")
  if args.preset and args.init != "dvd360":
    raise InputError("--preset is of 360DVD: give --init dvd360, too")
  loras = [_path_and_strength(text) for text in args.lora]
  trained = _trained(args)
  base = [path for path in args.input if path != trained]
  networks = resolve(*base, motion=args.motion, lora=loras, wanted=args.network, variant=args.variant,
                     config=args.sizes, use_lora_alpha=not args.ignore_lora_alpha)
  beside = [folder for path in args.input if (folder := Path(path) / "tokenizer").is_dir()]
  tokenizer = args.tokenizer or next(iter(beside), None)
  if args.init:
    _write_start(args, networks, tokenizer, trained)
  else:
    _write_networks(args, networks, tokenizer)
  for kind, network in networks.items():
    count = sum(tensor.size for tensor in network.tensors.values())
    print(f"{kind}: {count / 1e6:.2f} M parameters from {network.source}")
  if args.format == "diffusers" and "unet" in networks:
    _warn_of_norms(networks["unet"].config)
  print(f"wrote {args.output}")


def _write_networks(args: argparse.Namespace, networks: dict, tokenizer) -> None:
  from panda_jax.weights.saving import save
  with console.progress("converting", sum(len(network.tensors) for network in networks.values())) as advance:
    counted = {kind: dataclasses.replace(network, tensors={name: _counted(tensor, advance)
                                                           for name, tensor in network.tensors.items()})
               for kind, network in networks.items()}
    save(args.output, counted, format=args.format, dtype=args.dtype, tokenizer=tokenizer)


def _trained(args: argparse.Namespace) -> str | None:
  """The trained model folder among the inputs of --init dvd360, whose adapter is to go on the others."""
  from panda_jax.weights.recognise import read_json
  folders = [path for path in args.input if args.init == "dvd360" and (Path(path) / "config.json").is_file()
             and read_json(Path(path) / "config.json").get("system") == "dvd360"]
  if not folders:
    return None
  if len(folders) > 1 or len(args.input) == 1:
    raise InputError(f"{' and '.join(folders)}: give one trained 360DVD, and the base for its adapter")
  if args.preset:
    raise InputError(f"--preset: {folders[0]} has switches of its own, which it keeps: leave out --preset")
  return folders[0]


def _write_start(args: argparse.Namespace, networks: dict, tokenizer, trained: str | None) -> None:
  from panda_jax.systems.starting_dvd360 import dvd360, on_another_base
  from panda_jax.systems.starting_point import videopanda
  from panda_jax.tree import unflatten
  from panda_jax.weights.files import cast
  from panda_jax.weights.folder import save_model
  if args.format != "panda" or args.network:
    raise InputError("--init makes a model folder of ours out of all networks: leave out --format and --network")
  if tokenizer is None:
    raise InputError(f"{' '.join(args.input)} has no tokenizer: give its folder with --tokenizer")
  if trained:
    tensors, config = on_another_base(trained, networks, tokenizer)
  elif args.init == "dvd360":
    tensors, config = dvd360(networks, tokenizer, preset=args.preset or "official")
  else:
    tensors, config = videopanda(networks, tokenizer, stage=args.stage or 2)
  with console.progress("writing", len(tensors)) as advance:
    save_model(args.output, unflatten({path: _counted(cast(tensor, args.dtype), advance)
                                       for path, tensor in tensors.items()}), config)
  if args.init == "dvd360" and "adapter360" not in networks and not trained:
    print("note: no 360-Adapter was given: this one is new, and must be trained")
  if not networks["unet"].config.temporal:
    print(f"note: {networks['unet'].source} has no motion modules: stage one begins with new ones, which add nothing yet")


def _counted(tensor, advance):
  """The tensor, moving the progress bar when it is read."""
  def read(values):
    advance()
    return values
  return tensor.map(read)


def _path_and_strength(text: str) -> tuple[str, float]:
  path, colon, strength = text.rpartition(":")
  if not colon:
    return text, 1.0
  try:
    return path, float(strength)
  except ValueError:
    if Path(text).exists():
      return text, 1.0
    raise InputError(f"--lora {text}: {strength!r} is no number; give PATH or PATH:STRENGTH") from None


def _warn_of_norms(config) -> None:
  if config.temporal and (config.resnet_norm, config.motion_norm) != ("per_frame", "cross_frame"):
    print("note: diffusers takes the statistics of motion modules over all frames and those of resnets per frame; these "
          f"weights are computed {config.motion_norm} and {config.resnet_norm} here, so its results will differ")
