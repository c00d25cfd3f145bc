"""A chat-completions server on the loopback interface that misbehaves as it is told, and clips to caption."""

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable

import cv2
import numpy as np

from panda_jax.data import video
from tests.data.made_clips import panorama


def answer(text: str) -> tuple[int, dict, bytes]:
  """A proper answer."""
  body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
  return 200, {}, json.dumps(body).encode()


def refusal(status: int, message: str = "no", **headers: str) -> tuple[int, dict, bytes]:
  """An error as OpenAI's servers send it; headers with _ for -."""
  body = json.dumps({"error": {"message": message, "type": "error"}}).encode()
  return status, {name.replace("_", "-"): value for name, value in headers.items()}, body


class Stub:
  """What the server was asked; `reply(request number, request)` says what it answers: (status, headers, body)."""

  def __init__(self, reply: Callable[[int, dict], tuple[int, dict, bytes]]):
    self.reply, self.requests, self.times, self.keys, self.paths = reply, [], [], [], []
    self.lock = threading.Lock()
    self.url = ""

  def asked_about(self) -> list[str]:
    """The user's words of every request."""
    return [request["messages"][-1]["content"] for request in self.requests]


@contextlib.contextmanager
def serving(reply):
  """Runs a stub server; gives its `Stub`."""
  stub = Stub(reply)

  class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
      request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
      with stub.lock:
        number = len(stub.requests)
        stub.requests.append(request)
        stub.times.append(time.monotonic())
        stub.keys.append(self.headers.get("Authorization"))
        stub.paths.append(self.path)
      status, headers, body = stub.reply(number, request)
      with contextlib.suppress(OSError):              # the other side may have left
        self.send_response(status)
        for name, value in headers.items():
          self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    server.daemon_threads = True
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
      yield stub
    finally:
      server.shutdown()
      thread.join()


def make_stills(folder, count: int) -> list[str]:
  """Panoramas p00.png, p01.png, …; their names."""
  folder.mkdir(parents=True, exist_ok=True)
  names = [f"p{number:02d}.png" for number in range(count)]
  for number, name in enumerate(names):
    cv2.imwrite(str(folder / name), panorama(seed=number)[..., ::-1])
  return names


def make_video(path, count: int = 24, seed: int = 0, fps: float = 24):
  """A panorama that turns by one hundredth of a circle per frame."""
  frame = panorama(100, seed)
  video.write_video(path, (np.roll(frame, -2 * k, axis=1) for k in range(count)), fps)
  return path


def write_sentences(path, names, yaws=(0, 90, -90, 180)):
  """A table with the sentence "NAME at YAW" for every view."""
  lines = ["id,yaw_deg,sentence", *(f"{name},{yaw},a {name} at {yaw}" for name in names for yaw in yaws)]
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")
  return path
