"""The demo tokenizer: CLIP's own scheme with a vocabulary just large enough for the demo.

256 bytes, 256 word-final bytes and the merges that make every demo word a single token; any
other text falls apart into bytes, so no prompt is ever refused.
"""

from __future__ import annotations

from transformers import CLIPTokenizer

from .figures import PALETTE, SHAPES
from .scenes import RADIUS, SPARE_WORDS

MAX_TOKENS = 77
START, END = "<|startoftext|>", "<|endoftext|>"
PLAIN_WORDS = (
    "a", "an", "the", "of", "in", "on", "with", "and", "background", "style", "picture",
    "creature", "striped", "antennae", "feet",
)  # fmt: skip
# Words of the second schooling; they come last, so that the others keep their token numbers.
TRAIT_WORDS = (
    "line", "pale", "plain", "thick", "thin", "stripes", "ears", "round", "tall", "box", "pear",
    "orange", "purple", "grey",
)  # fmt: skip


def demo_words() -> list[str]:
    """Every word that has a token of its own."""
    return [*PALETTE, *SHAPES, *RADIUS, *PLAIN_WORDS, *SPARE_WORDS, *TRAIT_WORDS]


def make_tokenizer() -> CLIPTokenizer:
    """The tokenizer; `save_pretrained` on it writes what diffusers needs."""
    vocab, merges = vocabulary()
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)
    for word in demo_words():
        assert len(tokenizer.tokenize(word)) == 1, word
    return tokenizer


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token ids and BPE merges, most urgent merge first.

    Words are taken in turn: the merges so far are applied, then the pieces that are left are
    joined from the left by new merges. Later merges rank lower, so earlier words stay whole.
    """
    merges: list[tuple[str, str]] = []
    for word in demo_words():
        pieces = [*word[:-1], word[-1] + "</w>"]
        for pair in merges:
            pieces = _merge(pieces, pair)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = _merge(pieces, merges[-1])
    symbols = _byte_symbols()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *("".join(pair) for pair in merges)]
    tokens = [*dict.fromkeys(tokens), START, END]
    return {token: index for index, token in enumerate(tokens)}, merges


def _merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def _byte_symbols() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
