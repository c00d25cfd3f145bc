"""What a run works on: files that have to be judged, or the clips of a dataset, which were."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from panda_jax.data import records
from panda_jax.data.prepare.motion import find_flows
from panda_jax.data.prepare.options import Options
from panda_jax.data.prepare.plan import ClipPlan, kept
from panda_jax.data.prepare.work import Origin
from panda_jax.data.shards import NAME
from panda_jax.data.sources import Source, find_sources
from panda_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Work:
  """The sources of a run; those of a dataset bring their clips along and need no check."""

  dataset: str
  sources: list[Source]
  warnings: list[str]
  clips: list[ClipPlan] | None = None
  origins: dict[int, Origin] = dataclasses.field(default_factory=dict)


def find_work(inputs: Sequence[str | Path], options: Options, captions: str | Path | None) -> Work:
  """What the inputs hold.

  Raises:
    InputError: if it is nothing to work on.
  """
  if len(inputs) == 1 and is_dataset(inputs[0]):
    return _work_of_dataset(Path(inputs[0]), options, captions)
  found = find_sources(inputs, captions, options.dataset, options.default_caption, options.flat)
  return Work(found.dataset, find_flows(found.sources, options.flow_videos), found.warnings)


def is_dataset(path: str | Path) -> bool:
  """Whether a folder is a dataset of ours, and not one of films."""
  return (Path(path) / "dataset_info.json").is_file()


def _work_of_dataset(path: Path, options: Options, captions: str | Path | None) -> Work:
  info = records.dataset_info(path)
  if info["store"] != "pixels":
    raise InputError(f"{path} holds {info['store']} already: give the dataset of panoramas that they were made of")
  if options.store == "pixels":
    films = ", or the films again, with --flow, for motion" if options.has_motion else ""
    raise InputError(f"{path} is a dataset already: give it to `panda train`, or make --store crops or latents of "
                     f"it{films}")
  if info["kind"] != options.kind:
    raise InputError(f"{path} is a dataset of the kind {info['kind']}: {'leave out' if options.flat else 'give'} --flat")
  if captions is not None:
    raise InputError(f"{path} has its captions already: leave out --captions")
  clips, origins = [], {}
  for split in info["splits"]:
    for index, record in enumerate(records.open_records(path, split)):
      fps = min(record["fps"], options.fps or record["fps"])
      number, ratio = len(origins), record["fps"] / fps
      clips.append(ClipPlan(record["id"], split, number, fps, 0, ratio, 0, kept(len(record["frames"]), ratio)))
      origins[number] = Origin(record["id"], record["caption"], record=(str(path), split, index))
  return Work(NAME, [Source(path / "dataset_info.json", path.name)], [], clips, origins)
