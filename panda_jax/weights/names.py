"""From the names in other people's files to canonical names: the engine that applies the tables of `formats`.

Canonical are the names and layouts of current diffusers and transformers; text encoders go without `text_model.`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Iterable

from panda_jax.weights.errors import WeightsError
from panda_jax.weights.formats import (
    FORMATS, POSITIONS, SECTIONS, SINGLE_FILE_IGNORED, WRAPPERS, Format, Shapes, size_of)
from panda_jax.weights.tensors import LazyTensor, TensorFile

WORDS = {"unet": "UNet", "vae": "VAE", "text_encoder": "text encoder", "motion": "motion modules",
         "adapter360": "360DVD adapter", "lora": "LoRA"}
READABLE = ("UNets, VAEs and text encoders of Stable Diffusion 1.x and 2.x, AnimateDiff motion modules, LoRA and the "
            "360DVD adapter")


@dataclasses.dataclass(frozen=True)
class Part:
  """One network of a file, or what the file has of it.

  Attributes:
    kind: "unet", "vae", "text_encoder", "motion", "adapter360" or "lora" (whose names are left as they are).
    format: whose names the file uses; `format.settings` is what the format alone says of the network.
    tensors: by canonical name. A tensor that the format's table does not know keeps its own name.
    origins: canonical name -> name in the file.
    positions: tables of frame positions by their name in the file, [1 f c]: no parameters, but to be checked.
    ignored: names in the file of what belongs to no network here.
    prefix: below which the network lies in the file, "" if it has the file to itself.
  """

  kind: str
  format: Format
  tensors: dict[str, LazyTensor]
  origins: dict[str, str]
  positions: dict[str, LazyTensor]
  ignored: list[str]
  prefix: str = ""

  @property
  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Canonical names and their shapes."""
    return {name: tensor.shape for name, tensor in self.tensors.items()}


@dataclasses.dataclass(frozen=True)
class Recognised:
  """A format, and the tensors of the file that are named so.

  Attributes:
    format: None for what lies in the file beside its networks.
    prefix: of the network within the file.
    names: name within the network -> name in the file.
    evidence: name in the file by which the format was known.
  """

  format: Format | None
  prefix: str
  names: dict[str, str]
  evidence: str | None = None


@dataclasses.dataclass(frozen=True)
class MotionDetails:
  """What tells AnimateDiff's motion modules apart.

  Attributes:
    version: "v1", "v2" or "v3"; None if they are none of these.
    frames: length of the tables of positions; None if there are none, or of several lengths.
    mid_block: whether the mid block has one.

  Source: diffusers' own rule. A module in the mid block: v2; else 24 positions: v1, 32 positions: v3.
  """

  version: str | None
  frames: int | None
  mid_block: bool


def split_formats(file: TensorFile) -> list[Part]:
  """The networks in a file, under canonical names and in canonical layouts; no value is read.

  Returns:
    one part, or several for an LDM single file. Every tensor of the file is in exactly one of them: in `tensors`
    (cut into several, for OpenCLIP's fused attention), `positions` or `ignored`.

  Raises:
    WeightsError: if the file is of no known format, or of one that no network here can hold, or names two tensors
      for one purpose.
  """
  found = recognise(file)
  for section in found:
    if section.format and section.format.kind == "foreign":
      raise WeightsError(f"{file.path} is {section.format.description} (it has {section.evidence}), which cannot be "
                         f"used here: {section.format.hint}")
  networks = [section for section in found if section.format]
  if not networks:
    raise WeightsError(f"{file.path} is {describe_recognised(file, found)}: give {READABLE}")
  kinds = [section.format.kind for section in networks]
  if len(set(kinds)) < len(kinds):
    places = " and ".join(f"{section.format.description} below \"{section.prefix}\"" for section in networks)
    raise WeightsError(f"{file.path} holds {places}, and it is not clear which is meant: split the file")
  parts = [_part(file, section) for section in networks]
  for section in found:
    if not section.format:
      _add_beside(file, parts[0], section)
  return parts


def recognise(file: TensorFile) -> list[Recognised]:
  """Of what formats a file is, and which tensors belong to each; nothing is refused but names given twice."""
  names: dict[str, str] = {}
  for name in file.tensors:
    bare = _unwrapped(name)
    if bare in names:
      raise WeightsError(f"{file.path} holds both {names[bare]} and {name}, and it is not clear which is meant: "
                         "keep one of them")
    names[bare] = name

  whole = _recognise(file, "", names, [form for form in FORMATS if form.kind in ("foreign", "lora")])
  if whole.format:
    return [whole]
  found, rest = [], dict(names)
  for prefix, default in SECTIONS:
    inside = {bare[len(prefix):]: rest.pop(bare) for bare in names if bare.startswith(prefix)}
    if inside:
      section = _recognise(file, prefix, inside, [form for form in FORMATS if form.kind in ("foreign", default.kind)])
      found.append(section if section.format else dataclasses.replace(section, format=default))
  if rest:
    found.append(_recognise(file, "", rest, FORMATS))
  return found


