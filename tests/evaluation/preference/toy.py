"""Tiny videos of methods, and answers to a study of them, as its page would save them."""

import json
import random

import av
import numpy as np

from panda_jax.data.video import write_video
from panda_jax.data import clips as layout
from panda_jax.evaluation.preference.page import build_study
from panda_jax.evaluation.preference.trials import draw_pairs

COLOURS = {"ours": 60, "baseline": 130, "third": 200}


def film(path, blue, size=(32, 64), frames=8, fps=8):
  """Two grey halves that swap places, with a shade of blue that tells the method."""
  h, w = size
  image = np.zeros((h, w, 3), np.uint8)
  image[:, :w // 2, :2] = 220
  image[..., 2] = blue
  write_video(path, [np.roll(image, index * w // frames, axis=1) for index in range(frames)], fps)
  return path


def generated(folder, methods=("ours", "baseline"), clips=4):
  """FOLDER/METHOD/beach-K.mp4 for every method; each video is another one."""
  for method in methods:
    for clip in range(clips):
      film(folder / method / f"beach-{clip}.mp4", COLOURS[method] + clip)
  return folder


def build(folder, output, seed=0, count=20, **options):
  """A study of all methods in a folder of videos."""
  methods = layout.find_methods(folder)
  pairs = draw_pairs(methods, layout.clips_of_methods(methods), count, seed)
  return build_study(output, methods, pairs, seed, **options)


def answer_sheet(study, participant, prefer=lambda clip, question, rng: "ours", upto=None, seed=0):
  """What the page saves: `prefer` gives the name of a method, or None for "cannot tell"."""
  rng = random.Random(f"{participant} {seed}")
  answers = []
  for trial in study.trials:
    for question in range(len(study.questions)):
      left, right = rng.sample(trial.media, 2)
      method = prefer(trial.clip, question, rng)
      choice = "tie" if method is None else "left" if study.media[left] == method else "right"
      answers.append({"trial": trial.id, "question": question, "left": left, "right": right, "choice": choice,
                      "seconds": 3.5, "watched": True, "view": "panorama"})
  return {"format": "panda_jax preference answers, version 1", "study": study.id, "participant": participant,
          "exported": "2026-11-27T10:00:00.000Z", "steps": len(answers), "answers": answers[:upto]}


def save(folder, sheet, name=None):
  """Writes the sheet to a file."""
  path = folder / (name or f"answers_{sheet['participant']}.json")
  path.write_text(json.dumps(sheet), encoding="utf-8")
  return path


def titled(path, title):
  """Writes a title into a video's header, as many programs do."""
  whole = path.with_name("titled.mp4")
  with av.open(str(path)) as given, av.open(str(whole), "w", format="mp4") as made:
    made.metadata.update(title=title, comment=title)
    stream = made.add_stream_from_template(given.streams.video[0])
    for packet in given.demux(video=0):
      if packet.dts is not None:
        packet.stream = stream
        made.mux(packet)
  whole.replace(path)
