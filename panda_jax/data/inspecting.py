"""`panda inspect`: what a dataset holds, in numbers and as a contact sheet of random clips.

Every clip record is read once, one at a time; of a dataset of pixels, that is all of its bytes.
"""

import collections
import json
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from panda_jax import tiles
from panda_jax.data import records, stores
from panda_jax.data.flow import decode_flow
from panda_jax.data.image_records import ImageReader
from panda_jax.data.prepare.manifest import MANIFEST
from panda_jax.data.prepare.options import DEFAULT_FLAT_CAPTION
from panda_jax.data.sources import DEFAULT_CAPTION
from panda_jax.data.stored_views import BFLOAT16, image_numbers, read_latents
from panda_jax.errors import InputError
from panda_jax.geometry import make_rig

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
Decode = Callable[[np.ndarray], np.ndarray]

FEW_FRAMES = 16                              # of the matrices that most configs train on
_LABEL_LINES = 4
_LATENT_SIDE = 256                           # latents are small: each is shown as a square of pixels


@contextmanager
def _silent(description: str, total: int):
  yield lambda n=1, note=None: None


def inspect(path: str | Path, split: str | None = None, progress: Progress = _silent) -> dict[str, Any]:
  """What a dataset holds.

  Args:
    path: a folder that `panda prepare` or `records.write_records` made.
    split: look at the clips of this one only.
    progress: `progress(description, total)` is a context manager that gives `advance(n)`, called for every clip.

  Returns:
    JSON with these keys, None or empty where nothing is known:
      "path", "kind", "store", "size" [H, W], "encoding", "quality", "metadata" of the dataset;
      "about": what the images of a store, and "motion", are made with, "rig": the name of its cameras;
      "splits": {name: {"clips", "frames", "seconds", "bytes", "clip_seconds", "clip_frames", "variants" (stored of a
        clip), each {"min", "median", "max"}, "shortest": id of a clip, "fps": [{"fps", "clips"}]}};
      "captions": {"words": {"min", "median", "max"}, "distinct", "default", "shortest": three texts};
      "sources": {"files", "used", "skipped", "made_of", "kinds": {kind: files}, "verdicts": {verdict: files},
        "resolutions": [{"width", "height", "used", "skipped"}]}, from the manifest;
      "rules": {name: {"count", "effect", "means", "example": {"file", "why"}}}, from the manifest;
      "warnings": sentences.

  Raises:
    InputError: if there is no such dataset or split, it is not finished, or a file is missing or damaged.
  """
  info = find_dataset(path)
  splits = _chosen(path, info, split)
  manifest = _read_manifest(Path(path) / MANIFEST)
  captions: collections.Counter[str] = collections.Counter()
  with progress("reading", sum(info["splits"][name] for name in splits)) as advance:
    found = {name: _inspect_split(path, name, info, captions, advance) for name in splits}
  about = {
    "path": str(path), "kind": info["kind"], "store": info["store"], "size": list(info["size"]),
    "encoding": info["encoding"], "quality": info["quality"], "metadata": info["metadata"],
    "about": info["about"],
    "rig": _name_of_rig(info["about"]["rig"]) if "rig" in info["about"] else None,
    "splits": found, "captions": _inspect_captions(captions, info["kind"]), **_inspect_manifest(path, manifest),
  }
  return about | {"warnings": _warnings(about, info["splits"], captions)}


