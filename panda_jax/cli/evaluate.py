"""panda evaluate: the papers' metrics over folders of generated videos, as one job."""

import argparse

SUMMARY = "score folders of generated 360° videos: FID, FVD, CLIP score, PSNR on the sphere, seams, drift …"
EXAMPLE = ("panda evaluate --reference clips/master.csv --generated generated --output scores "
           "--weights inception=pt_inception.pth i3d=i3d_k400.flax")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the arguments of `panda evaluate`."""
  parser.add_argument("--generated", required=True, metavar="DIR",
                      help="a folder of videos for each method, METHOD/CLIP_ID.mp4, or one such folder")
  parser.add_argument("--reference", metavar="FILE.csv|DIR",
                      help="the clips: a table with clip_id and any of prompt, caption_path, video_path and split, or a "
                           "folder of true videos; without it only what needs no truth is measured")
  parser.add_argument("--output", required=True, metavar="DIR",
                      help="for scores.csv, summary.json and report.html; the same command goes on there")
  parser.add_argument("--methods", metavar="A,B", help="some of the methods (default: all)")
  parser.add_argument("--baseline", metavar="METHOD", help="what the others are compared with (default: the first)")
  parser.add_argument("--weights", nargs="+", default=[], metavar="NETWORK=FILE",
                      help="weights of inception, i3d, lpips_alex, lpips_vgg (HEADS,BACKBONE) and clip (a folder); what "
                           "has none is left out, and said so. inception=random and i3d=random are for trying things out")
  parser.add_argument("--config", default="configs/evaluation.py", metavar="FILE.py[:PROTOCOL]",
                      help="the protocol: default, videopanda, outpainting, long; --config.NAME=VALUE changes a value")
  how = parser.add_argument_group("the job")
  how.add_argument("--processes", type=int, metavar="N",
                   help="that share the clips (default: one per core; one where networks are used)")
  how.add_argument("--shard", metavar="I/N", help="do the I-th of N parts, from 0; on other machines the others")
  how.add_argument("--no-report", action="store_true", help="write no report.html")
  how.add_argument("--export", metavar="DIR",
                   help="also write perspective views for VBench and Q-Align there, and print the commands for them")


def run(args: argparse.Namespace) -> None:
  """Measures, summarises and prints the table.

  Raises:
    InputError: for bad input, in one sentence.
  """
  import os
  import shlex
  import sys
  from pathlib import Path

  from panda_jax.cli import console
  from panda_jax.data import clips as layout
  from panda_jax.errors import InputError
  from panda_jax.evaluation import catalogue, extractors, job, summary
  from panda_jax.evaluation.protocol import Protocol
  from panda_jax.training.config import load_config

  protocol = Protocol.of(load_config(args.config, args.overrides))
  methods = _methods(args, layout.find_methods(args.generated))
  clips = layout.read_clips(args.reference) if args.reference else layout.clips_of_methods(methods)
  shard = layout.parse_shard(args.shard) if args.shard else (0, 1)
  files = extractors.parse_weights(args.weights)
  metrics, left_out = catalogue.choose(
      protocol.metrics, files, truth=any(clip.video for clip in clips), prompts=any(clip.prompt for clip in clips),
      frames=protocol.frames)
  if not metrics:
    raise InputError(f"there is nothing to measure: {'; '.join(entry.sentence for entry in left_out)}")
  unused = sorted(files.keys() - {metric.network for metric in metrics})
  for kind in unused:
    console.note(f"panda evaluate: the weights of {catalogue.NETWORKS[kind]} are for no metric of this protocol")
  files = {kind: given for kind, given in files.items() if kind not in unused}
  work = job.Job(tuple(clips), methods, Path(args.output), protocol, tuple(metric.name for metric in metrics), files,
                 extractors.identify(files))
  for method, names in layout.unlisted(methods, clips).items():
    console.note(f"panda evaluate: {len(names)} videos of {method} are of no clip of {args.reference} and are not "
                 f"evaluated, the first is {names[0]}")
  processes = args.processes if args.processes is not None else 1 if files else os.cpu_count() or 1
  if processes < 1:
    raise InputError(f"--processes must be at least 1, got {processes}")
  networks = extractors.load_extractors(files, work.weights, protocol, console.note)
  done = job.run(work, networks, shard=shard, processes=processes if processes > 1 else 0, progress=console.progress)
  if shard[1] > 1 and not job.complete(work):
    print(f"{args.output}: part {shard[0]} of {shard[1]} is done, {done} clips; the tables are written when all parts "
          "are, or by the same command without --shard")
    return
  tables, scores = summary.summarise(
      work, metrics, left_out, baseline=args.baseline, source=str(args.reference or args.generated),
      inputs={kind: network.input for kind, network in networks.items()}, command=shlex.join(["panda", *sys.argv[1:]]))
  _finish(args, work, tables, scores)


def _finish(args, work, tables: dict, scores: list) -> None:
  """Writes and prints the results of a job."""
  from pathlib import Path

  from panda_jax.cli import console
  from panda_jax.evaluation import results

  output = Path(args.output)
  results.write_scores(output / "scores.csv", scores)
  results.write_summary(output / "summary.json", tables)
  _print(tables, work.protocol.surfaces)
  written = ["summary.json", "scores.csv"]
  by_id = {clip.id: clip for clip in work.clips}
  if not args.no_report:
    from panda_jax.evaluation.report import write_report
    write_report(output / "report.html", tables, scores, lambda method, clip: work.video_of(method, by_id[clip]),
                 lambda clip: by_id[clip].video, lambda clip: by_id[clip].prompt)
    written.append("report.html")
  for name in written:
    print(output / name)
  if args.export:
    from panda_jax.evaluation.exports import export_views
    for line in export_views(args.export, work.methods, work.clips, work.protocol, note=console.note,
                             progress=console.progress):
      print(line)


def _print(tables: dict, surfaces) -> None:
  """The results, a table for each surface; what is missing in sentences on standard error."""
  from collections import Counter

  from panda_jax.cli import console
  for surface in surfaces:
    rows = [row for row in tables["rows"] if row["surface"] == surface and not row["split"]]
    names = list(dict.fromkeys(row["metric"] for row in rows))
    if not names:
      continue                                        # nothing could be measured there
    values = {(row["method"], row["metric"]): row["value"] for row in rows}
    signs = {"higher": "↑", "lower": "↓", "one": "→1", "zero": "→0"}
    columns = [f"{tables['metrics'][name]['title']} {signs[tables['metrics'][name]['better']]}" for name in names]
    cells = [[method, f"{counts['scored']}/{tables['clips']['count']}",
              *(_cell(values.get((method, name)), tables["metrics"][name]["digits"]) for name in names)]
             for method, counts in tables["methods"].items()]
    views = next((row["views"] for row in rows if row["views"]), "")
    console.table(f"{surface}{': ' + views if views else ''}", ("method", "clips", *columns), cells)
  print()
  for entry in tables["left_out"]:
    console.note(entry["sentence"])
  problems = tables["problems"]
  if problems:
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(row["kind"] for row in problems).most_common())
    console.note(f"remarks on clips ({kinds}), all in summary.json; the first: {problems[0]['method']}, "
                 f"{problems[0]['clip']}: {problems[0]['sentence']}")


def _cell(value: float | None, digits: int) -> str:
  return "–" if value is None else f"{value:.{digits}f}"


def _methods(args: argparse.Namespace, found: dict) -> dict:
  from panda_jax.data.clips import TRUTH
  from panda_jax.errors import InputError
  wanted = args.methods.split(",") if args.methods else list(found)
  if unknown := [name for name in wanted if name not in found]:
    raise InputError(f"--methods names {unknown[0]!r}, and {args.generated} has {', '.join(found)}")
  if TRUTH in wanted:
    raise InputError(f"{args.generated} has a method {TRUTH!r}, which is what the true videos are called: rename its "
                     "folder")
  if args.baseline and args.baseline not in wanted:
    raise InputError(f"--baseline {args.baseline!r} is none of the methods {', '.join(wanted)}")
  return {name: found[name] for name in wanted}

