"""Views of the compared frames for metrics of other programs: VBench's six dimensions for own videos, and Q-Align.

  OUTPUT/vbench/METHOD/CLIP_yaw000.mp4 …   a folder per method, as VBench's custom_input and Q-Align's scorer take them
  OUTPUT/q-align/score_videos.py           scores such a folder with Q-Align
  OUTPUT/README.txt                        frames, cameras, clips that are left out, and the commands
  OUTPUT/views.json                        what has been written from which file, so that the same command goes on
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import importlib.resources
import json
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from panda_jax.data.clips import TRUTH, Clip, find_video
from panda_jax.data.tables import printable
from panda_jax.data.video import write_video
from panda_jax.errors import InputError
from panda_jax.evaluation.protocol import PANORAMA, Protocol
from panda_jax.evaluation.reading import Unusable, read_frames
from panda_jax.geometry import Camera, make_rig
from panda_jax.geometry.projector import Projector
from panda_jax.paths import written_whole

# What VBench scores of videos that are not its own (mode custom_input), by its README.
DIMENSIONS = ("subject_consistency", "background_consistency", "motion_smoothness", "dynamic_degree",
              "aesthetic_quality", "imaging_quality")
_SMOOTHNESS_FRAMES = 3                                # VBench's motion_smoothness fails on shorter videos
_UNQUOTABLE = '"$`\\'                                 # VBench hands its folder to a shell once more, in double quotes
_SETTINGS = ("frames", "start", "stride", "fps", "height")


def export_views(output: str | os.PathLike, methods: Mapping[str, Path], clips: Sequence[Clip], protocol: Protocol, *,
                 cameras: Iterable[Camera] | None = None, view_size: tuple[int, int] | None = None, truth: bool = True,
                 note: Callable[[str], None] = lambda line: None, progress: Callable | None = None) -> list[str]:
  """Writes perspective videos of the compared frames, and says how VBench and Q-Align are run on them.

  What has been written from the same file is kept. A clip that cannot be used is left out, named, and counted; views
  that it had before are removed, so that nothing old is scored.

  Args:
    output: a folder.
    methods: folders of videos by name.
    clips: of the benchmark.
    protocol: which frames, and the panoramas' size.
    cameras: of the views; by default those of the protocol's first rig, or of "horizontal8".
    view_size: (h, w), both even; by default the protocol's.
    truth: also of the true videos, as the method "reference": what a perfect method would have.
    note: told in one sentence what is left out, and of every method how many clips it has.
    progress: `console.progress`.

  Returns:
    The commands, one per line of a shell: those of VBench by method and dimension, then one of Q-Align per method.

  Raises:
    InputError: if the folder holds views of another protocol, cannot be written or named to VBench, or no clip can be
      used.
  """
  export = _Export(Path(os.path.abspath(output)), protocol, tuple(cameras or _cameras_of(protocol)),
                   tuple(view_size or protocol.view_shape))
  sources = {name: lambda clip, folder=folder: find_video(folder, clip.id) for name, folder in methods.items()}
  if truth and any(clip.video for clip in clips):
    sources = {TRUTH: lambda clip: clip.video, **sources}
  folders = _folder_names(sources)
  problems: dict[str, list[tuple[Clip, Unusable]]] = collections.defaultdict(list)
  with progress("views", len(sources) * len(clips)) if progress else contextlib.nullcontext(lambda: None) as advance:
    for method, find in sources.items():
      for clip in clips:
        try:
          export.clip(folders[method], clip, find)
        except Unusable as error:
          problems[method].append((clip, error))
          if error.kind != "missing":
            note(f"{printable(method)}: {printable(clip.id)} is left out ({error.kind}): {error}")
        advance()
  used = {method: len(clips) - len(problems[method]) for method in sources}
  for method, count in used.items():
    kinds = collections.Counter(error.kind for _, error in problems[method])
    note(f"{printable(method)}: views of {count} of {len(clips)} clips" + "".join(
      f", {n} {kind}" for kind, n in kinds.most_common()))
    if strange := export.strange(folders[method], clips):
      more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
      note(f"{printable(export.folder(folders[method]))} also holds {printable(strange[0])}{more}, no view of these "
           "clips: remove it, or VBench scores it, too")
  if not any(used.values()):
    raise InputError(f"no video of {', '.join(map(printable, sources))} can be used, so there is no view to export")
  commands = export.commands([folders[method] for method, count in used.items() if count])
  export.write_companions(clips, sources, problems, commands)
  return commands


def view_names(cameras: Sequence[Camera]) -> list[str]:
  """What the cameras are called in names of files: "yaw045", "yaw000_pitch-90"; by number if that is not unique."""
  pitches = [f"_pitch{round(camera.pitch_deg):+03d}" if camera.pitch_deg else "" for camera in cameras]
  names = [f"yaw{round(camera.yaw_deg) % 360:03d}{pitch}" for camera, pitch in zip(cameras, pitches)]
  return names if len(set(names)) == len(names) else [f"view{index:02d}" for index in range(len(cameras))]


@dataclasses.dataclass
class _Export:
  """A folder of views, and what has been written to it."""

  output: Path
  protocol: Protocol
  cameras: tuple[Camera, ...]
  view_size: tuple[int, int]

  def __post_init__(self):
    if any(side % 2 for side in self.view_size):
      raise InputError(f"views of {self.view_size[1]}x{self.view_size[0]} cannot be written: H.264 needs even sizes")
    if bad := [letter for letter in _UNQUOTABLE if letter in str(self.output)]:
      raise InputError(f"{printable(self.output)} has a {bad[0]} in its name, which VBench cannot take: export to "
                       "another folder")
    self.names = view_names(self.cameras)
    self.projector = Projector(self.protocol.size, self.cameras, self.view_size)
    self.record = self.output / "views.json"
    self.done: dict[str, dict[str, list[int]]] = self._read_done()

  @property
  def settings(self) -> dict[str, Any]:
    return {**{name: getattr(self.protocol, name) for name in _SETTINGS}, "view_size": list(self.view_size),
            "cameras": [dataclasses.asdict(camera) for camera in self.cameras]}

  def _read_done(self) -> dict[str, dict[str, list[int]]]:
    if not self.record.exists():
      return {}
    try:
      content = json.loads(self.record.read_text(encoding="utf-8"))
      settings, done = content["settings"], content["done"]
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise InputError(f"{printable(self.record)} cannot be read: remove the folder, or export to another "
                       "one") from error
    if other := [name for name, value in self.settings.items() if settings.get(name) != value]:
      raise InputError(f"{printable(self.output)} holds views of another {other[0].replace('_', ' ')}: remove it, or "
                       "export to another folder")
    return done

  def folder(self, method: str) -> Path:
    return self.output / "vbench" / method

  def files(self, method: str, clip: Clip) -> list[Path]:
    return [self.folder(method) / f"{clip.name}_{name}.mp4" for name in self.names]

  def clip(self, method: str, clip: Clip, find: Callable[[Clip], Path | None]) -> None:
    """Writes the views of one clip where they are not there yet."""
    files, done = self.files(method, clip), self.done.setdefault(method, {})
    try:
      path = _source(clip, find)
      identity = _identity(path)
      if done.get(clip.id) == identity and all(file.is_file() for file in files):
        return
      frames = read_frames(path, self.protocol)
    except Unusable:
      for file in files:
        file.unlink(missing_ok=True)
      if done.pop(clip.id, None):
        self._write_done()
      raise
    done.pop(clip.id, None)
    fps = self.protocol.fps or frames.fps / self.protocol.stride
    for camera, file in enumerate(files):
      write_video(file, self.projector(frames.panoramas, [camera])[0], fps)
    done[clip.id] = identity
    self._write_done()

  def _write_done(self) -> None:
    with written_whole(self.record) as place:
      place.write_text(json.dumps({"settings": self.settings, "done": self.done}) + "\n", encoding="utf-8")

  def strange(self, method: str, clips: Sequence[Clip]) -> list[str]:
    """Videos in a method's folder that are none of its views."""
    known = {file.name for clip in clips for file in self.files(method, clip)}
    folder = self.folder(method)
    return sorted(path.name for path in folder.glob("*") if path.suffix.lower() in (".mp4", ".gif")
                  and path.name not in known) if folder.is_dir() else []

  # What goes with the views

  def commands(self, methods: Sequence[str]) -> list[str]:
    quoted = lambda *parts: shlex.quote(str(self.output.joinpath(*parts)))
    lines = [f"vbench evaluate --videos_path {quoted('vbench', method)} --dimension {dimension} --mode=custom_input "
             f"--output_path {quoted('vbench-results', method)}" for method in methods for dimension in DIMENSIONS]
    return lines + [f"python {quoted('q-align', 'score_videos.py')} {quoted('vbench', method)} --output "
                    f"{quoted('q-align', f'{method}.csv')}" for method in methods]

  def write_companions(self, clips: Sequence[Clip], sources: Mapping[str, Callable],
                       problems: Mapping[str, list[tuple[Clip, Unusable]]], commands: Sequence[str]) -> None:
    script = importlib.resources.files("panda_jax.evaluation").joinpath("q_align_scores.py").read_text("utf-8")
    with written_whole(self.output / "q-align" / "score_videos.py") as place:
      place.write_text(script, encoding="utf-8")
    with written_whole(self.output / "README.txt") as place:
      place.write_text(self._readme(clips, sources, problems, commands), encoding="utf-8")

  def _readme(self, clips, sources, problems, commands) -> str:
    protocol, (h, w) = self.protocol, self.view_size
    rate = f"{protocol.fps:g} frames per second" if protocol.fps else f"stride {protocol.stride}, fps as stored"
    lines = [
      "Views of 360-degree videos for VBench and Q-Align, written by panda_jax.", "",
      f"Frames      {protocol.frames} of each clip: start {protocol.start}, {rate}",
      f"Panoramas   resized to {2 * protocol.height}x{protocol.height} first",
      f"Views       {w}x{h}, bicubic; H.264, crf 16, yuv420p", "",
      "View              yaw   pitch    roll     fov   (degrees)"]
    lines += [f"{name:14s}{camera.yaw_deg:7.1f} {camera.pitch_deg:7.1f} {camera.roll_deg:7.1f} {camera.fov_deg:7.1f}"
              for name, camera in zip(self.names, self.cameras)]
    lines += ["", "Clips"]
    for method in sources:
      left_out = problems.get(method, ())
      lines.append(f"  {printable(method)}: {len(clips) - len(left_out)} of {len(clips)} clips, "
                   f"{len(self.cameras)} views each")
      lines += [f"    left out: {printable(clip.id)} ({error.kind}): {error}" for clip, error in left_out]
    vbench = [line for line in commands if line.startswith("vbench")]
    lines += [
      "", "VBench (github.com/Vchitect/VBench, `pip install vbench`; needs a GPU and loads its own networks). Of",
      "videos that are not of its own prompts it scores these six dimensions. Every view is a video of its own to it,",
      "and the mean is over views and clips; compare methods that have the same clips.", *([
        f"motion_smoothness needs {_SMOOTHNESS_FRAMES} frames: it will fail on these views."]
        if protocol.frames < _SMOOTHNESS_FRAMES else []), "", *(f"  {line}" for line in vbench), "",
      "Q-Align (github.com/Q-Future/Q-Align, `pip install -e .` in a clone; its network has 15 GB). It looks at one",
      "frame of every second; its scores are from 0 to 1, and 1 + 4 * score is the scale of its paper. The script loads",
      "the model once for all videos; Q-Align's own command does the same for a single one:",
      "  python q_align/evaluate/scorer.py --img_path VIDEO.mp4 --video --model-path q-future/one-align", "",
      *(f"  {line}" for line in commands if line not in vbench), ""]
    return "\n".join(lines)


def _cameras_of(protocol: Protocol) -> Iterable[Camera]:
  rig = next((name for name in protocol.surfaces if name != PANORAMA), None)
  return protocol.rig(rig) if rig else make_rig("horizontal8")


def _folder_names(methods: Iterable[str]) -> dict[str, str]:
  """Names of folders that any shell takes as they are."""
  names = {method: re.sub(r"[^A-Za-z0-9._-]", "_", method) or "_" for method in methods}
  for name, count in collections.Counter(names.values()).items():
    if count > 1:
      both = [printable(method) for method in names if names[method] == name]
      raise InputError(f"the methods {both[0]} and {both[1]} would have one folder, {name}: rename one of them")
  return names


def _source(clip: Clip, find: Callable[[Clip], Path | None]) -> Path:
  path = find(clip)
  if path is None or not path.is_file():
    raise Unusable("missing", f"there is no video of {printable(clip.id)}")
  return path


def _identity(path: Path) -> list[int]:
  """What tells a file from the one that was there before."""
  status = path.stat()
  return [status.st_size, status.st_mtime_ns]
