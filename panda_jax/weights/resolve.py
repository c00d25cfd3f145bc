"""From a path to networks: sizes, and parameters that still lie in the file. Loading and converting both begin here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

from flax import nnx
import numpy as np

from panda_jax.models.adapter360 import Adapter360
from panda_jax.models.clip_text import CLIPText
from panda_jax.models.embeddings import frame_positions
from panda_jax.models.functional import Functional
from panda_jax.models.unet import UNet
from panda_jax.models.vae import StableDiffusionVAE
from panda_jax.weights import configs
from panda_jax.weights.errors import WeightsError
from panda_jax.weights.layout import from_torch, name_groups, require_fit, to_torch, torch_shapes
from panda_jax.weights.lora import merge, read_lora
from panda_jax.weights.names import WORDS, Part, split_formats
from panda_jax.weights.recognise import Found, config_kind, find_weights, read_json
from panda_jax.weights.tensors import LazyTensor

MODULES: dict[str, type[nnx.Module]] = {
    "unet": UNet, "vae": StableDiffusionVAE, "text_encoder": CLIPText, "adapter360": Adapter360}
CONFIGS = {"unet": configs.UNetConfig, "vae": configs.VAEConfig, "text_encoder": configs.CLIPTextConfig,
           "adapter360": configs.Adapter360Config}
_FROM_SETTINGS = {
    "unet": configs.unet_config, "vae": configs.vae_config, "text_encoder": configs.clip_config}
_FROM_SHAPES = {
    "unet": configs.unet_config_from_shapes, "vae": configs.vae_config_from_shapes,
    "text_encoder": configs.clip_config_from_shapes, "adapter360": configs.adapter360_config_from_shapes}

# Formats of a UNet that holds its motion modules -> config.json of these, None for AnimateDiff's own.
_WITH_MOTION = {"unet_animatediff": None, "unet_motion_diffusers": {}}
# What building a network raises if its sizes are nonsense.
_WRONG_SIZES = (ValueError, TypeError, AttributeError, ArithmeticError, LookupError)

Settings = Mapping[str, Any] | str | os.PathLike


@dataclasses.dataclass(frozen=True)
class Network:
  """A network of which the values still lie in files.

  Attributes:
    kind: "unet", "vae", "text_encoder" or "adapter360".
    config: its sizes.
    tensors: parameters by canonical name, in torch's layout; they are exactly those that the network wants.
    source: for messages: "unet/model.safetensors, a diffusers UNet".
  """

  kind: str
  config: configs.NetworkConfig
  tensors: dict[str, LazyTensor]
  source: str

  @property
  def functional(self) -> Functional:
    """The network as a function of its parameters."""
    return functional(self.kind, self.config)

  def params(self) -> dict[str, LazyTensor]:
    """The parameters by our paths, in our layout."""
    return from_torch(self.tensors, self.functional.abstract)


@functools.lru_cache(maxsize=16)
def functional(kind: str, config: configs.NetworkConfig) -> Functional:
  """A network of a kind and its sizes as a function of its parameters."""
  return Functional(lambda rngs: MODULES[kind](config, rngs=rngs))


def resolve(*paths: str | os.PathLike, motion: str | os.PathLike | None = None,
            lora: Iterable[tuple[str | os.PathLike, float]] = (), wanted: str | None = None,
            variant: str | None = None, config: Settings | Mapping[str, Settings] | None = None,
            resnet_norm: str | None = None, motion_norm: str | None = None,
            use_lora_alpha: bool = True) -> dict[str, Network]:
  """Finds out what lies behind paths and checks it against the networks that it fills; reads no values but LoRA's.

  Args:
    paths: what belongs together: networks, and perhaps motion modules and LoRA files (of strength 1) for them.
    others: those of `weights.load`.

  Returns:
    {kind: network}.

  Raises:
    WeightsError: if something cannot be used, in one sentence.
  """
  if wanted is not None and wanted not in MODULES:
    raise ValueError(f"wanted is {wanted!r}; the networks are {', '.join(MODULES)}")
  networks, additions = _networks([find_weights(path, variant) for path in paths], wanted, _stated_settings(config))
  if not networks:
    _refuse_additions(additions)
  motions = additions["motion"] + ([_motion(motion)] if motion is not None else [])
  if len(motions) > 1:
    raise WeightsError(f"{motions[0][0].path} and {motions[1][0].path} both bring motion modules: give one of them")
  if motions:
    networks["unet"] = _with_motion(_unet_of(networks, "motion modules"), *motions[0])
  if resnet_norm or motion_norm:
    networks["unet"] = _with_norms(_unet_of(networks, "the switches of norms"), resnet_norm, motion_norm)
  for lora_path, strength in [*((found.path, 1.0) for found, _ in additions["lora"]), *lora]:
    networks = _with_lora(networks, lora_path, strength, use_lora_alpha)
  return networks


# --- what is there


def _networks(founds: list[Found], wanted: str | None,
              stated: Mapping[str | None, Mapping]) -> tuple[dict[str, Network], dict[str, list[tuple[Found, Part]]]]:
  """The networks behind several paths, and what is there to be added to them."""
  networks: dict[str, Network] = {}
  additions: dict[str, list[tuple[Found, Part]]] = {"motion": [], "lora": []}
  present: set[str] = set()
  for found in founds:
    if "networks" in found.config:
      parts, own = {}, _own_networks(found)
      kinds, what = own.keys(), ", ".join(f"a {WORDS[kind]}" for kind in own)
    else:
      parts, own = _parts(found), {}
      kinds, what = parts.keys(), _what(parts)
    # What is added to a network, and comes by itself, need not be the network that is wanted.
    if wanted not in (None, *kinds) and (len(founds) == 1 or kinds & MODULES.keys()):
      raise WeightsError(f"{found.path} is {what}, and a {WORDS[wanted]} is wanted: give a file or folder of one")
    chosen = [kind for kind in kinds if kind in MODULES and wanted in (None, kind)]
    if None in stated and len(chosen) > 1:
      raise WeightsError(f"config= does not say for which network it is, and {found.path} has several: give it by "
                         f"kind, {{'{chosen[0]}': …}}")
    new = {kind: own.get(kind) or _network(kind, *parts[kind], _settings(stated, kind, parts[kind][0], len(parts)))
           for kind in chosen}
    for kind in new.keys() & networks.keys():
      raise WeightsError(f"{networks[kind].source} and {new[kind].source} are both a {WORDS[kind]}: give one of them")
    # A saved AnimateDiff pipeline holds its motion modules twice, in the UNet and beside it.
    needed = not new or ("unet" in new and not new["unet"].config.temporal) or ("unet" not in kinds)
    for kind in parts.keys() & additions.keys():
      if needed or kind == "lora":
        additions[kind].append(parts[kind])
    networks |= new
    present |= kinds
  for kind in stated.keys() - present - {None}:
    paths = " and ".join(str(found.path) for found in founds)
    raise WeightsError(f"config= gives the sizes of a {WORDS[kind]}, and {paths} has none: give what belongs together")
  return networks, additions


def _parts(found: Found) -> dict[str, tuple[Found, Part]]:
  """The parts behind a path by their kind, each with the place where it was found."""
  parts: dict[str, tuple[Found, Part]] = {}
  for place in found.components.values() or [found]:
    for part in split_formats(place.open()):
      if part.kind in parts:
        raise WeightsError(f"{parts[part.kind][0].path} and {place.path} are both a {WORDS[part.kind]}, and it is not "
                           "clear which is meant: give one of them alone")
      parts[part.kind] = place, part
  return parts


def _own_networks(found: Found) -> dict[str, Network]:
  """What `weights.save` wrote in our own format."""
  tensors, networks = found.open().tensors, {}
  try:
    described = {kind: CONFIGS[kind](**{name: tuple(value) if isinstance(value, list) else value
                                        for name, value in sizes.items()})
                 for kind, sizes in found.config["networks"].items()}
    shapes = {kind: torch_shapes(functional(kind, config).abstract) for kind, config in described.items()}
    canonical = to_torch(tensors)
  except _WRONG_SIZES as error:
    raise WeightsError(f"{found.path} has a config.json or tensors that are no network of ours ({error}): copy the "
                       "folder again") from error
  strangers = [path for path in tensors if path.split("/")[0] not in described]
  if strangers or not described:
    raise WeightsError(f"{found.path} holds tensors of no network that its config.json names: "
                       f"{name_groups(strangers, '/') or 'none at all'}; copy the folder again")
  for kind, config in described.items():
    start = f"{kind}."
    inside = {name.removeprefix(start): tensor for name, tensor in canonical.items() if name.startswith(start)}
    require_fit(inside, shapes[kind], str(found.path), WORDS[kind])
    networks[kind] = Network(kind, config, inside, str(found.path))
  return networks


def _what(parts: Mapping[str, tuple[Found, Part]]) -> str:
  return " with ".join(part.format.description for _, part in parts.values())


def _stated_settings(config: Settings | Mapping[str, Settings] | None) -> dict[str | None, Mapping[str, Any]]:
  """What the caller says of sizes, by the kind of network that it is for, or by None if it does not say."""
  if config is None:
    return {}
  by_kind = config if isinstance(config, Mapping) and config.keys() & MODULES.keys() else {None: config}
  if not by_kind.keys() <= {None, *MODULES}:
    raise WeightsError(f"config= is given for {', '.join(sorted(by_kind))}; the networks are {', '.join(MODULES)}")
  stated: dict[str | None, Mapping[str, Any]] = {}
  for kind, given in by_kind.items():
    settings = given
    if isinstance(given, str | os.PathLike):
      settings = read_json(Path(given) / "config.json" if Path(given).is_dir() else Path(given))
    named = config_kind(settings)
    if kind is not None and named not in (None, kind):
      raise WeightsError(f"config= gives for the {WORDS[kind]} the sizes of a {WORDS[named]}: give its own config.json")
    stated[kind or named] = settings
  return stated


def _settings(stated: Mapping[str | None, Mapping], kind: str, found: Found, count: int) -> Mapping[str, Any] | None:
  """What is said of a network's sizes: by the caller, its config.json, or the one in a folder of its kind beside it."""
  if stated.keys() & {kind, None}:
    return stated.get(kind, stated.get(None))
  if found.config:
    named = config_kind(found.config)
    if named not in (None, kind):
      raise WeightsError(f"{found.path} holds the weights of a {WORDS[kind]}, and its config.json is for a "
                         f"{WORDS[named]}: keep those together that belong together")
    return found.config
  beside = found.path.parent / kind / "config.json"
  return read_json(beside) if count > 1 and beside.is_file() else None


