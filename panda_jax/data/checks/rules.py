"""From a look at a file to its findings and a verdict. The first finding that rejects a file gives the reason."""

from panda_jax.data.checks import layout
from panda_jax.data.checks.edges import median_seam
from panda_jax.data.checks.look import Look
from panda_jax.data.checks.verdict import Finding, Thresholds, Verdict

ONE_COLOUR = "shows one colour only: there is nothing in it to learn from"
_ADVICE = ("Give it to `panda generate --video` instead, or --allow-flat to keep it; --flat makes a dataset of "
           "ordinary films.")
# width / height of frames that hold a panorama for each eye, whole (2:1 each) or squeezed
_STEREO = {"stereo_top_bottom": (1, 2, 16 / 9, 8 / 9), "stereo_side_by_side": (4, 2, 32 / 9, 16 / 9)}
_HALVES = {"stereo_top_bottom": ("upper", "lower"), "stereo_side_by_side": ("left", "right")}


def judge(found: Verdict, look: Look, thresholds: Thresholds, allow_flat: bool, flat: bool) -> Verdict:
  """Fills a verdict in.

  Args:
    found: the verdict so far: path, kind and span.
    look: what was seen of the file.
    thresholds: the rules' numbers.
    allow_flat, flat: see `check`.

  Returns:
    The same verdict, complete.
  """
  found.width, found.height, found.fps = look.width, look.height, look.fps
  found.frames, found.first = look.frames, look.first
  if look.problem:
    return _conclude(found, [look.problem])
  if look.frames == 0:
    span = f"between {found.start:g} s and {'its end' if found.end is None else f'{found.end:g} s'}"
    return _conclude(found, [Finding("short", "rejected", f"has no frame {span}")])
  limits = (thresholds.seam_floor, thresholds.seam_sharpness, thresholds.seam_variety)
  found.seam = median_seam(look.images, *limits)
  if found.seam is None:
    return _conclude(found, [Finding("one_colour", "rejected", ONE_COLOUR)])
  if flat:
    found.verdict, found.seam = "film", None
    findings = []
  else:
    found.verdict = "panorama"
    findings = _layout(found, look, limits, thresholds)
    if allow_flat:
      findings = [_kept(found, finding) if finding.rule in ("flat", "half_sphere") else finding for finding in findings]
  if look.kind == "video":
    findings += _course(found, look, thresholds)
  else:
    found.shots = [(0, 1)]
  findings += _blemishes(found, look, flat, thresholds)
  return _conclude(found, findings)


def _conclude(found: Verdict, findings: list[Finding]) -> Verdict:
  found.findings = findings
  rejected = [finding for finding in findings if finding.effect == "rejected"]
  if rejected:
    found.why, found.shots, found.repairs = rejected[0].why, [], []
    if rejected[0].rule in ("static", "black", "short"):
      found.verdict = rejected[0].rule
    return found
  found.ok = True
  found.why = "; ".join(finding.why for finding in findings
                        if finding.effect in ("repaired", "split") or finding.rule in ("flat", "half_sphere"))
  return found


def _kept(found: Verdict, finding: Finding) -> Finding:
  found.repairs = ["resize"]
  return Finding(finding.rule, "reported", f"is {found.width}x{found.height} and no panorama by its looks: kept, "
                 "stretched to 2:1 (--allow-flat)")


# Layout


def _layout(found: Verdict, look: Look, limits: tuple[float, ...], thresholds: Thresholds) -> list[Finding]:
  """What kind of panorama it is, if any: fills in verdict, seam and repairs."""
  for rule, stored in _STEREO.items():
    pairs = [layout.halves(image, rule) for image in look.images if image.std() >= 2]
    if 2 * sum(layout.are_alike(*pair, thresholds) for pair in pairs) > len(pairs):
      return [_stereo(found, rule, [pair[0] for pair in pairs], stored, limits)]
  share = layout.empty_share(look.images)
  if thresholds.empty_share <= share < 0.62:          # a tall film between bars has more
    found.verdict = "half sphere"
    return [Finding("half_sphere", "rejected", f"shows nothing in {share:.0%} of its width: it is a 180° film, and "
                    f"half of the sphere is missing. {_ADVICE}")]
  ratio = found.width / found.height
  if _near(ratio, 16 / 9, 3 / 2):
    cubes = [layout.is_eac(image, found.height, found.width, thresholds) for image in look.images if image.std() >= 2]
    if not found.seam.joins and 2 * sum(cubes) > len(cubes) and found.height % 2 == 0:
      found.verdict, found.seam, found.repairs = "equi-angular cubemap", None, ["eac"]
      return [Finding("eac", "repaired", f"is {found.width}x{found.height}: an equi-angular cubemap, converted to a "
                      "panorama")]
  return _plain(found, look)


