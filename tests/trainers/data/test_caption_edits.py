"""Bulk edits of captions as functions of their text."""

from __future__ import annotations

import time

import pytest

from lora_diffusion.errors import InputError
from trainers.data import caption_edits
from trainers.data.caption_edits import Edit, compiled, count_tags


@pytest.mark.parametrize(
    ("edit", "before", "after", "places"),
    [
        (Edit("replace", "cat", "dog"), "Cat and cat\n", "dog and dog\n", 2),
        (Edit("replace", "cat", "dog", match_case=True), "Cat and cat", "Cat and dog", 1),
        (Edit("replace", "cat", "dog", whole_words=True), "category cat", "category dog", 1),
        (Edit("replace", "a.c", "x"), "abc a.c", "abc x", 1),
        (Edit("replace", r"(\w+) cat", r"\1 dog", is_pattern=True), "a red cat", "a red dog", 1),
        (Edit("replace", "x", r"\1"), "x", r"\1", 1),
        (Edit("replace", ", old", ""), "a, old, b", "a, b", 1),
        (Edit("prefix", text="sks, "), "a cat\n", "sks, a cat\n", 1),
        (Edit("suffix", text=", film grain"), "a cat\r\n", "a cat, film grain\r\n", 1),
        (Edit("drop-repeats"), "cat, dog,Cat , dog\n", "cat, dog\n", 2),
    ],
)
def test_an_edit(edit: Edit, before: str, after: str, places: int) -> None:
    found = compiled(edit)(before)
    assert found is not None
    assert (found.before, found.after, found.places) == (before, after, places)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (Edit("replace", "cow", "dog"), "a cat"),
        (Edit("replace", "cat", "cat"), "cat"),
        (Edit("prefix", text="sks, "), "sks, a cat"),
        (Edit("prefix", text="sks, "), " \n"),
        (Edit("suffix", text=", x"), "a, x\n"),
        (Edit("drop-repeats"), "a, b,, c"),
    ],
)
def test_what_changes_nothing(edit: Edit, text: str) -> None:
    assert compiled(edit)(text) is None


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (Edit("replace", ""), "what to look for"),
        (Edit("replace", "(", is_pattern=True), "no pattern"),
        (Edit("replace", "a", r"\2", is_pattern=True), "no pattern"),
        (Edit("replace", "x" * 3_000), "Shorten"),
        (Edit("prefix"), "Type the text"),
    ],
)
def test_what_is_no_edit_is_one_sentence(edit: Edit, told: str) -> None:
    with pytest.raises(InputError, match=told):
        compiled(edit)("abc")


def test_a_pattern_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_edits, "SECONDS", 0.2)
    began = time.monotonic()
    change = compiled(Edit("replace", r"(x+x+)+(?:y|z)\1", "", is_pattern=True))
    with pytest.raises(InputError, match="takes over"):
        for _ in range(50):
            change("x" * 5_000)
    assert time.monotonic() - began < 3


def test_a_caption_does_not_grow_without_end() -> None:
    with pytest.raises(InputError, match="100,000 letters"):
        compiled(Edit("replace", "a", "a" * 1_000))("a" * 1_000)


def test_tags_are_counted_once_a_caption() -> None:
    assert count_tags(["cat, red,  cat", "red , dog", ""]) == {"red": 2, "cat": 1, "dog": 1}