def _network(kind: str, found: Found, part: Part, settings: Mapping[str, Any] | None) -> Network:
  source = f"{found.path} ({part.format.description})"
  try:
    if settings is not None and kind in _FROM_SETTINGS:
      config = _FROM_SETTINGS[kind](settings, source)
    else:
      config = _FROM_SHAPES[kind](part.shapes, **part.format.settings)
    if part.format.name in _WITH_MOTION and not config.temporal:
      config = _add_motion(config, part, _WITH_MOTION[part.format.name], source)
    wanted = torch_shapes(functional(kind, config).abstract)
  except WeightsError:
    raise
  except KeyError as error:                                     # a tensor that the sizes are read from
    raise WeightsError(f"{source} does not have {error.args[0]}, without which its sizes are unknown: it is not "
                       f"complete; download it again, or give its config.json with config=") from error
  except _WRONG_SIZES as error:
    raise WeightsError(f"{source} has sizes that make no {WORDS[kind]} ({error}): give its own config.json, beside it "
                       "or with config=") from error
  require_fit(part.tensors, wanted, source, WORDS[kind], part.origins)
  integers = [part.origins[name] for name, tensor in part.tensors.items() if tensor.dtype.kind in "iub"]
  if integers:
    raise WeightsError(f"{source} holds integers where weights are wanted ({name_groups(integers)}), as quantised "
                       "networks do: give the one that it was made from")
  if part.positions:
    _check_positions(part, source, config.max_frames)
  return Network(kind, config, part.tensors, source)


