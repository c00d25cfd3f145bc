"""From the sentences of a clip's views to its caption."""

import re
import unicodedata
from collections.abc import Sequence

DIRECTIONS = {0: "ahead", 90: "to the right", -90: "to the left", 180: "behind"}

INSTRUCTIONS = """\
You write captions for 360 degree videos. You are given short descriptions of pictures that were taken at one moment \
from one place, one in each direction; together they show the whole surroundings. Write one plain English sentence of \
at most 40 words about the place as a whole. Mention everything that matters once, prefer what several descriptions \
agree on, and invent nothing. Write of the scene itself: not of descriptions, pictures, views, cameras, angles or 360 \
degrees."""
_WITHOUT_DIRECTIONS = "Do not say where things are: not left, right, in front or behind."
_WITH_DIRECTIONS = "Say where things are: ahead, to the left, to the right, behind."
_ENDING = "Answer with the sentence and nothing else."

LONGEST = 1000
"""Characters of a caption: a text encoder reads the first 77 tokens, so what is longer is no caption."""

_HEAD = re.compile(r"(there (is|are)|this is|these are|it is|"
                   r"(an?|the) (\w+ )?(view|picture|photo|photograph|image|panorama|shot) of)\s+", re.IGNORECASE)
_PLAIN = frozenset("a an the and or of in on at to by with for from as is are it its this that there some two".split())
_LABEL = re.compile(r"^(?:\W*\b(?:caption|summary|answer|sentence|output|result)\b\W*)(?=\S)", re.IGNORECASE)
_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.IGNORECASE | re.DOTALL)
_QUOTES = "\"'`*“”‘’«»„ "


def tidy(text: str) -> str:
  """One line without control characters and double blanks."""
  joiner = "\u200d"                                   # holds the parts of an emoji together
  plain = (letter if letter == joiner or unicodedata.category(letter)[0] not in "CZ" else " " for letter in text)
  return " ".join("".join(plain).split())


def fuse(sentences: Sequence[str], yaws_deg: Sequence[int], directions: bool = False) -> str:
  """The template: what the sentences say, joined, each thing once.

  Args:
    sentences: of the views; empty ones are left out.
    yaws_deg: of the views.
    directions: say where each thing is. Such a caption is wrong for a mirrored picture.

  Returns:
    "a sandy beach, the sea under a blue sky and a row of hotels"; with directions "ahead a sandy beach, to the right
    …".
    Empty if all sentences are.
  """
  told = [(yaw, bare(sentence)) for yaw, sentence in zip(yaws_deg, sentences) if bare(sentence)]
  if directions:
    said = [f"{DIRECTIONS[yaw]} {part}" for yaw, part in told]
  else:
    said = _without_repetition([part for _, part in told])
  if any("," in part for part in said):
    return "; ".join(said)
  return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)


def view_of(sentence: str) -> str:
  """A sentence in the form of VideoPanda's prompts: "A view of a beach"; empty if there is none."""
  rest = bare(sentence)
  return f"A view of {rest}" if rest else ""


def messages(sentences: Sequence[str], yaws_deg: Sequence[int], directions: bool = False,
             instructions: str = "") -> list[dict[str, str]]:
  """What a chat model is asked, in the form of the chat-completions protocol.

  Args:
    sentences: of the views; empty ones are left out.
    yaws_deg: of the views.
    directions: tell it where the views look, and let it say so.
    instructions: instead of ours; then nothing is added to them.
  """
  rules = f"{INSTRUCTIONS} {_WITH_DIRECTIONS if directions else _WITHOUT_DIRECTIONS} {_ENDING}"
  listed = [f"- {DIRECTIONS[yaw]}: {sentence}" if directions else f"- {sentence}"
            for yaw, sentence in zip(yaws_deg, sentences) if sentence]
  return [{"role": "system", "content": instructions or rules}, {"role": "user", "content": "\n".join(listed)}]


def clean_answer(text: str) -> str:
  """The caption in a model's answer, without thoughts, preface, label, quotes and line breaks; may be empty."""
  lines = [line.strip() for line in _THINKING.sub("", text).splitlines()]
  lines = [line for line in lines if line and not line.endswith(":")]      # "Here is the caption:"
  answer = tidy(" ".join(lines)).strip(_QUOTES)
  return _LABEL.sub("", answer).strip(_QUOTES)


def bare(sentence: str) -> str:
  """A sentence without "there is", "a view of" and the full stop; an article in front gets its small letter."""
  rest = tidy(sentence).rstrip(" .;,")
  while match := _HEAD.match(rest):
    rest = rest[match.end():]
  first, blank, others = rest.partition(" ")
  return first.lower() + blank + others if first.lower() in _PLAIN else rest


def _without_repetition(parts: Sequence[str]) -> list[str]:
  """The parts whose words are not all in another one; of equals the first."""
  words = [frozenset(re.findall(r"\w+", part.lower())) - _PLAIN for part in parts]
  return [part for index, part in enumerate(parts)
          if not any(words[index] < other or words[index] == other and number < index
                     for number, other in enumerate(words))]
