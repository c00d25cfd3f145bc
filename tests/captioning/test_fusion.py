"""Four sentences become one caption that a mirrored or turned panorama still deserves."""

import pytest

from panda_jax.captioning import fusion

YAWS = (0, 90, -90, 180)
BEACH = ("there is a sandy beach", "A view of the sea under a blue sky.", "a row of hotels", "a sandy beach")


def test_the_template_says_everything_once():
  assert fusion.fuse(BEACH, YAWS) == "a sandy beach, the sea under a blue sky and a row of hotels"


def test_what_another_sentence_says_too_is_left_out():
  told = ("a street", "a busy street with cars", "a street with cars", "")
  assert fusion.fuse(told, YAWS) == "a busy street with cars"


def test_sentences_with_commas_are_told_apart():
  assert fusion.fuse(("a hall, empty", "a door", "", ""), YAWS) == "a hall, empty; a door"


def test_directions_are_named_on_request_only():
  plain, told = fusion.fuse(BEACH, YAWS), fusion.fuse(BEACH, YAWS, directions=True)
  assert not {"left", "right", "behind", "ahead"} & set(plain.split())
  assert "to the right the sea" in told and "to the left a row" in told and told.startswith("ahead a sandy beach")


def test_a_chat_model_is_not_told_where_the_views_look_unless_it_may_say_so():
  asked = fusion.messages(BEACH, YAWS)
  assert [message["role"] for message in asked] == ["system", "user"]
  assert all(sentence in asked[1]["content"] for sentence in BEACH) and "right" not in asked[1]["content"]
  assert "to the right: A view" in fusion.messages(BEACH, YAWS, directions=True)[1]["content"]
  assert fusion.messages(BEACH, YAWS, instructions="Rhyme.")[0]["content"] == "Rhyme."


@pytest.mark.parametrize("sentence, prompt", [
  ("a dog on a sofa", "A view of a dog on a sofa"), ("A view of a dog.", "A view of a dog"),
  ("Mount Fuji", "A view of Mount Fuji"), ("there are two dogs", "A view of two dogs"),
  ("a view of a view of a lake", "A view of a lake"), ("", ""), (" . ", "")])
def test_one_view_makes_a_prompt_of_the_papers_form(sentence, prompt):
  assert fusion.view_of(sentence) == prompt


@pytest.mark.parametrize("said, caption", [
  ("A quiet harbour.", "A quiet harbour."),
  ('"A quiet harbour."', "A quiet harbour."),
  ("Here is the caption:\n\n**A quiet\nharbour.**", "A quiet harbour."),
  ("<think>They show boats.\nSo:</think>\nCaption: A quiet harbour.", "A quiet harbour."),
  ("<think>cut off before the end", ""),
  ("静かな港 🛥\u0000", "静かな港 🛥"),
  ("a broken \ud800 letter", "a broken letter"),
  (" \n ", ""),
])
def test_an_answer_is_stripped_to_its_sentence(said, caption):
  assert fusion.clean_answer(said) == caption
