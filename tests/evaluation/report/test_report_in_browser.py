"""The report in headless Chromium: no errors, nothing loaded, videos that play together, a table that sorts."""

import pytest

from panda_jax.evaluation.report import write_report
from tests.evaluation.report.made_up import evaluation
from tests.generate.test_viewer import Browser, needs_chromium

pytestmark = needs_chromium
NASTY = "<img src=x onerror='window.bitten=1'>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
  browser = Browser(tmp_path_factory.mktemp("profile"))
  browser.before_each_page("window.errors = []; addEventListener('error', (event) => errors.push(event.message), true);"
                           "addEventListener('securitypolicyviolation', (event) => errors.push(event.blockedURI));")
  yield browser
  browser.close()


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
  folder = tmp_path_factory.mktemp("report")
  made = evaluation(folder, ("ours", "blur"), 4)
  made.prompts = {clip: NASTY for clip in made.prompts}
  made.summary["made_with"]["command"] = f"panda {NASTY}"
  write_report(folder / "report.html", *made.arguments, examples=1)
  browser._post("/url", {"url": (folder / "report.html").as_uri()})
  return made


def test_it_opens_without_an_error_and_loads_nothing(browser, page):
  assert browser.run("return errors") == []
  assert browser.run("return window.bitten") is None
  loaded = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
  assert all(name.startswith(("blob:", "data:")) for name in loaded)
  assert browser.run("return document.documentElement.scrollWidth <= innerWidth")


def test_a_video_and_its_reference_play_as_one(browser, page):
  browser.run("window.pair = [...document.querySelectorAll('.examples figure')][0].querySelectorAll('video')")
  browser.wait_for("[...pair].every((video) => video.readyState >= 2 && video.videoWidth === 128)")
  browser.run("pair[0].scrollIntoView({ block: 'center', behavior: 'instant' })")
  browser.click(".examples figure button")
  browser.wait_for("[...pair].every((video) => !video.paused && video.currentTime > 0)")
  browser.click(".examples figure button")
  browser.wait_for("[...pair].every((video) => video.paused)")
  browser.run("const slider = document.querySelector('.bar input'); slider.value = 0.5;"
              "slider.dispatchEvent(new Event('input'))")
  browser.wait_for("[...pair].every((video) => Math.abs(video.currentTime - video.duration / 2) < 0.1)")


def test_the_table_of_clips_sorts_and_changes_its_metric(browser, page):
  cells = "[...document.querySelectorAll('#every-clip tbody tr')].map((row) => row.cells[1].textContent)"
  ours = lambda metric, surface: [float(row["value"]) for row in page.scores if row["method"] == "ours"
                                  and (row["metric"], row["surface"]) == (metric, surface)]
  assert browser.run(f"return {cells}") == [f"{value:.2f}" for value in ours("psnr", "panorama")]
  browser.run("document.querySelectorAll('#every-clip th')[1].click()")
  assert browser.run(f"return {cells}") == [f"{value:.2f}" for value in sorted(ours("psnr", "panorama"))]
  names = browser.run("return [...document.querySelector('#choice').options].map((option) => option.textContent)")
  chosen = next(index for index, name in enumerate(names) if name.startswith("DS"))
  browser.run("const choice = document.querySelector('#choice'); choice.value = arguments[0];"
              "choice.dispatchEvent(new Event('change'))", chosen)
  assert browser.run(f"return {cells}") == [f"{value:.3f}" for value in sorted(ours("discontinuity_score", "panorama"))]
  heads = browser.run("return [...document.querySelectorAll('#every-clip th[scope=col]')].map((e) => e.innerText)")
  assert heads == ["Clip", "ours ▴", "blur", "reference"]


def test_a_clip_that_is_pointed_at_is_marked_in_every_plot(browser, page):
  third = "document.querySelectorAll('circle[data-c=\"2\"]')"
  browser.run(f"{third}[0].dispatchEvent(new Event('pointerover', {{ bubbles: true }}))")
  marked = "[...document.querySelectorAll('circle[data-c]')].filter((c) => getComputedStyle(c).strokeWidth === '1.5px')"
  assert set(browser.run(f"return {marked}.map((circle) => circle.dataset.c)")) == {"2"}
  assert browser.run(f"return {marked}.length") == browser.run(f"return {third}.length")