# --- what is added


def _motion(path: str | os.PathLike) -> tuple[Found, Part]:
  found = find_weights(path)
  parts = _parts(found)
  if "motion" not in parts:
    raise WeightsError(f"{path} is {_what(parts)}, and AnimateDiff motion modules are wanted: give a file or folder of "
                       "them")
  return parts["motion"]


def _with_motion(unet: Network, found: Found, part: Part) -> Network:
  source = f"{found.path} ({part.format.description})"
  if unet.config.temporal:
    raise WeightsError(f"{unet.source} has motion modules already, and {source} brings others: give a base without")
  config = _add_motion(unet.config, part, found.config if part.format.name == "motion_diffusers" else None, source)
  try:
    wanted = torch_shapes(functional("unet", config).abstract)
  except ValueError as error:
    raise WeightsError(f"{source} does not go with {unet.source}: {error}") from error
  added = {name: shape for name, shape in wanted.items() if name not in unet.tensors}
  require_fit(part.tensors, added, source, f"UNet of {unet.source}", part.origins)
  return Network("unet", config, unet.tensors | part.tensors, f"{unet.source} with {source}")


def _add_motion(config: configs.UNetConfig, part: Part, settings: Mapping | None, source: str) -> configs.UNetConfig:
  frames = _check_positions(part, source, (settings or {}).get("motion_max_seq_length"))
  return dataclasses.replace(config, **configs.motion_changes(part.shapes, frames, settings, source))