def _stereo(found: Verdict, rule: str, eyes: list, stored: tuple[float, ...], limits: tuple[float, ...]) -> Finding:
  """Two halves that are alike: one eye of a panorama, if each half goes around."""
  size, (one, other) = f"{found.width}x{found.height}", _HALVES[rule]
  edges = median_seam(eyes, *limits)
  if edges is None or not edges.joins or layout.has_side_bars(eyes):
    found.verdict, found.seam = "half sphere", edges
    return Finding("half_sphere", "rejected", f"is {size}, its {one} and {other} halves are two eyes' pictures, and "
                   f"their edges do not join: it is a 180° film (VR180) or an ordinary 3D film. {_ADVICE}")
  ratio = found.width / found.height
  found.verdict, found.seam = "stereo panorama", edges
  if not _near(ratio, *stored):
    return Finding("flat", "rejected", f"is {size}, a shape that no two panoramas for two eyes have, though its halves "
                   f"are alike: cut one eye out of it first. {_ADVICE}")
  upper = rule == "stereo_top_bottom"
  found.repairs = ["top_half" if upper else "left_half"]
  if not _near(ratio * 2 if upper else ratio / 2, 2):
    found.repairs.append("resize")
  return Finding(rule, "repaired", f"is {size} with a panorama for each eye: the {one} one is kept")


def _plain(found: Verdict, look: Look) -> list[Finding]:
  """One picture per frame: is it a panorama?"""
  size, shape = f"{found.width}x{found.height}", _shape(found.width, found.height)
  thing = "an ordinary film" if found.kind == "video" else "an ordinary picture"
  if shape and found.seam.joins and not layout.has_side_bars(look.images):
    if shape == "2:1":
      return []
    found.repairs = ["resize"]
    return [Finding("stored_16_9", "repaired", f"is {size}: a 2:1 panorama stored as 16:9")]
  found.verdict = "flat film" if found.kind == "video" else "flat picture"
  if not found.seam.joins:
    ratio = "" if shape == "2:1" else ", not 2:1,"
    why = (f"is {size}{ratio} and its left and right edges do not join (edge difference {found.seam.edge:.1f}, a "
           f"panorama of this sharpness has < {found.seam.limit:.1f}): it looks like {thing}. {_ADVICE}")
  elif shape:
    why = f"is {size} and has black bars at its sides: it looks like {thing}. {_ADVICE}"
  else:
    why = f"is {size}, not 2:1: it looks like {thing}, or a panorama of another kind. {_ADVICE}"
  return [Finding("flat", "rejected", why)]


def _shape(width: int, height: int) -> str | None:
  """"2:1" within 2 %, "16:9" within 1 %, None for anything else."""
  if abs(width / height - 2) < 0.04:
    return "2:1"
  return "16:9" if abs(width / height - 16 / 9) < 0.02 else None


def _near(ratio: float, *wanted: float) -> bool:
  """Within 2 %."""
  return any(abs(ratio / each - 1) < 0.02 for each in wanted)


# What happens over time


def _course(found: Verdict, look: Look, thresholds: Thresholds) -> list[Finding]:
  """Blackness, stillness, length, shots: fills in the shots that may become clips."""
  findings = []
  if look.black_frames > thresholds.black_share * look.frames:
    findings.append(Finding("black", "rejected", f"is black in {look.black_frames} of its {look.frames} frames"))
  usable = [shot for shot in look.shots if shot.lives and shot.stop - shot.start >= thresholds.short]
  found.shots = [(shot.start, shot.stop) for shot in usable]
  still = sum(not shot.moves and not shot.black for shot in look.shots)
  black = sum(shot.black for shot in look.shots)
  brief = len(look.shots) - len(usable) - still - black
  left_out = [f"{count} {what}" for count, what in (
    (brief, f"shorter than {thresholds.short} frames"), (still, "in which nothing moves"), (black, "black")) if count]
  if len(look.shots) > 1:
    lost = look.frames - sum(stop - start for start, stop in found.shots)
    tail = f", {len(usable)} of them used (left out: {', '.join(left_out)}; {lost} frames)" if left_out else ""
    findings.append(Finding("shot_change", "split", f"has {len(look.shots)} shots{tail}"))
  if look.frames < thresholds.short:
    findings.append(Finding("short", "rejected", f"has {look.frames} frames where {thresholds.short} are the fewest"))
  elif not any(shot.lives for shot in look.shots):
    findings.append(Finding("static", "rejected", f"stands still: nothing moves in its {look.frames} frames"))
  elif not usable:
    findings.append(Finding("short", "rejected", f"has {look.frames} frames in {len(look.shots)} shots, and none that "
                            f"moves has {thresholds.short}"))
  return findings


# What is only reported


def _blemishes(found: Verdict, look: Look, flat: bool, thresholds: Thresholds) -> list[Finding]:
  findings = []
  top, bottom = layout.bars(look.brightest, thresholds)
  if top:
    findings.append(Finding("letterbox", "reported", f"has black bars of {top} and {bottom} rows at the top and "
                            "the bottom"))
  if not flat and not top and found.verdict == "panorama":
    moves = any(shot.moves for shot in look.shots)
    for pole, kind, share in layout.patches(look.images, moves, thresholds):
      what = "a patch of one colour covers" if kind == "even" else "something that keeps still covers"
      findings.append(Finding("poles", "reported", f"has a blemished pole: {what} the {pole}, "
                              f"{180 * share:.0f}° of it"))
  rows = found.height // 2 if "top_half" in found.repairs else found.height
  if rows < thresholds.few_pixels:
    findings.append(Finding("few_pixels", "reported", f"has {rows} rows: fewer than {thresholds.few_pixels} are "
                            "enlarged much"))
  return findings


def rejected_by(verdict: Verdict) -> str | None:
  """The rule that gave the reason, None for a good file."""
  return next((finding.rule for finding in verdict.findings if finding.effect == "rejected"), None)
