"""Scores every video of a folder with Q-Align's video scorer (OneAlign), whose 15 GB are loaded only once.

  python score_videos.py VIDEOS --output scores.csv [--model q-future/one-align] [--device cuda:0]

Runs where Q-Align is installed (github.com/Q-Future/Q-Align, `pip install -e .`), and needs nothing of panda_jax, which
puts a copy of it beside the videos it exports. The same command again goes on where it was stopped.

Scores are as Q-Align's scorer gives them, from 0 (bad) to 1 (excellent); 1 + 4 * score is the scale of its paper. As
there, one frame of every second is looked at. Its own reader takes no frame of a video that is shorter than a second;
of those the first one is taken.
"""

import argparse
import csv
import os
import sys


def frames_of(path):
  """The frames that Q-Align looks at, as its `load_video` gives them: PIL images."""
  from decord import VideoReader
  from PIL import Image
  from q_align import load_video
  video = VideoReader(path)
  if len(video) < video.get_avg_fps():
    return [Image.fromarray(video[0].asnumpy())]
  return load_video(path)


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("videos", help="a folder of mp4 files")
  parser.add_argument("--output", required=True, help="the csv file to write: video,score")
  parser.add_argument("--model", default="q-future/one-align")
  parser.add_argument("--device", default="cuda:0")
  args = parser.parse_args(argv)
  names = sorted(name for name in os.listdir(args.videos) if name.endswith(".mp4"))
  if not names:
    sys.exit(f"{args.videos} holds no mp4 files")
  scored = {}
  if os.path.exists(args.output):
    with open(args.output, newline="") as file:
      scored = {row["video"]: float(row["score"]) for row in csv.DictReader(file) if row["score"]}
  missing = [name for name in names if name not in scored]
  if missing:
    from q_align import QAlignVideoScorer
    scorer = QAlignVideoScorer(pretrained=args.model, device=args.device)
    for name in missing:
      scored[name] = float(scorer([frames_of(os.path.join(args.videos, name))]).tolist()[0])
      with open(args.output + ".part", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "score"])
        writer.writerows((name, scored[name]) for name in names if name in scored)
      os.replace(args.output + ".part", args.output)
  print(f"{args.output}: {len(names)} videos, mean {sum(scored[name] for name in names) / len(names):.4f}")


if __name__ == "__main__":
  main()
