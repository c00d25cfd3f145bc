"""The page in headless Chromium, driven by the keyboard as a participant would."""

import json
import time

import pytest

from panda_jax.evaluation.preference import page as page_module
from panda_jax.evaluation.preference.answers import read_sheets
from tests.evaluation.preference.toy import build, generated
from tests.generate.test_viewer import Browser, needs_chromium

ENTER, BACKSPACE, LEFT, RIGHT, DOWN = "\ue007", "\ue003", "\ue012", "\ue014", "\ue015"
CHOICES = {LEFT: "left", RIGHT: "right", DOWN: "tie"}

pytestmark = needs_chromium


class Participant(Browser):
  """A browser whose downloads go to a folder, and what a participant does in it."""

  def __init__(self, folder):
    super().__init__(folder / "profile")
    self.downloads = folder / "downloads"
    self._post("/goog/cdp/execute", {"cmd": "Browser.setDownloadBehavior",
                                     "params": {"behavior": "allow", "downloadPath": str(self.downloads)}})

  def begin(self, page, name):
    self.open(page)
    self.run("document.querySelector('#name').select()")                      # autofocus may come later
    for letter in name:
      self.press(letter)
    self.press(ENTER)
    self.wait_for("panda.state().ready")

  def answer(self, key):
    """Presses the key when the pair is shown, and waits for the next or the end."""
    self.wait_for("panda.state().ready")
    at = self.state()["at"]
    self.press(key)
    self.wait_for(f"panda.state().at === {at + 1} && (panda.state().ready || panda.state().at === panda.state().steps)")

  def state(self):
    return self.run("return panda.state()")

  def text(self, selector):
    return self.run(f"return document.querySelector('{selector}').textContent")

  def downloaded(self, name):
    path = self.downloads / name
    deadline = time.monotonic() + 10
    while not path.exists():
      assert time.monotonic() < deadline, f"{name} was never saved"
      time.sleep(0.05)
    saved = json.loads(path.read_text())
    path.unlink()
    return saved


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
  browser = Participant(tmp_path_factory.mktemp("participant"))
  yield browser
  browser.close()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """Three clips of two methods, two questions, ties allowed, and what was given above."""
  folder = tmp_path_factory.mktemp("study")
  videos = generated(folder / "generated", clips=3)
  study, _, _ = build(videos, folder / "page", questions=("Which is sharper?", "Which moves better?"), ties=True,
                      conditions=videos / "ours")
  return folder / "page" / "index.html", study


def sides(exported):
  return [(answer["trial"], answer["left"]) for answer in exported["answers"]]


def test_keys_lead_through_all_trials_and_the_answers_are_saved(browser, built, tmp_path):
  page, study = built
  browser.begin(page, "Ann")
  assert (browser.text("#question"), browser.text("#place")) == ("Which is sharper?", "1 of 6")
  browser.wait_for("panda.state().ended.every(Boolean)")                     # one second, then both begin again
  browser.press(" ")
  pressed = [RIGHT, LEFT, DOWN, LEFT, RIGHT, RIGHT]
  for index, key in enumerate(pressed):
    browser.answer(key)
    if index == 0:
      assert browser.text("#question") == "Which moves better?" and browser.state()["ended"] == [True, True]
  saved = browser.downloaded("answers_Ann.json")
  assert saved["participant"] == "Ann" and saved["steps"] == 6
  assert [answer["choice"] for answer in saved["answers"]] == [CHOICES[key] for key in pressed]
  assert [answer["question"] for answer in saved["answers"]] == [0, 1] * 3
  assert len({answer["trial"] for answer in saved["answers"]}) == 3
  assert [answer["watched"] for answer in saved["answers"]][:3] == [True, True, False]
  assert saved["answers"][0]["seconds"] >= 1 and all(0 <= answer["seconds"] < 30 for answer in saved["answers"])
  path = tmp_path / "answers_Ann.json"
  path.write_text(json.dumps(saved))
  (sheet,) = read_sheets([path], study)
  assert len(sheet.answers) == sheet.expected == 6
  assert [(a.chosen is None, a.side) for a in sheet.answers] == [(key == DOWN, CHOICES[key]) for key in pressed]

  browser.press(BACKSPACE)                                                    # the last answer can still be changed
  browser.answer(LEFT)
  saved = browser.downloaded("answers_Ann.json")
  assert [answer["choice"] for answer in saved["answers"]] == [*(CHOICES[key] for key in pressed[:-1]), "left"]


