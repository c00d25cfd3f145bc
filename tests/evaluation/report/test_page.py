"""The report: everything that was found is on it, and nothing that a file is called gets hold of it."""

import base64
import copy
import re

import numpy as np
import pytest

from panda_jax.data.video import probe, read_frames
from panda_jax.errors import InputError
from panda_jax.evaluation.report import write_report
from tests.evaluation.report.made_up import METRICS, evaluation, film
from tests.evaluation.report.reading import Page

NASTY = "</script><img src=x onerror=alert(1)>\"'&{{sections}}\u202e<b"


def report(made, folder, **options):
  write_report(folder / "report.html", *made.arguments, **options)
  return Page((folder / "report.html").read_text("utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  return evaluation(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def page(made, tmp_path_factory):
  return report(made, tmp_path_factory.mktemp("page"), examples=1)


# --- what is on it


def test_the_sections_come_in_the_order_of_a_readers_questions(page):
  assert [attributes["id"] for attributes, _ in page.all("section")] == [
    "results", "differences", "distributions", "clips", "protocol", "examples", "seams", "problems", "made"]
  links = [attributes["href"] for attributes, _ in page.all("a")]
  assert set(links) <= {f"#{attributes['id']}" for attributes, _ in page.all("section")}


def test_it_says_what_was_compared_and_counts_the_problems(made, page):
  assert page.all("h1")[0][1] == "Evaluation of ours, blur and noise"
  lead = page.all("p", "lead")[0][1]
  assert "3 methods, 4 clips of master.csv (split_0 2, split_1 2)" in lead and "1 problem: 1 damaged" in lead
  (table,) = page.tables("compared")
  assert ["blur", "4 of 4", "0", "0", "generated/blur"] in table


def test_every_number_is_in_a_table_of_its_surface_with_its_interval(made, page):
  found = set()
  for table in page.section("results").tables("results"):
    heads = [re.split(r" [↑↓→]", head)[0] for head in table[0]]
    found |= {(row[0], head, cell) for row in table[1:] for head, cell in zip(heads[1:], row[1:])}
  for row in made.summary["rows"]:
    title, digits = METRICS[row["metric"]][0], METRICS[row["metric"]][3]
    shown = [f"{row[name]:.{digits}f}" for name in ("value", "low", "high")]
    assert (row["method"], title, f"{shown[0]} | {shown[1]} to {shown[2]}") in found, row


def test_the_best_method_is_marked_and_the_truth_is_none(made, page):
  """Also where the best is what is nearest to 1; the true videos would always win."""
  best = {text for _, text in page.section("results").all("b")}
  for key, (_, _, better, digits, _, _, _, _) in METRICS.items():
    rows = [row for row in made.summary["rows"] if row["metric"] == key and row["surface"] == "panorama"
            and not row["split"] and row["method"] != "reference"]
    badness = {"higher": lambda x: -x, "lower": lambda x: x, "one": lambda x: abs(x - 1)}[better]
    values = sorted((row["value"] for row in rows), key=badness)
    assert f"{values[0]:.{digits}f}" in best, key
  truth = [row for table in page.section("results").tables("results") for row in table if row[0] == "reference"]
  assert truth and len(page.section("results").all("b")) == sum(
    len(about[4]) for about in METRICS.values()) * 3                          # over all clips and over two splits


def test_left_out_metrics_have_their_sentence_and_directions_their_arrow(page):
  section = page.section("results").content
  assert "CD-FVD is left out: no features were given (--features …)" in section
  heads = {head for table in page.section("results").tables("results") for head in table[0]}
  assert {"PSNR ↑ dB", "FID ↓", "seam ratio → 1"} <= heads


def test_differences_mark_the_intervals_that_exclude_zero(made, page):
  marks = re.findall(r'<g class="difference ([a-z ]+)"><title>(\w+), 4 clips</title>.*?class="end">([^<]*)<',
                     page.section("differences").content, re.DOTALL)
  expected = []
  for row in made.summary["differences"]:
    better, digits = METRICS[row["metric"]][2:4]
    kind = "unclear"
    if row["low"] > 0 or row["high"] < 0:
      side = "better" if (row["value"] > 0) == (better == "higher") else "worse"
      kind = "clear" if better == "one" else f"clear {side}"
    value, low, high = (f"{row[name]:.{digits}f}" for name in ("value", "low", "high"))
    expected.append((kind, row["method"], f"{value} [{low}, {high}]"))
  assert sorted(marks) == sorted(expected)
  assert {"unclear", "clear worse"} <= {kind for kind, *_ in marks}


def test_distributions_have_a_point_for_every_clip_that_names_it(made, page):
  titles = [text for _, text in page.section("distributions").all("title") if text.startswith("clip::")]
  scores = [row for row in made.scores if row["value"] != ""]
  expected = [f"{row['clip_id']}: {float(row['value']):.{METRICS[row['metric']][3]}f}" for row in scores]
  assert sorted(titles) == sorted(expected)


def test_the_protocol_is_told_in_full(made, page):
  section = page.section("protocol")
  terms = {text for _, text in section.all("dt")}
  assert terms == made.summary["protocol"].keys() - {"views"}
  assert "0.0 (as stored)" in {text for _, text in section.all("dd")}
  assert "ab12" * 16 in section.content and "pt_inception.pth" in section.content
  (cameras,) = section.tables("narrow")
  assert cameras[0] == ["View", "yaw °", "pitch °", "roll °", "fov °"]
  assert [row[1] for row in cameras[1:]] == [f"{45.0 * k}" for k in range(8)]
  (everything,) = section.tables("all")
  assert len(everything) == 1 + len(made.summary["rows"])
  assert {repr(row["value"]) for row in made.summary["rows"]} <= {cell for row in everything for cell in row}


def test_every_problem_is_there_by_kind(tmp_path):
  made = evaluation(tmp_path, clips=2, filmed=False)
  made.summary["problems"] = [{"method": "blur", "clip": f"clip::{n:04d}", "kind": ("missing", "fps")[n % 3 > 1],
                               "sentence": f"sentence number {n}"} for n in range(60)]
  section = report(made, tmp_path).section("problems")
  assert [text for _, text in section.all("summary")] == ["missing: 40", "fps: 20"]
  cells = {text for _, text in section.all("td")}
  assert {f"sentence number {n}" for n in range(60)} <= cells


def test_every_clip_is_in_the_pages_table(made, page):
  data = page.data("clip-data")
  by_name = {series["name"]: series for series in data["series"]}
  assert len(by_name) == len({(row["metric"], row["surface"]) for row in made.scores})
  series = by_name["WS-PSNR, panorama"]
  for row in (row for row in made.scores if row["metric"] == "ws_psnr"):
    value = series["values"][data["methods"].index(row["method"])][data["clips"].index(row["clip_id"])]
    assert value == pytest.approx(float(row["value"]), abs=1e-3)


# --- videos


def videos(page, folder):
  """The videos of each figure, as files."""
  names, found = page.data("video-data"), []
  for figure in re.findall(r"<figure>(.*?)</figure>", page.section("examples").content, re.DOTALL):
    paths = []
    for name in re.findall(r'data-video="(\w+)"', figure):
      paths.append(folder / f"{name}.mp4")
      paths[-1].write_bytes(base64.b64decode(names[name]))
    found.append((re.sub("<[^>]+>", "", re.search(r"<figcaption>(.*?)<p", figure, re.DOTALL)[1]).split(), paths))
  return found


def test_the_worst_and_the_best_clip_of_each_method_play_beside_the_reference(made, page, tmp_path):
  figures = videos(page, tmp_path)
  assert len(figures) == 6
  for place, method in enumerate(("ours", "blur", "noise")):
    values = {row["clip_id"]: float(row["value"]) for row in made.scores
              if row["metric"] == "ws_psnr" and row["method"] == method}
    for (words, paths), kind, choose in zip(figures[2 * place:], ("Worst", "Best"), (min, max)):
      clip = choose(values, key=values.get)
      assert words == [kind, clip, "WS-PSNR", f"{values[clip]:.2f}", "dB"]
      for path, source in zip(paths, (made.video_of(method, clip), made.reference_of(clip)), strict=True):
        shown, stored = (np.stack(list(read_frames(file, count=6))) for file in (path, source))
        assert shown.shape == stored.shape and probe(path).fps == 8
        assert np.abs(shown.astype(int) - stored).mean() < 4
  used = {(attributes["data-video"]) for attributes, _ in page.all("video")}
  assert used == page.data("video-data").keys()


def test_a_video_is_in_the_page_once_and_at_most_512_wide(tmp_path):
  made = evaluation(tmp_path, ("ours",), 1, filmed=False)
  for method in ("ours", "reference"):
    film(tmp_path / method / "clip::0000.mp4", size=(300, 600), frames=3)
  page = report(made, tmp_path, examples=3)
  ((words, paths),) = videos(page, tmp_path)
  assert words[:2] == ["Worst", "clip::0000"] and len(paths) == len(page.data("video-data")) == 2
  assert (probe(paths[0]).height, probe(paths[0]).width) == (256, 512)


def test_without_references_clips_are_ranked_by_what_there_is(tmp_path):
  made = evaluation(tmp_path, ("ours", "blur"), 3, truth=False)
  page = report(made, tmp_path)
  assert "Ranked by CLIP score, panorama." in page.section("examples").content
  assert all(len(paths) == 1 for _, paths in videos(page, tmp_path))
  made.scores = [row for row in made.scores if row["metric"] != "clip_score"]
  assert "Ranked by DS, panorama." in report(made, tmp_path).section("examples").content


def test_a_video_that_has_gone_or_broken_since_is_named_where_it_would_be(tmp_path):
  made = evaluation(tmp_path, ("ours",), 2)
  made.video_of("ours", "clip::0000").unlink()
  made.video_of("ours", "clip::0001").write_bytes(b"no video")
  page = report(made, tmp_path)
  missing = [text for _, text in page.section("examples").all("p", "missing")]
  assert any("no video of it any more" in text for text in missing)
  assert any("clip::0001.mp4" in text for text in missing)
  assert len(page.data("video-data")) == 2                                    # the references play all the same


# --- however large or small it is


def test_one_method_with_two_clips_is_a_whole_report(tmp_path):
  made = evaluation(tmp_path, ("ours",), 2, splits=0)
  made.summary.update(differences=[], problems=[], left_out=[])
  page = report(made, tmp_path)
  assert "differences" not in {attributes["id"] for attributes, _ in page.all("section")}
  assert "No problems." in page.all("p", "lead")[0][1]
  assert not page.section("results").all("b"), "one method is not the best"
  assert len(videos(page, tmp_path)) == 2, "no clip is both the worst and the best"


def test_nothing_scored_is_said(tmp_path):
  made = evaluation(tmp_path, ("ours",), 1, filmed=False)
  made.summary.update(rows=[], differences=[])
  made.scores = []
  page = report(made, tmp_path)
  assert "There is no number." in page.section("results").content
  assert not {"distributions", "examples", "seams"} & {attributes["id"] for attributes, _ in page.all("section")}


def test_five_methods_and_many_clips_and_metrics_stay_readable_and_small(tmp_path):
  metrics = dict(METRICS) | {f"more_{n}": (f"More {n}", "", "lower", 3, ("panorama",), 1, 0.1, "compares")
                             for n in range(17)}
  made = evaluation(tmp_path, ("a", "b", "c", "d", "e"), 40, metrics, filmed=False)
  page = report(made, tmp_path, examples=0)
  assert max(len(table[0]) for table in page.section("results").tables("results")) <= 8, "as wide as a window"
  assert (tmp_path / "report.html").stat().st_size < 3e6


def test_it_says_how_many_clips_a_number_stands_for(tmp_path):
  made = evaluation(tmp_path, ("ours", "blur"), 3, filmed=False)
  made.summary["methods"]["blur"].update(scored=2, missing=1)
  for row in made.summary["rows"]:
    if row["method"] == "blur" and not row["split"]:
      row["clips"] = 1 if row["metric"] == "psnr" else 2
    if row["metric"] == "seam_ratio":
      row.update(value=None, low=None, high=None, clips=0)
  section = report(made, tmp_path).section("results")
  first = section.tables("results")[0]
  assert [row[0] for row in first] == ["Method", "ours", "blur | 2 of 3 clips", "reference"]
  assert "n = 1" in first[2][1] and not any("n = " in cell for cell in (*first[1], *first[2][2:]))
  assert "Without a value for any clip: seam ratio." in section.content and "seam ratio → 1" not in first[0]


def test_missing_and_infinite_numbers_are_dashes(tmp_path):
  made = evaluation(tmp_path, ("ours", "blur"), 3, filmed=False)
  gone = next(row for row in made.summary["rows"] if row["metric"] == "fid" and not row["split"])
  gone.update(value=None, low=None, high=None, clips=1, note="too few clips for a distance")
  for value, row in zip(("", None, float("inf")), made.scores):
    row.update(value=value, why="missing")
  page = report(made, tmp_path)
  cells = [cell for table in page.section("results").tables("results") for row in table for cell in row]
  assert "–* | n = 1" in cells and "FID: too few clips for a distance" in page.section("results").content
  data = page.data("clip-data")
  assert data["series"][0]["values"][data["methods"].index("ours")] == [None] * 3
  assert data["series"][0]["why"][data["methods"].index("ours")] == {"0": "missing", "1": "missing", "2": "missing"}


# --- other people's names


def test_it_needs_no_network_and_runs_no_code_but_its_own(page):
  assert not re.search(r"https?://|@import|src=\"(?!data:)", page.content)
  assert all(attributes["href"].startswith(("#", "data:")) for tag in ("a", "link") for attributes, _ in page.all(tag))
  (policy,) = [attributes["content"] for attributes, _ in page.all("meta") if "http-equiv" in attributes]
  assert "default-src 'none'" in policy and re.search(r"script-src 'sha256-[\w+/=]+'", policy)


def nasty(value):
  """Every text of a summary or of scores, with HTML in it, but for the names that the page itself knows."""
  known = ("better", "surface", "surfaces", "digits", "metric")
  if isinstance(value, dict):
    return {key: item if key in known else nasty(item) for key, item in value.items()}
  if isinstance(value, list):
    return [nasty(item) for item in value]
  if not isinstance(value, str) or value in ("", "reference") or re.fullmatch(r"-?[\d.e-]+", value):
    return value
  return value + NASTY


def test_hostile_names_are_text_wherever_they_come(tmp_path):
  made = evaluation(tmp_path, ("ours", "blur"), 3, filmed=False)
  plain = report(made, tmp_path)
  wanted = copy.deepcopy(made)
  for field in ("methods", "networks"):
    wanted.summary[field] = {key if key == "reference" else key + NASTY: value
                             for key, value in made.summary[field].items()}
  wanted.summary["clips"]["splits"] = {key + NASTY: n for key, n in made.summary["clips"]["splits"].items()}
  wanted.summary, wanted.scores = nasty(wanted.summary), nasty(made.scores)
  wanted.prompt_of = lambda clip: NASTY
  page = report(wanted, tmp_path)
  count = lambda page, tag: len(page.all(tag))
  for tag in ("script", "img", "b", "section", "table"):
    assert count(page, tag) == count(plain, tag), tag
  names = {name for _, attributes, _ in page.elements for name in attributes}
  assert not any(name.startswith("on") or name == "style" for name in names)
  assert "\u202e" not in page.content
  assert NASTY + "</h1>" not in page.content and "ours&lt;/script&gt;&lt;img src=x" in page.content
  data = page.data("clip-data")
  assert data["clips"][0] == "clip::0000" + NASTY and "{{sections}}" in page.all("h1")[0][1]


def test_an_old_report_stays_where_a_new_one_cannot_be_written(made, tmp_path):
  (tmp_path / "report.html").write_text("old")
  broken = evaluation(tmp_path, filmed=False, clips=2)
  broken.prompt_of = lambda clip: 1 / 0
  with pytest.raises(ZeroDivisionError):
    report(broken, tmp_path)
  assert (tmp_path / "report.html").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
  (tmp_path / "folder.html").mkdir()
  with pytest.raises(InputError, match="folder.html is a folder"):
    write_report(tmp_path / "folder.html", *made.arguments, examples=0)
