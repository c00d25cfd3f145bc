"""Asks a language model behind an OpenAI-compatible server (/chat/completions), patiently and politely.

What every answer means:

  a sentence                                               taken
  no connection, no answer in time, 408, 425, 429, 5xx,
  no JSON, an empty answer                                 asked again, after a growing pause or the Retry-After
  400, 413, 422 and the like                               this clip cannot be done; others may
  a redirect, 401, 403, 404, 405                           nothing can be done: everything stops

The key is read from the environment, travels in one header, and is taken out of whatever a server says.
"""

import dataclasses
import email.utils
import json
import math
import os
import random
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import requests
import urllib3

from panda_jax.captioning.fusion import LONGEST, clean_answer
from panda_jax.errors import InputError

_LONGEST_REPLY = 4 << 20
_WORTH_ANOTHER_TRY = frozenset({408, 409, 425, 429})
_HOPELESS = frozenset({401, 403, 404, 405})
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


class NoCaption(Exception):
  """This clip did not get its caption; the text is a clause that says why."""


class Stopped(Exception):
  """Somebody asked all work to stop."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to ask; the command line's help says what each means.

  Raises:
    InputError: for a value that cannot be meant.
  """

  url: str
  model: str
  key_variable: str = "OPENAI_API_KEY"
  timeout: float = 60.0                               # seconds for one answer, all of it
  tries: int = 6
  requests_per_minute: float | None = None
  concurrency: int = 4
  longest_wait: float = 300.0                         # seconds: a server that asks for more patience is given up on
  first_pause: float = _FIRST_PAUSE                   # seconds before the second try; it doubles from then on
  seed: int = 0                                       # of the jitter of the pauses
  request: Mapping[str, Any] = dataclasses.field(default_factory=dict)      # more of the request's body; None takes out

  def __post_init__(self):
    parts = urllib.parse.urlsplit(self.url)
    if parts.username or parts.password or parts.query or parts.fragment:
      raise InputError("--fuse takes a plain address, without a user, a password or a part after ? or #, because it is "
                       "written to files: put the key into an environment variable and name that with --api-key-env")
    if parts.scheme not in ("http", "https") or not parts.hostname:
      raise InputError(f"--fuse {self.url} is no address: give the base address of an OpenAI-compatible server, such "
                       "as http://localhost:8000/v1, or `template`")
    if not self.model:
      raise InputError(f"which model of {self.url}? Name it with --model-name")
    for name, value, least in (("timeout", self.timeout, 0), ("requests-per-minute", self.requests_per_minute, 0)):
      if value is not None and not least < value < math.inf:
        raise InputError(f"--{name} must be above {least}, got {value}")
    for name, value in (("tries", self.tries), ("concurrency", self.concurrency)):
      if value < 1:
        raise InputError(f"--{name} must be at least 1, got {value}")

  @property
  def address(self) -> str:
    """Where requests go, whether or not the given address names the method."""
    base = self.url.rstrip("/")
    return base if base.endswith("/chat/completions") else f"{base}/chat/completions"

  def recipe(self) -> dict[str, Any]:
    """What decides the captions, and nothing secret."""
    return {"url": self.address, "model": self.model, "request": dict(self.request)}

  def key(self) -> str:
    """The key, empty if there is none.

    Raises:
      InputError: if it cannot travel in a header.
    """
    key = os.environ.get(self.key_variable, "").strip()
    if not all("!" <= letter <= "~" for letter in key):
      raise InputError(f"the key in the environment variable {self.key_variable} has blanks or letters that no key "
                       "has: copy it again")
    return key

  def sends_key_in_clear(self) -> bool:
    """Whether the key would cross a network unencrypted."""
    parts = urllib.parse.urlsplit(self.url)
    return bool(self.key()) and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")


