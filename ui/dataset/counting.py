"""CLIP's tokens of a caption, with the tokenizer loaded once."""

from __future__ import annotations

import functools

from lora_diffusion.errors import InputError
from trainers.data import tokens
from trainers.data.tokens import CHUNK_TOKENS, ClipTokens


@functools.cache
def find_tokens() -> ClipTokens | None:
    """CLIP's tokenizer; None where this machine has none, or a broken one."""
    try:
        return tokens.find()
    except InputError:
        return None


def told(text: str) -> dict[str, object]:
    """`{count, limit, beyond}` of a caption; no count where it can't be told."""
    found = find_tokens()
    whole = " ".join(text.split())
    if found is None:
        return {"count": None, "limit": CHUNK_TOKENS, "beyond": ""}
    return {
        "count": found.count(whole), "limit": CHUNK_TOKENS, "beyond": found.beyond(whole)[:80]
    }  # fmt: skip