def draw_sheet(path: str | Path, split: str | None = None, count: int = 12, seed: int = 0, decode: Decode | None = None,
               width: int = 1600) -> np.ndarray:
  """A contact sheet of random clips: the middle frame of each.

  Args:
    path: of the dataset.
    split: draw from this one only.
    count: how many clips, if there are as many; drawn without replacement.
    seed: of the draw, 0 or more.
    decode: stored latents of one frame, float32 [v h w c], to pictures, uint8 [v h' w' 3]. None: the first three
      channels are shown as false colours.
    width: of the sheet, in pixels.

  Returns:
    uint8 [H' W' 3] with W' = width.

  Raises:
    InputError: as `inspect`; for a count or seed out of range.
  """
  if count < 1:
    raise InputError(f"a sheet needs 1 record or more, got {count}")
  if seed < 0:
    raise InputError(f"the seed must be 0 or more, got {seed}")
  info = find_dataset(path)
  opened = [records.open_records(path, name) for name in _chosen(path, info, split)]
  readers = [None if info["store"] == "pixels" else ImageReader(path, each.split) for each in opened]
  clips = [(*both, index) for both in zip(opened, readers) for index in range(len(both[0]))]
  drawn = np.sort(np.random.default_rng(seed).choice(len(clips), min(count, len(clips)), replace=False))
  inner = tiles.inner(width)
  notes = [f"{len(drawn)} of {len(clips)} clips, drawn with seed {seed}; the middle frame of each"]
  if "shape" in info["about"] and decode is not None:
    notes.append("decoded from the stored latents")
  elif "shape" in info["about"]:
    notes.append("FALSE COLOURS: red, green and blue are the first three channels of the mean latents, each stretched "
                 "over its range in the frame; give --model, the model that made them, to see pictures")
  if "motion" in info["about"]:
    notes.append("beside it its motion, in the colours of the 360-Adapter: no motion is black")
  parts = [tiles.text([Path(os.path.abspath(path)).name], tiles.TITLE, tiles.INK, inner),
           tiles.text(notes, tiles.LABEL + 2, tiles.SOFT, inner)]
  shown = [_show(info, *clips[place], decode or _false_colours) for place in drawn]
  if len(shown[0][1]) == 1:
    pictures = [(label, views[0][1]) for label, views in shown]
    h, w = pictures[0][1].shape[:2]
    columns = max(2, tiles.columns_of(len(pictures), 3 if w > h else 4))
    return tiles.paper([*parts, *tiles.grid(pictures, columns, inner, _LABEL_LINES)], width)
  for label, views in shown:
    first, *rest = label.splitlines()
    parts.append(tiles.heading(first, inner))
    parts.append(tiles.text(rest, tiles.LABEL, tiles.SOFT, inner, most=_LABEL_LINES))
    parts += tiles.grid(views, tiles.columns_of(len(views), 10), inner)
  return tiles.paper(parts, width)


# Reading


def find_dataset(path: str | Path) -> dict[str, Any]:
  """`records.dataset_info`; of a dataset that is still being made, the InputError says how far it is."""
  _refuse_unfinished(Path(path))
  return records.dataset_info(path)


def _refuse_unfinished(path: Path) -> None:
  path = Path(os.path.abspath(path))
  place = path if path.name.endswith(".incomplete") else path.with_name(f"{path.name}.incomplete")
  if not place.is_dir() or path != place and path.exists() and not (path.is_dir() and not any(path.iterdir())):
    return
  said = f"{place} is a dataset that is still being made, or whose making was interrupted"
  try:
    inputs = json.loads((place / "recipe.json").read_text(encoding="utf-8"))["inputs"]
  except FileNotFoundError:
    raise InputError(f"{said}: wait for it, or run what made it again") from None
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(f"{said}, and its recipe.json cannot be read ({error}): remove that folder and prepare it again"
                     ) from error
  verdicts = place / "verdicts.jsonl"
  judged = verdicts.read_bytes().count(b"\n") if verdicts.exists() else 0
  units = len(list(place.glob("work/unit-*.json")))
  raise InputError(f"{said}: {judged} of {len(inputs)} files are checked, {units} units of clips are written; the same "
                   "`panda prepare` command goes on from there")


def _chosen(path: str | Path, info: Mapping[str, Any], split: str | None) -> list[str]:
  if split is not None and split not in info["splits"]:
    raise InputError(f"{path} has no split {split!r}: it has {', '.join(info['splits'])}")
  return list(info["splits"]) if split is None else [split]


def _read_manifest(path: Path) -> dict[str, Any] | None:
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as error:
    raise InputError(f"{path} cannot be read ({error}): copy it again, or remove it to do without it") from error


def _clips(opened: records.Records) -> Iterator[dict[str, Any]]:
  return (_clip(opened, index) for index in range(len(opened)))


def _clip(opened: records.Records, index: int) -> dict[str, Any]:
  """A clip record, with its number of frames as "length"."""
  record = opened[index]
  return record if "length" in record else record | {"length": len(record["frames"])}