def describe_recognised(file: TensorFile, found: list[Recognised]) -> str:
  """What a file is, in words with an article, also if it cannot be used here: "an SDXL UNet (diffusers)"."""
  networks = [section for section in found if section.format]
  if not networks:
    names = list(file.tensors)
    some = f" ({', '.join(names[:3])}{' and others' if len(names) > 3 else ''})" if names else ""
    return f"a file of {len(names)} {'tensor' if len(names) == 1 else 'tensors'}{some} in no format that is known here"
  foreign = next((section.format.description for section in networks if section.format.kind == "foreign"), None)
  if foreign:
    return foreign
  if len(networks) > 1 or networks[0].prefix:
    return f"an LDM single file ({', '.join(WORDS[section.format.kind] for section in networks)})"
  section, = networks
  if section.format.kind != "motion":
    return section.format.description
  details = motion_details_of(section.names, {name: file.tensors[name].shape for name in section.names.values()})
  facts = [f"{details.frames} positions" if details.frames else "", "mid block" if details.mid_block else ""]
  facts = ", ".join(filter(None, facts))
  inside = ": ".join(filter(None, (details.version, facts)))
  return section.format.description + (f" ({inside})" if inside else "")


def motion_details(part: Part) -> MotionDetails:
  """Which AnimateDiff motion modules a part of kind "motion" or "unet" has."""
  return motion_details_of(part.tensors, {name: tensor.shape for name, tensor in part.positions.items()})


def motion_details_of(names: Iterable[str], shapes: Shapes) -> MotionDetails:
  """The same from names of tensors, and the shapes of at least the tables of positions."""
  mid_block = any(name.startswith("mid_block.motion_modules.") for name in names)
  lengths = {shape[1] for name, shape in shapes.items() if re.search(POSITIONS, name) and len(shape) == 3}
  frames = lengths.pop() if len(lengths) == 1 else None
  version = "v2" if mid_block else {24: "v1", 32: "v3"}.get(frames)
  return MotionDetails(version, frames, mid_block)


def _recognise(file: TensorFile, prefix: str, names: dict[str, str], formats: Iterable[Format]) -> Recognised:
  shapes = {bare: file.tensors[name].shape for bare, name in names.items()}
  for form in formats:
    evidence = form.evidence(shapes)
    if evidence is not None:
      return Recognised(form, prefix, names, names[evidence])
  return Recognised(None, prefix, names)


def _part(file: TensorFile, section: Recognised) -> Part:
  form = section.format
  part = Part(form.kind, form, {}, {}, {}, [], section.prefix)
  size = size_of(form, section.names)
  for bare, name in section.names.items():
    tensor = file.tensors[name]
    if form.ignores(bare):
      part.ignored.append(name)
      continue
    if re.search(POSITIONS, bare):
      part.positions[name] = tensor
      continue
    targets = form.targets(bare, size)
    if not targets or (len(targets) > 1 and (not tensor.shape or tensor.shape[0] % len(targets))):
      targets = (name,)
    for target, piece in zip(targets, _cut(tensor, len(targets))):
      _put(file, part, target, name, _as_linear(form, target, piece))
  return part


def _add_beside(file: TensorFile, part: Part, section: Recognised) -> None:
  """What lies in an LDM file beside its networks goes with the first of them."""
  for bare, name in section.names.items():
    if any(re.search(pattern, bare) for pattern in SINGLE_FILE_IGNORED):
      part.ignored.append(name)
    else:
      _put(file, part, name, name, file.tensors[name])


def _put(file: TensorFile, part: Part, target: str, name: str, tensor: LazyTensor) -> None:
  if target in part.tensors:
    raise WeightsError(f"{file.path} holds both {part.origins[target]} and {name}, which mean the same ({target}): "
                       "keep one of them")
  part.tensors[target] = tensor
  part.origins[target] = name


def _cut(tensor: LazyTensor, count: int) -> list[LazyTensor]:
  """Equal parts along the first axis."""
  if count == 1:
    return [tensor]
  rows = tensor.shape[0] // count
  shape = (rows, *tensor.shape[1:])
  return [tensor.map(lambda values, first=index * rows: values[first:first + rows], shape) for index in range(count)]


def _as_linear(form: Format, target: str, tensor: LazyTensor) -> LazyTensor:
  """A 1x1 convolution as the matrix that it is, where the network here has one."""
  if not form.linear or not re.search(form.linear, target):
    return tensor
  if len(tensor.shape) <= 2 or math.prod(tensor.shape[2:]) != 1:
    return tensor
  shape = tensor.shape[:2]
  return tensor.map(lambda values: values.reshape(shape), shape)


def _unwrapped(name: str) -> str:
  while name.startswith(WRAPPERS):
    name = name.split(".", 1)[1]
  return name
