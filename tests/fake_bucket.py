"""A bucket in memory, for what would go to gs://: no network is asked.

Three libraries reach a bucket: tensorstore, with its own HTTP client, for the arrays of a checkpoint; fsspec, through
epath, for all other files; and google.cloud.storage, for TensorBoard and for one question of orbax. The first is the
real one and speaks to a server here; the other two are replaced, by as much as is used.
"""

from collections.abc import Iterator
import contextlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import io
import json
import sys
import threading
import types
from urllib.parse import parse_qs, unquote, urlparse

import fsspec
from tensorboardX import record_writer

NAME = "bucket"
_STORE: dict[str, tuple[bytes, int]] = {}                      # object -> content and generation
_LOCK = threading.Lock()


def objects() -> dict[str, bytes]:
  """What the bucket holds."""
  with _LOCK:
    return {name: content for name, (content, _) in _STORE.items()}


def put(name: str, content: bytes) -> int:
  """Writes an object; its generation."""
  with _LOCK:
    generation = 1 + max((generation for _, generation in _STORE.values()), default=0)
    _STORE[name] = content, generation
    return generation


def delete(name: str) -> None:
  with _LOCK:
    if name not in _STORE:
      raise FileNotFoundError(name)
    del _STORE[name]


class Files(fsspec.AbstractFileSystem):
  """Has objects and no folders: a folder is there as long as an object is below it, as in a bucket."""

  protocol, cachable = ("gs", "gcs"), False

  @classmethod
  def _strip_protocol(cls, path):
    return str(path).removeprefix("gs://").removeprefix("gcs://").strip("/")

  def info(self, path, **kwargs):
    path = self._strip_protocol(path)
    if path == NAME:
      return {"name": path, "size": 0, "type": "directory"}
    found, name = objects(), path.removeprefix(f"{NAME}/")
    if name in found:
      return {"name": path, "size": len(found[name]), "type": "file"}
    if any(other.startswith(f"{name}/") for other in found):
      return {"name": path, "size": 0, "type": "directory"}
    raise FileNotFoundError(path)

  def ls(self, path, detail=True, **kwargs):
    path = self._strip_protocol(path)
    if self.info(path)["type"] == "file":
      return [self.info(path)] if detail else [path]
    names = {f"{path}/{rest.partition('/')[0]}" for name in objects()
             if (rest := f"{NAME}/{name}".removeprefix(f"{path}/")) != f"{NAME}/{name}"}
    return [self.info(name) for name in sorted(names)] if detail else sorted(names)

  def mkdir(self, path, create_parents=True, **kwargs):
    pass

  def makedirs(self, path, exist_ok=False):
    pass

  def rm(self, path, recursive=False, maxdepth=None):
    name = self._strip_protocol(path).removeprefix(f"{NAME}/")
    for other in [other for other in objects() if recursive and other.startswith(f"{name}/")] or [name]:
      delete(other)

  def cp_file(self, path1, path2, **kwargs):
    source, target = (self._strip_protocol(path).removeprefix(f"{NAME}/") for path in (path1, path2))
    if source in objects():
      put(target, objects()[source])

  def _open(self, path, mode="rb", **kwargs):
    name = self._strip_protocol(path).removeprefix(f"{NAME}/")
    if mode == "wb":
      return _Upload(name)
    assert mode == "rb", f"a bucket cannot {mode}"
    if name not in objects():
      raise FileNotFoundError(path)
    return io.BytesIO(objects()[name])


class _Upload(io.BytesIO):
  """The object appears when the file is closed."""

  def __init__(self, name):
    super().__init__()
    self._name = name

  def close(self):
    if not self.closed:
      put(self._name, self.getvalue())
    super().close()


class _Server(BaseHTTPRequestHandler):
  """As much of the JSON API as tensorstore uses: read, write, delete, list."""

  protocol_version = "HTTP/1.1"

  def do_GET(self):
    name, query = self._request()
    if name is None:
      prefix = query.get("prefix", "")
      return self._answer(200, json.dumps({"items": [
          {"name": found, "size": str(len(content))} for found, content in sorted(objects().items())
          if found.startswith(prefix)]}).encode())
    if name not in _STORE:
      return self._answer(404)
    content, generation = _STORE[name]
    if query.get("ifGenerationNotMatch") == str(generation):
      return self._answer(304)
    if query.get("ifGenerationMatch", str(generation)) != str(generation):
      return self._answer(412)
    headers = {"x-goog-generation": str(generation)}
    if (wanted := self.headers.get("Range", "")).startswith("bytes="):
      first, last = wanted.removeprefix("bytes=").split("-")
      first = int(first) if first else len(content) - int(last)
      last = min(int(last) if last and wanted[6] != "-" else len(content) - 1, len(content) - 1)
      return self._answer(206, content[first:last + 1],
                          headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"})
    return self._answer(200, content, headers)

  def do_POST(self):
    _, query = self._request()
    content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
    there = _STORE.get(query["name"], (b"", 0))[1]
    if query.get("ifGenerationMatch", str(there)) != str(there):
      return self._answer(412)
    generation = put(query["name"], content)
    return self._answer(200, json.dumps({"name": query["name"], "generation": str(generation),
                                         "size": str(len(content))}).encode())

  def do_DELETE(self):
    name, _ = self._request()
    if name not in _STORE:
      return self._answer(404)
    delete(name)
    return self._answer(204)

  def log_message(self, *_):
    pass

  def _request(self):
    """(object or None, query) of …/b/bucket/o[/object]?query."""
    url = urlparse(self.path)
    _, _, name = url.path.partition(f"/b/{NAME}/o")
    return unquote(name[1:]) or None, {key: values[0] for key, values in parse_qs(url.query).items()}

  def _answer(self, status, content=b"", headers=None):
    self.send_response(status)
    for key, value in (headers or {}).items():
      self.send_header(key, value)
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    self.wfile.write(content)


class _Blob:
  """google.cloud.storage's, as far as tensorboardX goes."""

  generation = None

  def __init__(self, name, bucket):
    self._name = name

  def upload_from_string(self, data, **_):
    put(self._name, data)


@contextlib.contextmanager
def bucket(environment) -> Iterator[str]:
  """Gives the address of an empty bucket, "gs://bucket".

  Args:
    environment: a pytest MonkeyPatch. tensorstore reads the variables once: there can be one bucket per process.
  """
  _STORE.clear()
  server = ThreadingHTTPServer(("localhost", 0), _Server)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  environment.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://localhost:{server.server_port}")
  environment.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
  storage = types.ModuleType("google.cloud.storage")
  storage.Client = lambda: types.SimpleNamespace(get_bucket=lambda name: types.SimpleNamespace())
  storage.Bucket, storage.Blob = (lambda client, name: name), _Blob
  cloud = types.ModuleType("google.cloud")
  cloud.storage = storage
  environment.setitem(sys.modules, "google.cloud", cloud)
  environment.setitem(sys.modules, "google.cloud.storage", storage)
  environment.setattr(record_writer, "storage", storage, raising=False)
  environment.setattr(record_writer, "GCS_ENABLED", True)
  for name in Files.protocol:
    environment.setitem(sys.modules["fsspec.registry"]._registry, name, Files)
  try:
    yield f"gs://{NAME}"
  finally:
    server.shutdown()