def _inspect_split(path: str | Path, split: str, info: Mapping[str, Any], captions: collections.Counter[str],
                   advance: Callable[..., None]) -> dict[str, Any]:
  """Goes through the clips of one split; their captions are added to `captions`."""
  seconds, lengths, variants = [], [], []
  rates: collections.Counter[float] = collections.Counter()
  shortest, images = "", 0
  for record in _clips(records.open_records(path, split)):
    fps, length = round(record["fps"], 3), record["length"]
    if not lengths or length < min(lengths):
      shortest = record["id"]
    lengths.append(length)
    seconds.append(length / fps if fps > 0 else 0.0)
    rates[fps] += 1
    captions[record["caption"]] += 1
    if info["store"] != "pixels":
      variants.append(len(record["flip"]))
      images = max(images, record["first"] + length * len(record["flip"]) * _views(info["about"]))
    advance()
  if info["store"] != "pixels":
    _check_images(path, split, images)
  return {
    "clips": len(lengths), "frames": sum(lengths), "seconds": round(sum(seconds), 3),
    "bytes": sum(file.stat().st_size for file in Path(path).glob(f"*-{split}.array_record-*-of-*")),
    "clip_seconds": _spread(seconds), "clip_frames": _spread(lengths), "shortest": shortest,
    "fps": [{"fps": fps, "clips": clips} for fps, clips in sorted(rates.items())],
    "variants": _spread(variants) if variants else None,
  }


def _check_images(path: str | Path, split: str, expected: int) -> None:
  stored = len(ImageReader(path, split))
  if stored != expected:
    raise InputError(f"{path} stores {stored} images of its split {split!r} and its clips have {expected}: the dataset "
                     "is damaged, prepare it again into a new folder")


def _views(about: Mapping[str, Any]) -> int:
  """Images that a store has of each frame and variant."""
  return len(about["rig"]) if "rig" in about else 1


def _spread(numbers: Sequence[float]) -> dict[str, float]:
  return {"min": round(min(numbers), 3), "median": round(statistics.median(numbers), 3), "max": round(max(numbers), 3)}


def _name_of_rig(cameras: list[list[float]]) -> str:
  for name in ("videopanda", "cubemap", "icosahedron", f"horizontal{max(3, len(cameras))}"):
    if stores.cameras_to_json(make_rig(name)) == cameras:
      return name
  return f"{len(cameras)} cameras"


def _inspect_captions(captions: collections.Counter[str], kind: str) -> dict[str, Any]:
  words = [len(caption.split()) for caption in captions.elements()]
  default = DEFAULT_FLAT_CAPTION if kind == "flat" else DEFAULT_CAPTION
  return {"words": _spread(words), "distinct": len(captions), "default": captions[default],
          "shortest": sorted(captions, key=lambda caption: (len(caption.split()), len(caption), caption))[:3]}


def _inspect_manifest(path: str | Path, manifest: dict[str, Any] | None) -> dict[str, Any]:
  """"sources" and "rules" of a dataset; older manifests have no rules."""
  if manifest is None:
    return {"sources": None, "rules": None}
  try:
    files = manifest["files"]
    resolutions: dict[tuple[int, int], list[int]] = {}
    for entry in files:
      resolutions.setdefault(tuple(entry["size"]), [0, 0])[not entry["used"]] += 1
    used = sum(entry["used"] for entry in files)
    sources = {
      "files": len(files), "used": used, "skipped": len(files) - used, "made_of": _dataset_of(manifest),
      "kinds": dict(collections.Counter(entry["kind"] for entry in files)),
      "verdicts": dict(collections.Counter(entry["verdict"] for entry in files)),
      "resolutions": [{"width": w, "height": h, "used": counts[0], "skipped": counts[1]}
                      for (h, w), counts in sorted(resolutions.items())],
    }
    rules = manifest.get("rules")
    if rules is not None:
      rules = {name: {"count": row["count"], "effect": row.get("effect"), "means": row.get("means"),
                      "example": row.get("example")} for name, row in rules.items()}
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    raise InputError(f"{Path(path) / MANIFEST} is not what panda prepare writes ({type(error).__name__}: {error}): "
                     "copy it again, or remove it to do without it") from error
  return {"sources": sources, "rules": rules}