class Endpoint:
  """One server. `ask` may be called from several threads at once; they share its pace.

  Args:
    settings: how to ask.
    stop: when set, waiting ends with `Stopped`.
  """

  def __init__(self, settings: Settings, stop: threading.Event | None = None):
    self.settings = settings
    self._stop = stop or threading.Event()
    self._pace = _Pace(settings.requests_per_minute, self._stop)
    self._local = threading.local()
    self._authorise = _Authorise(settings.key())

  def ask(self, messages: Sequence[Mapping[str, str]], name: str) -> str:
    """The model's sentence.

    Args:
      messages: as `fusion.messages` makes them.
      name: of the clip: the pauses depend on it and the seed, and on nothing else.

    Returns:
      One line of text, not empty.

    Raises:
      NoCaption: if there is none after all tries.
      InputError: if the server will give none to anybody.
      Stopped: if `stop` was set meanwhile.
    """
    why = ""
    for attempt in range(self.settings.tries):
      if attempt:
        self._pause(name, attempt)
      self._pace.wait()
      try:
        return self._once(messages)
      except _Again as error:
        why = str(error)
    raise NoCaption(f"{why} ({self.settings.tries} tries)" if self.settings.tries > 1 else why)

  def _pause(self, name: str, attempt: int) -> None:
    draw = random.Random(f"{self.settings.seed}/{name}/{attempt}").uniform(0.5, 1.0)
    if self._stop.wait(draw * min(_LONGEST_PAUSE, self.settings.first_pause * 2 ** (attempt - 1))):
      raise Stopped

  def _once(self, messages: Sequence[Mapping[str, str]]) -> str:
    defaults = {"model": self.settings.model, "messages": list(messages), "temperature": 0, "max_tokens": 800}
    body = {name: value for name, value in (defaults | dict(self.settings.request)).items() if value is not None}
    status, headers, reply = self._post(body)
    if status == 200:
      return _sentence(reply)
    said = self._said(reply)
    if 300 <= status < 400:
      raise InputError(f"{self.settings.address} sends us elsewhere (status {status}, to "
                       f"{self._authorise.hide(headers.get('Location', 'nowhere'))}): give that address with --fuse")
    if status in (401, 403):
      given = f"the key in {self.settings.key_variable}" if self._authorise.key else (
        f"that there is no key in {self.settings.key_variable}")
      raise InputError(f"{self.settings.address} does not accept {given} (status {status}{said}): set that environment "
                       "variable, or name another one with --api-key-env; finished captions are kept")
    if status in _HOPELESS:
      raise InputError(f"{self.settings.address} knows no model {self.settings.model!r} or no such address (status "
                       f"{status}{said}): mend --fuse or --model-name")
    if status in _WORTH_ANOTHER_TRY or status >= 500:
      self._heed(headers.get("Retry-After"), status)
      raise _Again(f"the server is busy or broken (status {status}{said})")
    raise NoCaption(f"the server refuses the request (status {status}{said})")

  def _post(self, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
    timeout = self.settings.timeout
    deadline = time.monotonic() + timeout
    try:
      with self._session().post(self.settings.address, json=body, auth=self._authorise, stream=True, timeout=timeout,
                                allow_redirects=False, headers={"Accept-Encoding": "identity"}) as response:
        reply = bytearray()
        while piece := response.raw.read1(1 << 16):   # as it comes, so that a trickle cannot outlast the deadline
          reply += piece
          if time.monotonic() > deadline:
            raise _Again(f"no whole answer within {timeout:g} s")
          if len(reply) > _LONGEST_REPLY:
            raise _Again("the answer does not end")
        return response.status_code, response.headers, bytes(reply)
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
      raise _Again(f"no answer within {timeout:g} s") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError) as error:
      raise _Again(f"the server cannot be reached ({self._authorise.hide(_cause(error))})") from None

  def _session(self) -> requests.Session:
    if not hasattr(self._local, "session"):
      self._local.session = requests.Session()        # keeps its connection; not to be shared by threads
    return self._local.session

  def _heed(self, retry_after: str | None, status: int) -> None:
    """Holds all threads for as long as the server asks."""
    seconds = _seconds(retry_after)
    if seconds is None:
      return
    if seconds > self.settings.longest_wait:
      raise InputError(f"{self.settings.address} asks to come back in {seconds:.0f} s (status {status}): finished "
                       "captions are kept, run the same command again then")
    self._pace.hold(seconds)

  def _said(self, reply: bytes) -> str:
    """The server's own words about an error, short and without the key."""
    try:
      said = json.loads(reply)
      for name in ("error", "message"):
        said = said.get(name, said) if isinstance(said, dict) else said
    except (ValueError, RecursionError):
      said = reply.decode("utf-8", "replace")
    words = " ".join(self._authorise.hide(said if isinstance(said, str) else json.dumps(said)).split())
    return f": {words[:200]}" if words else ""


class _Again(Exception):
  """Worth another try; the text is a clause that says why."""


class _Authorise(requests.auth.AuthBase):
  """Puts the key into its header. Being there also without a key, it keeps ~/.netrc out of it."""

  def __init__(self, key: str):
    self.key = key

  def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
    if self.key:
      request.headers["Authorization"] = f"Bearer {self.key}"
    return request

  def __repr__(self) -> str:
    return "_Authorise(…)"

  def hide(self, text: str) -> str:
    return text.replace(self.key, "…") if self.key else text


class _Pace:
  """Lets requests start at a steady distance, and holds all of them when a server asks for a pause."""

  def __init__(self, per_minute: float | None, stop: threading.Event):
    self._distance = 60 / per_minute if per_minute else 0.0
    self._stop, self._lock = stop, threading.Lock()
    self._next = self._held_until = 0.0

  def wait(self) -> None:
    while True:
      with self._lock:
        now = time.monotonic()
        start = max(now, self._next, self._held_until)
        self._next = start + self._distance
      if self._stop.wait(start - now):
        raise Stopped
      if self._held_until <= time.monotonic():        # else a pause began while this one was waiting
        return

  def hold(self, seconds: float) -> None:
    with self._lock:
      self._held_until = max(self._held_until, time.monotonic() + seconds)


def _sentence(reply: bytes) -> str:
  try:
    choice = json.loads(reply)["choices"][0]
    content = choice["message"]["content"]
  except (ValueError, KeyError, IndexError, TypeError, RecursionError):
    raise _Again("the answer is not what a chat-completions server sends") from None
  if not isinstance(content, str) or not (sentence := clean_answer(content)):
    cut = isinstance(choice, dict) and choice.get("finish_reason") == "length"
    raise _Again("the answer is empty" + (": allow more with --request '{\"max_tokens\": 4000}'" if cut else ""))
  if len(sentence) > LONGEST:
    raise _Again(f"the answer has {len(sentence)} characters and is no caption")
  return sentence


def _seconds(retry_after: str | None) -> float | None:
  """What a Retry-After header asks for: seconds, or a date."""
  try:
    seconds = float(retry_after or "nan")
  except ValueError:
    try:
      seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    except ValueError:
      return None
  return max(0.0, seconds) if math.isfinite(seconds) else None


def _cause(error: BaseException) -> str:
  """The system's words at the bottom of what an HTTP library wraps around them."""
  link, words = error, ""
  while link is not None:
    words = getattr(link, "strerror", None) or words
    link = getattr(link, "reason", None) if isinstance(getattr(link, "reason", None), BaseException) else (
      link.__cause__ or link.__context__)
  return words.lower() or type(error).__name__
