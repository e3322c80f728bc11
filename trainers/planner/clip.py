"""CLIP's text encoder as operations on a tape, from its configuration. No torch.

Source: huggingface/transformers, models/clip/modeling_clip.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainers.planner.layers import Net, add, attention, norm, scaled
from trainers.planner.tape import Stored, Tape

TOKENS = 77


def write(net: Net, config: Mapping[str, Any], rows: int) -> Stored:
    """Chunks of 77 tokens, `rows` of them -> token states."""
    width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    heads = int(config["num_attention_heads"])
    positions, square = rows * TOKENS, (width, width)
    net.tape.weights += (int(config["vocab_size"]) + TOKENS) * width
    x = net.tape.op([], positions * width)
    for index in range(int(config["num_hidden_layers"])):
        path, start = f"text_model.encoder.layers.{index}", x

        def layer(tape: Tape, path: str = path, x: Stored = start) -> Stored:
            here = net.on(tape)
            h = norm(tape, x, width, positions)
            q, k, v = (
                here.layer(f"{path}.self_attn.{name}_proj", h, positions, square)
                for name in ("q", "k", "v")
            )
            h = attention(tape, q, k, v, heads * positions)
            h = here.layer(f"{path}.self_attn.out_proj", h, positions, square)
            x = add(tape, h, x)
            h = norm(tape, x, width, positions)
            h = here.layer(f"{path}.mlp.fc1", h, positions, (inner, width))
            h = _activated(tape, h, config.get("hidden_act", "quick_gelu"))
            h = here.layer(f"{path}.mlp.fc2", h, positions, (width, inner))
            return add(tape, h, x)

        x = net.tape.checkpointed([start], layer, net.checkpointing)
    x = norm(net.tape, x, width, positions)
    if "Projection" in str(config.get("architectures")):
        shape = (int(config["projection_dim"]), width)
        net.layer("text_projection", x, rows, shape, bias=False)
    return x


def _activated(tape: Tape, x: Stored, kind: str) -> Stored:
    if kind != "quick_gelu":
        return tape.op([x], x.numel, keeps=[x])
    gate = tape.op([scaled(tape, x)], x.numel, keeps_out=True)  # x sigmoid(1.702 x)
    return tape.op([x, gate], x.numel, keeps=[x, gate])