def _dataset_of(manifest: dict[str, Any]) -> str | None:
  """The dataset of panoramas that this one was made of."""
  made = [Path(entry["file"]) for entry in manifest["inputs"]]
  return str(made[0].parent) if len(made) == 1 and made[0].name == "dataset_info.json" else None


def _warnings(about: Mapping[str, Any], splits: Mapping[str, int], captions: collections.Counter[str]) -> list[str]:
  said = []
  for name, split in about["splits"].items():
    fewest = split["clip_frames"]["min"]
    if fewest < FEW_FRAMES:
      said.append(f"the split {name!r} has clips of fewer than {FEW_FRAMES} frames, the shortest is "
                  f"{split['shortest']!r} with {fewest}: no matrix of more frames can be made of this split")
  for name, use in (("train", "there is nothing to train on"),
                    ("validation", "training cannot say how it does on clips that it has not seen; panda prepare "
                                   "--holdout keeps some")):
    if name not in splits:
      said.append(f"there is no split {name!r}: {use}")
  if len(captions) == 1 and captions.total() > 1:
    said.append(f"all {captions.total()} captions are {next(iter(captions))!r}: a model learns nothing about words "
                "from them; panda caption writes some, panda prepare --captions takes them")
  sources = about["sources"]
  if sources and sources["skipped"] > sources["used"]:
    said.append(f"{sources['skipped']} of {sources['files']} files were skipped")
  return said


# Drawing


def _show(info: Mapping[str, Any], opened: records.Records, reader: ImageReader | None, index: int,
          decode: Decode) -> tuple[str, list[tiles.Tile]]:
  """A clip's label, and the pictures of its middle frame with labels of their own."""
  record, about = _clip(opened, index), info["about"]
  facts = f"{opened.split} · {record['fps']:.4g} frames/s · {record['length']} frames"
  directions = [""]
  if "rig" in about:
    directions = [f"yaw {camera[0]:g}°, pitch {camera[1]:g}°" for camera in about["rig"]]
    facts += f" · the panorama turned by {record['yaw_deg'][0]:.1f}°, 1 of {len(record['flip'])} variants"
  pictures = _pictures(record, info, reader, decode)
  if "motion" in record:
    motion = records.decode_motion(record, [record["length"] // 2])[0]
    speed = np.median(np.linalg.norm(decode_flow(motion, motion.shape[1]), axis=-1))
    directions.append(f"its motion, median {speed:.2g} pixels to the next frame")
    pictures.append(motion)
  return f"{record['id']}\n{facts}\n{record['caption']}", list(zip(directions, pictures, strict=True))


def _pictures(record: dict[str, Any], info: Mapping[str, Any], reader: ImageReader | None, decode: Decode) -> list:
  """All that is stored of a clip's middle frame in its first variant, uint8 [h w 3] each."""
  middle, views = record["length"] // 2, _views(info["about"])
  if reader is None:
    return [records.decode_frame(record["frames"][middle])]
  numbers = image_numbers(record, [middle], 0, views, np.arange(views))
  if numbers.max() >= len(reader):
    raise InputError(f"images of the clip {record['id']!r} are missing in {reader.path}: the dataset is damaged, "
                     "prepare it again into a new folder")
  if info["store"] == "crops":
    return [records.decode_frame(image) for image in reader.read(numbers[:, 0].tolist())]
  latents = np.empty((*numbers.shape, *info["about"]["shape"]), BFLOAT16)
  read_latents(reader, numbers, latents)
  return list(decode(latents[:, 0].astype(np.float32)))


def _false_colours(latents: np.ndarray) -> np.ndarray:
  """Latents [v h w c] of one frame -> uint8 [v h' w' 3]: the first three channels, each stretched over its range."""
  _, h, w, c = latents.shape
  shown = latents[..., np.arange(3) % c]
  low, high = np.percentile(shown, (1, 99), axis=(0, 1, 2))
  colours = np.uint8(255 * ((shown - low) / np.maximum(high - low, 1e-6)).clip(0, 1))
  times = max(1, _LATENT_SIDE // h)
  return colours.repeat(times, axis=1).repeat(times, axis=2)

