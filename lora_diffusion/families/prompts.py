"""Prompts of any length for CLIP text encoders, with clip skip.

CLIP reads 77 tokens: a start mark, 75 of the prompt, an end mark. Longer prompts are cut into
chunks of 75 that are encoded one by one and joined along the token axis, as A1111 and sd-scripts
do. Clip skip n takes the hidden states of the n-th layer from the end: with the final norm in
SD1.x and SD2.x (`encode`), without it in SDXL (`encode_layer`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

LENGTH = 77  # tokens that CLIP reads at once
CHUNK = LENGTH - 2  # of them the prompt's own


def token_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of `prompt` without the start and end marks, however many."""
    ids: list[int] = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
    return ids


def chunk_count(tokenizer: Any, prompt: str) -> int:
    """Chunks of 75 tokens that `prompt` needs, at least 1."""
    return max(1, -(-len(token_ids(tokenizer, prompt)) // CHUNK))


def token_chunks(tokenizer: Any, prompts: Sequence[str], chunks: int | None = None) -> Tensor:
    """Ids `[prompts, chunks, 77]`, padded to the longest prompt's chunks or to `chunks`."""
    every = [token_ids(tokenizer, prompt) for prompt in prompts]
    longest = max(1, max(-(-len(ids) // CHUNK) for ids in every))
    count = max(longest, chunks or 1)
    rows = [
        [_framed(tokenizer, ids[i * CHUNK : (i + 1) * CHUNK]) for i in range(count)]
        for ids in every
    ]
    return torch.tensor(rows, dtype=torch.long)


def encode(encoder: nn.Module, ids: Tensor, clip_skip: int) -> Tensor:
    """Token states `[prompts, chunks * 77, width]` of ids `[prompts, chunks, 77]`.

    clip_skip: 1 takes the last layer, 2 the one before it, and so on.
    """
    prompts, chunks, length = ids.shape
    device = next(encoder.parameters()).device
    flat = ids.reshape(prompts * chunks, length).to(device)
    if clip_skip == 1:
        states = encoder(flat).last_hidden_state  # final norm applied
    else:
        inner: Any = getattr(encoder, "text_model", encoder)  # transformers 5 dropped this level
        output = encoder(flat, output_hidden_states=True)
        states = inner.final_layer_norm(output.hidden_states[-clip_skip])
    result: Tensor = states.reshape(prompts, chunks * length, -1)
    return result


def encode_layer(encoder: nn.Module, ids: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """States of one layer without the final norm, and the pooled embedding, of ids as in `encode`.

    Args:
        encoder: `CLIPTextModel` or `CLIPTextModelWithProjection`.
        layer: counted from the last, which is 1.

    Returns:
        `[prompts, chunks * 77, width]`; and of each prompt's first chunk the state at its end
        mark, projected where the encoder has a projection, `[prompts, width]`.
    """
    prompts, chunks, length = ids.shape
    device = next(encoder.parameters()).device
    output = encoder(ids.reshape(prompts * chunks, length).to(device), output_hidden_states=True)
    states: Tensor = output.hidden_states[-layer].reshape(prompts, chunks * length, -1)
    every = output.text_embeds if hasattr(output, "text_embeds") else output.pooler_output
    pooled: Tensor = every.reshape(prompts, chunks, -1)[:, 0]
    return states, pooled


def _framed(tokenizer: Any, ids: list[int]) -> list[int]:
    padding = [tokenizer.pad_token_id] * (CHUNK - len(ids))
    return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *padding]
