"""One HTML file that holds a 360° video and the viewer for it, and needs no network."""

import base64
import html
import importlib.resources
import os
import re
from pathlib import Path

from panda_jax.data.video import probe
from panda_jax.errors import InputError
from panda_jax.generate import written_whole

LARGEST = 256 << 20                    # bytes of video; browsers refuse pages with much longer strings than this makes
_CHUNK = 3 << 20                       # a multiple of 3, so that the pieces of base64 join without padding


def write_viewer(video_path: str | os.PathLike, html_path: str | os.PathLike, title: str = "",
                 stretch: bool = False) -> None:
  """Writes the one-file viewer of a panoramic video.

  In a notebook, show it with `IPython.display.IFrame(html_path, 960, 540)`. In the page, `window.panda` has
  `lookAt(yawDeg, pitchDeg, fovDeg)`, `seek(seconds)`, `video` and `ready`; an address that ends in
  `#yaw=180&pitch=0&fov=90&t=0.5` opens that view at that moment.

  Args:
    video_path: an equirectangular video that browsers can play: mp4 (H.264) or webm.
    html_path: the file to write, at once.
    title: shown above the video; by default the name of the video.
    stretch: take a video that is not 2:1 for a whole sphere all the same.

  Raises:
    InputError: if the video is missing, not a video, of a kind browsers cannot play, not 2:1, or too large to embed.
  """
  video_path = Path(video_path)
  info = probe(video_path)
  # Some cameras store 640x322 and the like: 2 % off is still a whole sphere.
  if not stretch and abs(info.width / info.height / 2 - 1) > 0.02:
    raise InputError(f"{video_path} is {info.width}x{info.height}, not 2:1, so it does not look like a whole sphere: "
                     "if it is one all the same, add --stretch")
  size = video_path.stat().st_size
  if size > LARGEST:
    raise InputError(f"{video_path} has {size / 2**20:.0f} MiB, more than the {LARGEST >> 20} MiB that fit into one "
                     "page: make it smaller or shorter, or open it in a 360° player such as VLC")
  values = {
    "title": html.escape(title or video_path.stem),
    "type": _media_type(video_path),
    "fps": f"{info.fps:.6g}",
  }
  template = importlib.resources.files(__package__).joinpath("viewer.html").read_text("utf-8")
  with written_whole(html_path) as unfinished, open(unfinished, "wb") as page:
    for index, part in enumerate(re.split(r"\{\{(\w+)\}\}", template)):       # text and names take turns
      if index % 2 == 0:
        page.write(part.encode())
      elif part != "video":
        page.write(values[part].encode())
      else:
        with open(video_path, "rb") as video:
          while chunk := video.read(_CHUNK):
            page.write(base64.b64encode(chunk))


def _media_type(path: Path) -> str:
  with open(path, "rb") as file:
    head = file.read(64)
  if head[4:8] == b"ftyp":
    return "video/mp4"
  if head[:4] == b"\x1aE\xdf\xa3" and b"webm" in head:
    return "video/webm"
  raise InputError(f"{path} is a kind of video that browsers cannot play: convert it to H.264 in an mp4 first "
                   "(ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p OUT.mp4)")