def test_answers_survive_a_reload_and_participants_see_other_orders(browser, built):
  page, _ = built
  browser.begin(page, "Bob")
  browser.answer(LEFT)
  browser.answer(RIGHT)
  before = browser.run("return panda.exported()")
  browser.open(page)
  assert browser.text("#begin") == "Go on after 2 answers"
  browser.press(ENTER)
  browser.wait_for("panda.state().ready")
  assert browser.state()["at"] == 2
  again = browser.run("return panda.exported()")
  assert again["answers"] == before["answers"] and again["participant"] == "Bob"
  for _ in range(4):
    browser.answer(LEFT)
  orders = {"Bob": sides(browser.downloaded("answers_Bob.json"))}
  for name in ("Cy", "Di", "Ed"):
    browser.begin(page, name)
    for _ in range(6):
      browser.answer(RIGHT)
    orders[name] = sides(browser.downloaded(f"answers_{name}.json"))
  assert len(set(map(tuple, orders.values()))) > 2
  assert len({tuple(trial for trial, _ in order) for order in orders.values()}) > 1, "the order of trials"
  assert len({tuple(sorted(order)) for order in orders.values()}) > 1, "which is left"


def test_both_videos_and_the_given_one_play_pause_and_begin_again_together(browser, built):
  browser.begin(built[0], "Fay")
  browser.wait_for("panda.state().times[0] > 0.3")
  assert len(browser.run("return [...document.querySelectorAll('video')].filter((v) => !v.paused)")) == 3
  browser.press(" ")
  browser.wait_for("panda.state().paused.every(Boolean) && document.querySelector('#condition').paused")
  first = browser.state()["times"]
  assert abs(first[0] - first[1]) < 0.3
  time.sleep(0.3)
  assert browser.state()["times"] == first
  browser.press("r")
  browser.wait_for("!panda.state().paused.some(Boolean)")
  browser.wait_for("panda.state().ended.every(Boolean) && !panda.state().paused.some(Boolean)")       # the loop


def test_a_video_that_got_ahead_waits_for_the_other(browser, built):
  browser.begin(built[0], "Joy")
  apart = browser.run("""
    const [left, right] = ["#left video", "#right video"].map((one) => document.querySelector(one));
    right.currentTime = 0.5;
    return new Promise((resolve) => {
      const look = () => left.currentTime >= 0.6 ? resolve(right.currentTime - left.currentTime) : setTimeout(look, 10);
      look();
    });""")
  assert abs(apart) < 0.3                                # it was 0.5 s; a busy machine shows frames late


def test_looking_around_turns_both_sides_together(browser, built):
  browser.begin(built[0], "Gus")
  browser.press("v")
  browser.wait_for("panda.state().around && document.querySelector('#right canvas').clientWidth > 200")
  box = browser.run("return document.querySelector('#left').getBoundingClientRect()")
  x, y = round(box["x"] + box["width"] / 2), round(box["y"] + box["height"] / 2)
  browser.act("pointer", {"type": "pointerMove", "x": x, "y": y}, {"type": "pointerDown", "button": 0},
              {"type": "pointerMove", "x": x - 80, "y": y}, {"type": "pointerUp", "button": 0})
  browser.wait_for("panda.state().look.yaw > 10")
  browser.press(" ")
  browser.wait_for("panda.state().paused.every(Boolean)")
  time.sleep(0.2)
  image = browser.screenshot()
  width = image.shape[1]
  left, right = image[y - 20:y + 20, width // 4], image[y - 20:y + 20, width // 2 + width // 4]
  assert abs(left[:, :2] - right[:, :2]).mean() < 12, "red and green are the scene, the same for both methods"
  browser.press(LEFT)
  browser.wait_for("panda.state().at === 1")
  assert browser.run("return panda.exported().answers[0].view") == "around"


def test_a_forced_choice_has_no_way_to_say_cannot_tell_and_a_key_held_down_is_one_answer(browser, built, tmp_path):
  folder = built[0].parents[1]
  build(folder / "generated", tmp_path / "page")
  browser.begin(tmp_path / "page" / "index.html", "Hal")
  assert browser.run("return document.querySelector('#choose-tie').hidden")
  browser.press(DOWN)
  browser.act("key", {"type": "keyDown", "value": LEFT}, {"type": "keyDown", "value": LEFT},
              {"type": "keyDown", "value": LEFT}, {"type": "keyUp", "value": LEFT})
  browser.wait_for("panda.state().ready")
  assert browser.state()["at"] == 1
  browser.click("#choose-right")
  browser.wait_for("panda.state().at === 2 && panda.state().ready")
  browser.click("#save")
  saved = browser.downloaded("answers_Hal.json")
  assert [answer["choice"] for answer in saved["answers"]] == ["left", "right"] and saved["steps"] == 3


def test_videos_beside_the_page_play_and_can_be_looked_around_in_and_a_lost_one_is_named(browser, built, tmp_path,
                                                                                     monkeypatch):
  monkeypatch.setattr(page_module, "EMBEDDED", 1000)
  build(built[0].parents[1] / "generated", tmp_path / "page")
  browser.begin(tmp_path / "page" / "index.html", "Ida")
  browser.press("v")
  browser.wait_for("panda.state().times[1] > 0.2")
  assert browser.state()["around"]
  for path in (tmp_path / "page" / "media").iterdir():
    path.unlink()
  browser.open(tmp_path / "page" / "index.html")
  browser.press(ENTER)
  browser.wait_for("/media.m\\d+.js cannot be read: copy the whole folder/.test(document.querySelector('#message')"
                   ".textContent)")
