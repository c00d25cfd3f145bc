"""LoRA files: for each of some layers two thin matrices, whose product is added to the weight of a network.

Merging is W + strength · factor · up @ down, with factor = alpha / rank, or 1 where a file states no alpha.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import re
from typing import Any, Callable, Mapping

import numpy as np

from panda_jax.weights.errors import WeightsError
from panda_jax.weights.tensors import LazyTensor, TensorFile

# How a name begins: the kind of network, and whether the path behind it is written with "_" for every "." (kohya).
# What begins otherwise is the path of a layer of the UNet.
_PREFIXES = {
    "lora_unet_": ("unet", True),
    "lora_te_": ("text_encoder", True),
    "lora_te1_": ("text_encoder", True),
    "lora_te2_": ("text_encoder_2", True),
    "unet.": ("unet", False),
    "text_encoder.": ("text_encoder", False),
    "text_encoder_2.": ("text_encoder_2", False),
    "text_model.": ("text_encoder", False),
}

# How a name ends: which part of the product it is.
_SUFFIXES = {
    ".lora_down.weight": "down", ".lora_up.weight": "up",                             # kohya, LoCon
    ".lora_A.weight": "down", ".lora_B.weight": "up",                                 # PEFT, diffusers
    ".lora_A.default.weight": "down", ".lora_B.default.weight": "up",                 # PEFT, a bare state dict
    ".lora.down.weight": "down", ".lora.up.weight": "up",                             # diffusers before PEFT, UNet
    ".lora_linear_layer.down.weight": "down", ".lora_linear_layer.up.weight": "up",   # and text encoder
    "_lora.down.weight": "down", "_lora.up.weight": "up",                             # older diffusers, AnimateDiff
    ".alpha": "alpha",
}

# What else people call LoRA: none of it is up @ down.
_OTHER_METHODS = {
    r"\.dora_scale|\.lora_magnitude_vector": "DoRA",
    r"\.hada_": "LoHa",
    r"\.lokr_": "LoKr",
    r"\.lora_mid\.": "LoCon with a middle factor (Tucker decomposition)",
    r"\.oft_": "OFT",
    r"\.(w_norm|b_norm|diff|diff_b)$": "LyCORIS with whole differences",
    r"\.lora_(B|up)\.bias$": "LoRA with biases",
}

# Paths of older files to canonical ones: pattern, replacement; all are applied, in this order.
_PATHS = {
    "unet": (
        (r"\.processor(?=\.|$)", ""),
        (r"\.temporal_transformer\.", "."),
        (r"\.attention_blocks\.0\.", ".attn1."),
        (r"\.attention_blocks\.1\.", ".attn2."),
        (r"\.to_out$", ".to_out.0"),
    ),
    "text_encoder": (
        (r"^text_model\.", ""),
        (r"\.to_([qkv])$", r".\1_proj"),
        (r"\.to_out$", ".out_proj"),
    ),
}

# Where diffusers keeps PEFT's settings in a safetensors header, and those of PEFT's initialisations that change the
# base weights as well, so that adding the product to the original ones would be wrong.
_PEFT_KEY = "lora_adapter_metadata"
_PEFT_CHANGES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")
_PEFT_DEFAULT_ALPHA = 8


@dataclasses.dataclass(frozen=True)
class Delta:
  """What a LoRA adds to one weight.

  Attributes:
    shape: of the weight, in torch's layout.
    down: [r i] or [r i kh kw].
    up: [o r] or [o r 1 1].
    factor: alpha / rank, or 1; the strength that the user chooses comes on top.
  """

  shape: tuple[int, ...]
  down: LazyTensor
  up: LazyTensor
  factor: float

  def apply(self, scale: float) -> Callable[[np.ndarray], np.ndarray]:
    """A function for `LazyTensor.map`: values + scale · factor · up @ down.

    The sum is taken in float32 and cast back to the type of the values. Merging into float16 therefore rounds the
    sum to float16, once per LoRA: map the weight to float32 first where that matters.

    Raises:
      WeightsError: from the function, if the sum does not fit into the type of the values.
    """
    def add(values: np.ndarray) -> np.ndarray:
      up, down = (np.asarray(part.read(), np.float32) for part in (self.up, self.down))
      with np.errstate(over="ignore", invalid="ignore"):                   # said in our own words below
        total = np.float32(scale * self.factor) * (up.reshape(up.shape[:2]) @ down.reshape(down.shape[0], -1))
        total = total.reshape(self.shape)
        total += values.astype(np.float32, copy=False)
        merged = total.astype(values.dtype, copy=False)
      if not np.isfinite(merged).all() and np.isfinite(values).all():      # a bad base is for its own reader to name
        raise WeightsError(f"{self.up.name} merged at strength {scale:g} gives numbers that {values.dtype} cannot "
                           "hold: use a smaller strength, or load the network in float32")
      return merged
    return add


def merge(tensors: Mapping[str, LazyTensor], deltas: Mapping[str, Delta], scale: float) -> dict[str, LazyTensor]:
  """Adds one LoRA to one network; nothing is read until a tensor is. Several LoRAs are merged one after another.

  Args:
    tensors: of the network, by canonical name, in torch's layout.
    deltas: of this kind, as `read_lora` gives them for the same names and shapes.
    scale: strength; 0 changes nothing, 1 is what the LoRA was trained for.

  Raises:
    WeightsError: if the strength is no finite number.
    ValueError: if a delta has no tensor, or one of another shape.
  """
  if not math.isfinite(scale):
    raise WeightsError(f"the strength of a LoRA must be a number such as 0.8, got {scale}")
  unfit = [name for name, delta in deltas.items() if name not in tensors or tensors[name].shape != delta.shape]
  if unfit:
    raise ValueError(f"these deltas were read for other tensors: {_listed(unfit)}")
  if scale == 0:
    return dict(tensors)
  return {name: tensor.map(deltas[name].apply(scale)) if name in deltas else tensor for name, tensor in tensors.items()}


def read_lora(file: TensorFile, targets: Mapping[str, Mapping[str, tuple[int, ...]]],
              use_alpha: bool = True) -> dict[str, dict[str, Delta]]:
  """Finds the weights that a LoRA changes.

  Read are kohya's files (also LoCon, and those without alpha), diffusers' and PEFT's, old and new, and AnimateDiff's
  domain adapter and MotionLoRAs. Parts for a kind of network that is not loaded are left out.

  Args:
    file: the opened LoRA.
    targets: {kind: {canonical name: shape in torch's layout}} of the networks that are being loaded.
    use_alpha: False takes every factor as 1 whatever the file says, as the scripts of AnimateDiff and 360DVD do.

  Returns:
    {kind: {canonical name: Delta}}, with every kind of `targets`; those that the LoRA leaves alone are empty.

  Raises:
    WeightsError: if it is no LoRA or one of another method, if nothing in it is for these networks, if a name fits no
      layer, a pair is incomplete or of another shape, or a tensor holds NaN or infinity.

  Source: kohya's sd-scripts for alpha / rank; PEFT's LoraConfig for alpha, alpha_pattern and rslora.
  """
  layers = {kind: {name.removesuffix(".weight"): tuple(shape) for name, shape in tensors.items()
                   if name.endswith(".weight") and len(shape) > 1} for kind, tensors in targets.items()}
  parts = _assign(file, layers)
  _require_pairs(file, parts, layers)
  infinite = [name for name in file.tensors if _kind_and_path(name)[0] in targets and not _is_finite(file, name)]
  if infinite:
    raise WeightsError(f"{file.path}: NaN or infinity in {_listed(infinite)}: it is damaged, get it again")
  deltas = {kind: {} for kind in targets}
  settings = {kind: _peft_settings(file, kind) if use_alpha else {} for kind in targets}
  for (kind, layer), pair in sorted(parts.items()):
    factor = _factor(file, kind, layer, pair, settings[kind]) if use_alpha else 1.0
    deltas[kind][f"{layer}.weight"] = Delta(layers[kind][layer], pair["down"], pair["up"], factor)
  return deltas


def _kind_and_path(name: str) -> tuple[str, str, bool]:
  """Kind of network, rest of the name, whether that is written with underscores."""
  name = name.removeprefix("module.")
  for prefix, (kind, underscores) in _PREFIXES.items():
    if name.startswith(prefix):
      return kind, name.removeprefix(prefix), underscores
  return "unet", name, False


def _assign(file: TensorFile, layers: dict[str, dict]) -> dict[tuple[str, str], dict[str, LazyTensor]]:
  """{(kind, layer): {"down" | "up" | "alpha": tensor}}, every name of the loaded kinds used, or an error."""
  # Paths hold underscores themselves (to_q, proj_in), so a name is looked up whole instead of split.
  underscored = {kind: {path.replace(".", "_"): path for path in known} for kind, known in layers.items()}
  parts, strangers, methods, kinds = collections.defaultdict(dict), [], collections.defaultdict(list), set()
  for name, tensor in file.tensors.items():
    kind, path, underscores = _kind_and_path(name)
    kinds.add(kind)
    if kind not in layers:
      continue
    method = next((method for pattern, method in _OTHER_METHODS.items() if re.search(pattern, path)), None)
    suffix = next((suffix for suffix in _SUFFIXES if path.endswith(suffix)), None)
    if method:
      methods[method].append(name)
      continue
    layer = None
    if suffix and underscores:
      layer = underscored[kind].get(path.removesuffix(suffix).removeprefix("text_model_"))
    elif suffix:
      layer = path.removesuffix(suffix)
      for pattern, replacement in _PATHS.get(kind, ()):
        layer = re.sub(pattern, replacement, layer)
    if layer not in layers[kind]:
      strangers.append(name)
    elif _SUFFIXES[suffix] in parts[kind, layer]:
      raise WeightsError(f"{file.path} has two tensors for one part of {layer}, the second is {name}: two LoRAs were "
                         "mixed into one file, give them one by one")
    else:
      parts[kind, layer][_SUFFIXES[suffix]] = tensor
  if methods:
    found = "; ".join(f"{method}: {_listed(names)}" for method, names in methods.items())
    raise WeightsError(f"{file.path} is not plain LoRA, and merging only that is known ({found}): "
                       "convert it to a LoRA, or merge it into its base with the tool that made it")
  if not any(name.endswith(suffix) for name in file.tensors for suffix, part in _SUFFIXES.items() if part != "alpha"):
    example = f", it holds {_listed(list(file.tensors))}" if file.tensors else ""
    raise WeightsError(f"{file.path} is no LoRA: none of its {len(file.tensors)} tensors is named like one"
                       f"{example}; give a file of lora_down/lora_up or lora_A/lora_B pairs")
  if strangers:
    raise WeightsError(f"{file.path}: {len(strangers)} of {len(file.tensors)} names fit no layer of what is loaded "
                       f"({', '.join(sorted(layers))}): {_listed(strangers)}; {_advice(strangers, layers)}")
  if not parts:
    raise WeightsError(f"{file.path} is a LoRA for {', '.join(sorted(kinds))}, but loaded is "
                       f"{', '.join(sorted(layers)) or 'nothing'}: load what it is for, or leave the LoRA out")
  return dict(parts)


def _advice(strangers: list[str], layers: dict[str, dict]) -> str:
  if any("motion_modules" in name for name in strangers) \
      and not any("motion_modules" in layer for layer in layers.get("unet", ())):
    return "it is a MotionLoRA, so load the motion module that it was trained on as well"
  if any(re.match(r"lora_unet_(input_blocks|middle_block|output_blocks)_", name) for name in strangers):
    return "such block names are those of LoRAs for SDXL: use one for the base model that is loaded"
  if any(name.startswith("base_model.model.") for name in strangers):
    return "this is a PEFT adapter, which keeps its alpha elsewhere: save it with diffusers' save_lora_weights"
  return "use a LoRA that was trained on this kind of base model"


def _require_pairs(file: TensorFile, parts: dict[tuple[str, str], dict[str, LazyTensor]], layers: dict) -> None:
  incomplete, unfit = [], []
  for (kind, layer), pair in sorted(parts.items()):
    absent = [part for part in ("down", "up") if part not in pair]
    if absent:
      incomplete.append(f"{layer} (no {' and no '.join(absent)})")
      continue
    down, up, shape = pair["down"].shape, pair["up"].shape, layers[kind][layer]
    # A 1x1 convolution and a linear layer are the same thing with and without two trailing ones.
    if len(down) not in (2, 4) or len(up) not in (2, 4) or up[2:] not in ((), (1, 1)) or up[1] != down[0] \
        or down[0] < 1 or (up[0], down[1], *(down[2:] or (1, 1))) != (*shape[:2], *(shape[2:] or (1, 1))):
      unfit.append(f"{layer} (down {list(down)}, up {list(up)}, the weight is {list(shape)})")
  if incomplete:
    raise WeightsError(f"{file.path}: {len(incomplete)} incomplete pairs: {_listed(incomplete)}: get the file again")
  if unfit:
    raise WeightsError(f"{file.path}: {len(unfit)} pairs of another shape than the network's: {_listed(unfit)}; "
                       "use a LoRA that was trained on this kind of base model")


def _is_finite(file: TensorFile, name: str) -> bool:
  # float32 first: NumPy has no isfinite for the 8-bit types.
  with np.errstate(over="ignore"):
    return bool(np.isfinite(np.asarray(file.tensors[name].read(), np.float32)).all())


def _factor(file: TensorFile, kind: str, layer: str, pair: dict[str, LazyTensor], settings: dict[str, Any]) -> float:
  rank = pair["down"].shape[0]
  if "alpha" in pair:
    if math.prod(pair["alpha"].shape) != 1:
      raise WeightsError(f"{file.path}: alpha of {layer} should be one number, and has shape "
                         f"{list(pair['alpha'].shape)}: get the file again")
    return float(np.asarray(pair["alpha"].read(), np.float64).reshape(())) / rank
  if not settings:
    return 1.0
  alpha = settings.get("lora_alpha", _PEFT_DEFAULT_ALPHA)
  names = (layer, f"text_model.{layer}") if kind == "text_encoder" else (layer,)
  for pattern, value in (settings.get("alpha_pattern") or {}).items():
    if any(_peft_pattern(pattern).match(name) for name in names):            # the first that fits counts
      alpha = value
      break
  return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _peft_settings(file: TensorFile, kind: str) -> dict[str, Any]:
  """PEFT's settings for one kind of network, or an empty dict where the file has none.

  diffusers writes {"unet.lora_alpha": 4, …} for a pipeline and {"lora_alpha": 4, …} for a network saved alone.
  """
  if _PEFT_KEY not in file.metadata:
    return {}
  wrong = f"{file.path}: {_PEFT_KEY} in its header cannot be used"
  mend = "save the LoRA again, or load it without alpha"
  try:
    settings = json.loads(file.metadata[_PEFT_KEY])
  except (ValueError, RecursionError) as error:
    raise WeightsError(f"{wrong}, it is not readable JSON: {mend}") from error
  if not isinstance(settings, dict):
    raise WeightsError(f"{wrong}, it should be one JSON object: {mend}")
  if any(key.startswith(("unet.", "text_encoder.", "text_encoder_2.")) for key in settings):
    settings = {key.removeprefix(f"{kind}."): value for key, value in settings.items() if key.startswith(f"{kind}.")}

  patterns = settings.get("alpha_pattern") or {}
  if not isinstance(patterns, dict):
    raise WeightsError(f"{wrong}, alpha_pattern should be a JSON object: {mend}")
  for value in (settings.get("lora_alpha", _PEFT_DEFAULT_ALPHA), *patterns.values()):
    if type(value) not in (int, float) or not -1e9 < value < 1e9:
      raise WeightsError(f"{wrong}, an alpha in it is no number: {mend}")
  for pattern in patterns:
    try:
      _peft_pattern(pattern)
    except (re.error, OverflowError, RecursionError) as error:
      raise WeightsError(f"{wrong}, a key of alpha_pattern is no regular expression: {mend}") from error
  initial = settings.get("init_lora_weights")
  if settings.get("use_dora") or (isinstance(initial, str) and initial.lower().startswith(_PEFT_CHANGES_BASE)):
    method = "DoRA" if settings.get("use_dora") else initial
    raise WeightsError(f"{file.path} was trained with {method}, which is more than adding up @ down to the base: "
                       "convert it to a plain LoRA with PEFT")
  return settings


def _peft_pattern(key: str) -> re.Pattern:
  """PEFT's rule for the keys of alpha_pattern: a regular expression for the end of a layer's path."""
  return re.compile(rf"(.*\.)?({key})$")


def _listed(names: list[str], limit: int = 3) -> str:
  """Many names in one readable line: those that differ only in their numbers count as one."""
  groups = collections.defaultdict(list)
  for name in names:
    groups[re.sub(r"\d+", "0", name)].append(name)
  shown = [members[0] if len(members) == 1 else f"{members[0]} (and {len(members) - 1} like it)"
           for members in list(groups.values())[:limit]]
  hidden = sum(len(members) for members in list(groups.values())[limit:])
  return ", ".join(shown) + (f" and {hidden} more" if hidden else "")
