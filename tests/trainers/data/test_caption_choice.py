"""Captions from visit to visit: chosen, drawn, shuffled, dropped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_diffusion.errors import InputError
from trainers.data.caption_choice import CaptionRules, choose, read_wildcards

TAGS = "sks dog, red, big, old, wet"
WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=4), min_size=1, max_size=12, unique=True)


def draws(rules: CaptionRules, *captions: str, trigger: str | None = None, count: int = 400):
    return [choose(captions, rules, trigger, 5, "p", number) for number in range(count)]


def test_without_rules_the_caption_is_the_files():
    assert set(draws(CaptionRules(), " A, odd;caption ")) == {" A, odd;caption "}


def test_one_of_several_captions_is_chosen_evenly_and_repeatably():
    found = draws(CaptionRules(), "one", "two", "three")
    assert found == draws(CaptionRules(), "one", "two", "three")
    assert all(found.count(each) > 100 for each in ("one", "two", "three"))
    rules = CaptionRules(shuffle=True)
    assert choose([TAGS], rules, None, 5, "p", 1) != choose([TAGS], rules, None, 6, "p", 1)


@given(WORDS, st.integers(0, 12), st.integers(0, 2**40))
def test_shuffling_keeps_every_tag_and_the_first_in_place(words, keep, number):
    rules = CaptionRules(shuffle=True, keep_first=keep)
    found = choose([", ".join(words)], rules, None, 0, "p", number).split(", ")
    assert sorted(found) == sorted(words)
    assert found[:keep] == words[:keep]


def test_shuffling_reaches_every_order():
    assert len(set(draws(CaptionRules(shuffle=True), "a, b, c"))) == 6


def test_tags_are_dropped_by_their_chance_but_not_the_kept_nor_the_trigger():
    rules = CaptionRules(drop_part=0.3, keep_first=1)
    found = draws(rules, "first, red, a sks dog, big", trigger="sks", count=2000)
    assert all(each.startswith("first, ") and "a sks dog" in each for each in found)
    for tag in ("red", "big"):
        share = sum(tag in each.split(", ") for each in found) / len(found)
        assert share == pytest.approx(0.7, abs=0.04)


def test_sentences_stay_whole():
    caption = "A dog, wet and old. It barks! Why?"
    found = draws(CaptionRules(parts="sentences", shuffle=True, keep_first=1), caption)
    assert set(found) == {
        "A dog, wet and old. It barks! Why?", "A dog, wet and old. Why? It barks!"
    }  # fmt: skip


def test_wildcards_are_drawn_nested_and_from_files(tmp_path):
    (tmp_path / "hue.txt").write_text("red  # warm\n\nblue\n", encoding="utf-8-sig")
    (tmp_path / "coat.txt").write_text("a __hue__ {coat|hat}\n", encoding="utf-8")
    rules = CaptionRules(wildcards=True, lines=read_wildcards(tmp_path))
    assert set(draws(rules, "sks in __coat__")) == {
        "sks in a red coat", "sks in a red hat", "sks in a blue coat", "sks in a blue hat",
    }  # fmt: skip
    assert draws(CaptionRules(), "{a|b} __hue__", count=1) == ["{a|b} __hue__"]


def test_wildcards_that_never_end_or_have_no_file_are_handled(tmp_path):
    (tmp_path / "me.txt").write_text("x __me__", encoding="utf-8")
    lines = read_wildcards(tmp_path)
    assert len(draws(CaptionRules(wildcards=True, lines=lines), "__me__", count=1)[0]) < 1000
    with pytest.raises(InputError, match=r"other\.txt.*wildcard_folder"):
        draws(CaptionRules(wildcards=True, lines=lines), "__other__")
    (tmp_path / "none.txt").write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"none\.txt"):
        read_wildcards(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        read_wildcards(tmp_path / "missing")