def _check_positions(part: Part, source: str, frames: int | None = None) -> int:
  """The tables of frame positions are computed here; those of a file must say the same, as every published one does.

  Returns:
    their length.
  """
  for name, table in part.positions.items():
    values = np.asarray(table.read(), np.float32)
    if values.ndim not in (2, 3) or not values.size:
      raise WeightsError(f"{source}: {name} has the shape {list(values.shape)}, and is no table of frame positions")
    frames = frames or values.shape[-2]
    if values.shape[-2] != frames:
      raise WeightsError(f"{source}: {name} has {values.shape[-2]} frame positions where {frames} are expected")
    # A table in half precision is a rounded one.
    tolerance = 1e-5 if table.dtype.itemsize >= 4 else 5e-3
    if not np.abs(values - frame_positions(frames, values.shape[-1])).max() <= tolerance:             # NaN is neither
      raise WeightsError(f"{source}: {name} is not AnimateDiff's sinusoidal table of frame positions, and this network "
                         "has no other")
  if frames is None:
    raise WeightsError(f"{source} has no table of frame positions, so how many frames it knows is unknown: "
                       "give AnimateDiff's own file, or a diffusers folder with its config.json")
  return frames


def _with_norms(unet: Network, resnet_norm: str | None, motion_norm: str | None) -> Network:
  norms = {"resnet_norm": resnet_norm, "motion_norm": motion_norm}
  try:
    config = dataclasses.replace(unet.config, **{name: value for name, value in norms.items() if value})
  except ValueError as error:
    raise WeightsError(str(error)) from error
  return dataclasses.replace(unet, config=config)


def _with_lora(networks: dict[str, Network], path: str | os.PathLike, strength: float,
               use_alpha: bool) -> dict[str, Network]:
  targets = {kind: {name: tensor.shape for name, tensor in network.tensors.items()}
             for kind, network in networks.items() if kind in ("unet", "text_encoder")}
  if not targets:
    raise WeightsError(f"{path} cannot be merged: only a UNet or a text encoder takes a LoRA")
  deltas = read_lora(find_weights(path).open(), targets, use_alpha)
  merged = dict(networks)
  for kind, changes in deltas.items():
    # Sums are taken in float32, and stay so until they are cast once, to what the caller asked for.
    wide = {name: tensor.map(lambda values: values.astype(np.float32), dtype=np.float32) if name in changes else tensor
            for name, tensor in networks[kind].tensors.items()}
    merged[kind] = dataclasses.replace(networks[kind], tensors=merge(wide, changes, strength),
                                       source=f"{networks[kind].source} with {path}")
  return merged


# --- refusals


def _unet_of(networks: Mapping[str, Network], addition: str) -> Network:
  if "unet" not in networks:
    raise WeightsError(f"{' and '.join(network.source for network in networks.values())} has no UNet, and {addition} "
                       "need one: give it as the base")
  return networks["unet"]


def _refuse_additions(additions: Mapping[str, list[tuple[Found, Part]]]) -> None:
  kind, (found, part) = next((kind, entries[0]) for kind, entries in additions.items() if entries)
  raise WeightsError(f"{found.path} is {part.format.description}, which is no network by itself: give it as {kind}= "
                     "(panda convert: --input) together with the UNet that it is for")
