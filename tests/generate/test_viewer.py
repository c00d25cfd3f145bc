"""The one-file viewer, driven in headless Chromium: each direction shows what is there, and the seam does not show."""

import argparse
import base64
import io
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

from panda_jax.cli import view as view_command
from panda_jax.data.video import read_frames, write_video
from panda_jax.errors import InputError
from panda_jax.generate import viewer
from panda_jax.generate.viewer import write_viewer
from panda_jax.geometry import Camera, equirect_rays, project

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")
FLAGS = ["--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
         "--window-size=640,480", "--force-device-scale-factor=1",
         "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
DIRECTIONS = {                         # yaw, pitch: colour
  (0, 0): (220, 30, 30), (90, 0): (30, 200, 30), (180, 0): (30, 30, 220), (-90, 0): (230, 220, 40),
  (0, 90): (255, 255, 255), (0, -90): (0, 0, 0),
}


class Browser:
  """A small WebDriver client: Debian's chromedriver speaks JSON over HTTP."""

  def __init__(self, profile):
    self._driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
      said = (re.search(r"started success.* port (\d+)", line) for line in self._driver.stdout)
      port = next(found[1] for found in said if found)
      self._url = f"http://127.0.0.1:{port}/session"
      options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
      wanted = {"browserName": "chrome", "goog:chromeOptions": options, "timeouts": {"script": 20000}}
      self._url += "/" + self._post("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
    except BaseException:
      self._driver.terminate()
      raise

  def close(self):
    self._call(urllib.request.Request(self._url, method="DELETE"))
    self._driver.terminate()
    self._driver.wait(10)

  def _call(self, request):
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
      return json.load(answer)["value"]

  def _post(self, command, content):
    return self._call(urllib.request.Request(self._url + command, json.dumps(content).encode(), method="POST"))

  def open(self, page, address=""):
    self._post("/url", {"url": "about:blank"})               # else a new #address alone would not load the page again
    self._post("/url", {"url": page.as_uri() + address})
    self.run("return panda.ready.catch(() => null)")

  def run(self, script, *args):
    """The value of the script's `return`; promises are waited for."""
    return self._post("/execute/sync", {"script": script, "args": args})

  def before_each_page(self, script):
    def devtools(command, parameters):
      return self._post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    added = devtools("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    return lambda: devtools("Page.removeScriptToEvaluateOnNewDocument", added)

  def act(self, kind, *actions, **more):
    self._post("/actions", {"actions": [{"type": kind, "id": kind, "actions": actions, **more}]})

  def press(self, key):
    self.act("key", {"type": "keyDown", "value": key}, {"type": "keyUp", "value": key})

  def click(self, selector):
    (found,) = self._post("/element", {"using": "css selector", "value": selector}).values()
    self._post(f"/element/{found}/click", {})

  def screenshot(self):
    return picture(self._call(self._url + "/screenshot"))

  def canvas(self):
    """The sphere's own pixels, without the controls above them; readable only in the task that draws them."""
    return picture(self.run("panda.lookAt(); return document.querySelector('canvas').toDataURL()").split(",")[1])

  def wait_for(self, condition):
    deadline = time.monotonic() + 10
    while not self.run(f"return Boolean({condition})"):
      assert time.monotonic() < deadline, f"never true: {condition}"
      time.sleep(0.05)


def picture(encoded):
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")).astype(int)


def centre(image):
  h, w = image.shape[:2]
  return image[h // 2 - 2:h // 2 + 2, w // 2 - 2:w // 2 + 2].mean((0, 1))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
  browser = Browser(tmp_path_factory.mktemp("profile"))
  yield browser
  browser.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """Two seconds of video: one of six flat colours, one of stripes that run smoothly through the seam."""
  rays = equirect_rays((256, 512))                                              # [H W 3]
  axes = np.array([[np.cos(np.radians(p)) * np.sin(np.radians(y)), np.sin(np.radians(p)),
                    np.cos(np.radians(p)) * np.cos(np.radians(y))] for y, p in DIRECTIONS])
  colours = np.uint8(list(DIRECTIONS.values()))[(rays @ axes.T).argmax(-1)]
  longitude = np.arctan2(rays[..., 0], rays[..., 2])
  stripes = 127.5 + 90 * np.sin(16 * longitude) * np.sqrt(1 - rays[..., 1] ** 2)
  stripes = np.repeat(stripes[..., None], 3, axis=-1).astype(np.uint8)
  path = tmp_path_factory.mktemp("world") / "six & <colours>_360.mp4"
  write_video(path, [colours] * 8 + [stripes] * 8, 8)
  return path


@pytest.fixture(scope="module")
def page(world):
  page = world.with_suffix(".html")
  write_viewer(world, page)
  return page


@needs_chromium
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_each_direction_shows_what_is_there(browser, page, direction):
  browser.open(page, f"#yaw={direction[0]}&pitch={direction[1]}&fov=90&t=0.5")
  np.testing.assert_allclose(centre(browser.screenshot()), DIRECTIONS[direction], atol=12)


@needs_chromium
@pytest.mark.parametrize("yaw, pitch, fov", [(37, 25, 80), (-170, -50, 100), (180, 0, 90), (60, 85, 60)])
def test_the_picture_is_the_one_our_own_geometry_projects(browser, page, world, yaw, pitch, fov):
  browser.open(page, f"#yaw={yaw}&pitch={pitch}&fov={fov}&t=1.5")
  shown = browser.canvas()
  frame = list(read_frames(world, start=12, count=1))[0]
  expected = project(frame, Camera(yaw, pitch, fov), shown.shape[:2], method="bilinear")
  assert np.abs(shown - expected).mean() < 2.5


@needs_chromium
@pytest.mark.parametrize("yaw", [180, 180.1])
def test_no_line_shows_at_the_seam(browser, page, yaw):
  """Stripes through the seam change from column to column no faster there than elsewhere.

  Graphics cards shade 2x2 pixels at a time; 0.1° to the side, the seam falls into the middle of such a square.
  """
  browser.open(page, f"#yaw={yaw}&pitch=0&fov=60&t=1.5")
  image = browser.canvas()
  h, w = image.shape[:2]
  change = np.abs(np.diff(image[h // 2 - 20:h // 2 + 20].mean((0, 2))))
  seam = change[w // 2 - 8:w // 2 + 8]
  elsewhere = np.concatenate([change[:w // 2 - 8], change[w // 2 + 8:]])
  assert np.ptp(image[h // 2]) > 120, "the stripes are there"
  assert seam.max() <= 1.2 * elsewhere.max()


@needs_chromium
def test_it_starts_by_itself_muted_and_the_play_button_stops_and_starts_it(browser, page):
  browser.open(page)
  browser.wait_for("!panda.video.paused && panda.video.currentTime > 0")
  assert browser.run("return panda.video.muted && panda.video.loop && panda.video.playsInline")
  browser.click("#play")
  browser.wait_for("panda.video.paused")
  browser.wait_for("document.querySelector('#play').getAttribute('aria-label') === 'Play'")
  stopped = browser.run("return panda.video.currentTime")
  time.sleep(0.3)
  assert browser.run("return panda.video.currentTime") == stopped
  browser.click("#play")
  browser.wait_for(f"!panda.video.paused && panda.video.currentTime != {stopped}")


@needs_chromium
def test_seek_shows_the_picture_of_that_moment(browser, page):
  browser.open(page, "#t=0.5")
  np.testing.assert_allclose(centre(browser.canvas()), DIRECTIONS[0, 0], atol=12)
  browser.run("return panda.seek(1.5)")
  assert np.ptp(centre(browser.canvas())) < 12, "the stripes are grey"
  browser.press(",")
  browser.wait_for("Math.abs(panda.video.currentTime - 11.5 / 8) < 0.01")
  browser.run("return panda.seek(0.2)")
  np.testing.assert_allclose(centre(browser.canvas()), DIRECTIONS[0, 0], atol=12)


@needs_chromium
def test_mouse_wheel_keys_and_buttons_turn_the_view_and_the_address_follows(browser, page):
  browser.open(page, "#t=0.5")
  start = [{"type": "pointerMove", "x": 300, "y": 200}, {"type": "pointerDown", "button": 0}]
  browser.act("pointer", *start, {"type": "pointerMove", "x": 100, "y": 200}, {"type": "pointerUp", "button": 0})
  browser.wait_for("/yaw=(\\d+)/.exec(location.hash)?.[1] > 30")             # the picture goes with the hand
  assert browser.run("return panda.video.paused"), "a drag is not a click"
  browser.press("\ue011")                                                      # Home
  browser.wait_for("/yaw=0&pitch=0&fov=90&t=0.5/.test(location.hash)")
  browser.press("\ue014")                                                      # arrow to the right
  browser.press("\ue013")                                                      # and up
  browser.press("+")
  browser.wait_for("/yaw=5&pitch=5&fov=81.82/.test(location.hash)")
  browser.act("wheel", {"type": "scroll", "x": 300, "y": 200, "deltaX": 0, "deltaY": 200})
  browser.wait_for("/fov=105/.test(location.hash)")
  browser.click("#seam")
  browser.wait_for("/yaw=180&pitch=0/.test(location.hash)")
  np.testing.assert_allclose(centre(browser.screenshot()), DIRECTIONS[180, 0], atol=12)
  browser.press(" ")
  browser.wait_for("!panda.video.paused")


@needs_chromium
def test_nothing_is_loaded_from_anywhere_and_every_control_has_a_name(browser, page):
  assert not re.search(r"https?://|@import|src=\"(?!data:)", page.read_text())
  browser.open(page, "#t=0")
  loaded = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
  assert all(name.startswith(("blob:", "data:")) for name in loaded)
  assert browser.run("return document.title") == "six & <colours>_360"
  nameless = "[...document.querySelectorAll('button, input, canvas, video')].filter((e) => " \
    "!(e.getAttribute('aria-label') || e.textContent.trim())).length"
  assert browser.run(f"return {nameless}") == 0


@needs_chromium
def test_without_webgl_the_plain_video_is_shown_with_a_word_about_it(browser, page):
  restore = browser.before_each_page("HTMLCanvasElement.prototype.getContext = () => null;")
  try:
    browser.open(page, "#t=0.5")
    assert "no WebGL 2" in browser.run("return document.querySelector('#message').textContent")
    assert browser.run("return panda.video.controls && panda.video.getBoundingClientRect().width > 500")
    np.testing.assert_allclose(centre(browser.screenshot()), DIRECTIONS[0, 0], atol=12)
  finally:
    restore()


@needs_chromium
def test_a_video_the_browser_cannot_decode_says_so(browser, world, tmp_path):
  broken = bytearray(world.read_bytes())
  at = broken.index(b"avc1", 100)
  broken[at:at + 4] = b"mp4v"
  page = tmp_path / "broken.html"
  page.write_bytes(re.sub(rb'(data-fps="8">)[^<]*', rb"\1" + base64.b64encode(broken), viewer_page(world, tmp_path)))
  browser.open(page)
  browser.wait_for("/cannot play the video/.test(document.querySelector('#message').textContent)")


def viewer_page(world, folder):
  write_viewer(world, folder / "good.html")
  return (folder / "good.html").read_bytes()


def embedded(page):
  return base64.b64decode(re.search(rb'<script id="embedded"[^>]*>([^<]*)</script>', page)[1])


def test_the_page_holds_the_very_bytes_of_the_video_and_a_safe_title(world, tmp_path, monkeypatch):
  monkeypatch.setattr(viewer, "_CHUNK", 3000)                                  # several pieces
  page = viewer_page(world, tmp_path)
  assert embedded(page) == world.read_bytes()
  assert b"<title>six &amp; &lt;colours&gt;_360</title>" in page
  write_viewer(world, tmp_path / "titled.html", title="{{video}} </title>")
  assert b"<title>{{video}} &lt;/title&gt;</title>" in (tmp_path / "titled.html").read_bytes()


def view(*words):
  parser = argparse.ArgumentParser()
  view_command.add_arguments(parser)
  view_command.run(parser.parse_args([str(word) for word in words]))


def test_panda_view_writes_the_page_beside_the_video_and_prints_its_path(world, tmp_path, capsys):
  video = tmp_path / "beach_360.mp4"
  shutil.copy(world, video)
  view(video)
  assert capsys.readouterr().out == f"{tmp_path / 'beach_360.html'}\n"
  view(video, "--output", tmp_path / "pages" / "other.html")
  assert embedded((tmp_path / "pages" / "other.html").read_bytes()) == video.read_bytes()


def test_panda_view_refuses_in_one_sentence(world, tmp_path, monkeypatch):
  with pytest.raises(InputError, match="no video file"):
    view(tmp_path / "missing.mp4")
  (tmp_path / "notes.mp4").write_text("not a film")
  with pytest.raises(InputError, match="notes.mp4"):
    view(tmp_path / "notes.mp4")
  write_video(tmp_path / "film.mp4", np.zeros((2, 36, 64, 3), np.uint8), 8)
  with pytest.raises(InputError, match="film.mp4 is 64x36, not 2:1.*--stretch"):
    view(tmp_path / "film.mp4")
  view(tmp_path / "film.mp4", "--stretch")
  (tmp_path / "film.html").unlink()
  with pytest.raises(InputError, match="let it end in .html"):
    view(world, "--output", tmp_path / "page.txt")
  monkeypatch.setattr(viewer, "LARGEST", 1 << 10)
  with pytest.raises(InputError, match="more than the .* fit into one page"):
    view(world, "--output", tmp_path / "page.html")
  assert sorted(os.listdir(tmp_path)) == ["film.mp4", "notes.mp4"]
