"""The UNet as operations on a tape, from its configuration. No torch.

Source: huggingface/diffusers, models/unets/unet_2d_condition.py and unet_2d_blocks.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainers.planner.layers import Grid, Net, add, attention, norm, scaled, silu
from trainers.planner.tape import Stored, Tape

_TIME_WIDTHS = 4  # the time embedding is four times as wide as the first block


@dataclass(frozen=True)
class Unet:
    """A `UNet2DConditionModel`.

    Attributes:
        net: the model on its tape.
        config: its `config.json`.
        context: token states, `[batch, tokens, width]`.
        tokens: how many tokens that is.
    """

    net: Net
    config: Mapping[str, Any]
    context: Stored
    tokens: int

    def write(self, batch: int, height: int, width: int) -> Stored:
        """The forward pass on latents `[batch, c, height, width]`; returns the prediction."""
        net, config = self.net, self.config
        widths: list[int] = list(config["block_out_channels"])
        units = int(config.get("layers_per_block", 2))
        depth = config.get("transformer_layers_per_block", 1)
        depths = [depth] * len(widths) if isinstance(depth, int) else list(depth)
        channels, first, bottom = int(config.get("in_channels", 4)), widths[0], len(widths) - 1
        grids = [Grid(batch, height, width)]

        time = self._time(batch, first)
        noisy = net.tape.tensor(grids[0].positions * channels)
        x = net.layer("conv_in", noisy, grids[0].positions, (first, channels, 3, 3))
        skips = [(x, first)]
        inputs = first
        for level, kind in enumerate(config["down_block_types"]):
            block, out, grid = f"down_blocks.{level}", widths[level], grids[-1]
            for unit in range(units):
                x = self._resnet(f"{block}.resnets.{unit}", x, time, grid, inputs, out)
                if kind.startswith("CrossAttn"):
                    path = f"{block}.attentions.{unit}"
                    x = self._transformer(path, x, grid, out, depths[level], level)
                skips.append((x, out))
                inputs = out
            if level < bottom:
                grids.append(grid.half())
                shape = (out, out, 3, 3)
                x = net.layer(f"{block}.downsamplers.0.conv", x, grids[-1].positions, shape)
                skips.append((x, out))
        last = widths[-1]
        x = self._resnet("mid_block.resnets.0", x, time, grids[-1], last, last)
        path = "mid_block.attentions.0"
        x = self._transformer(path, x, grids[-1], last, depths[-1], bottom)
        x = self._resnet("mid_block.resnets.1", x, time, grids[-1], last, last)
        below = last
        for place, kind in enumerate(config["up_block_types"]):
            level, block = bottom - place, f"up_blocks.{place}"
            out, grid, given = widths[level], grids[level], x
            given_skips = [skip for skip, _ in skips[-(units + 1) :]]
            for unit in range(units + 1):
                skip, skipped = skips.pop()
                inputs = below + skipped
                x = net.tape.op([x, skip], grid.positions * inputs)
                x = self._resnet(f"{block}.resnets.{unit}", x, time, grid, inputs, out)
                if kind.startswith("CrossAttn"):
                    path = f"{block}.attentions.{unit}"
                    x = self._transformer(path, x, grid, out, depths[level], level)
                below = out
            if level:
                positions = grids[level - 1].positions
                x = net.tape.op([x], positions * out)
                x = net.layer(f"{block}.upsamplers.0.conv", x, positions, (out, out, 3, 3))
            net.tape.hold(given, *given_skips)
        x = silu(net.tape, norm(net.tape, x, first, batch * self._groups))
        shape = (int(config.get("out_channels", 4)), first, 3, 3)
        return net.layer("conv_out", x, grids[0].positions, shape)

    @property
    def _groups(self) -> int:
        return int(self.config.get("norm_num_groups") or 32)

    def _heads(self, level: int) -> int:
        # diffusers calls the number of heads `attention_head_dim`
        heads = self.config.get("num_attention_heads") or self.config["attention_head_dim"]
        return int(heads if isinstance(heads, int) else heads[level])

    def _time(self, batch: int, first: int) -> Stored:
        """The embedding of timesteps, and with SDXL of sizes and the pooled prompt."""
        net, wide = self.net, _TIME_WIDTHS * first
        parts = [("time_embedding", first)]
        if self.config.get("addition_embed_type") == "text_time":
            parts.append(
                ("add_embedding", int(self.config["projection_class_embeddings_input_dim"]))
            )
        embedded: list[Stored] = []
        for name, inputs in parts:
            x = net.layer(
                f"{name}.linear_1", net.tape.tensor(batch * inputs), batch, (wide, inputs)
            )
            embedded.append(net.layer(f"{name}.linear_2", silu(net.tape, x), batch, (wide, wide)))
        return embedded[0] if len(embedded) == 1 else add(net.tape, *embedded)

    def _resnet(
        self, path: str, x: Stored, time: Stored, grid: Grid, inputs: int, out: int
    ) -> Stored:
        wide = _TIME_WIDTHS * int(self.config["block_out_channels"][0])

        def write(tape: Tape) -> Stored:
            net, statistics = self.net.on(tape), grid.batch * self._groups
            h = silu(tape, norm(tape, x, inputs, statistics))
            h = net.layer(f"{path}.conv1", h, grid.positions, (out, inputs, 3, 3))
            told = net.layer(f"{path}.time_emb_proj", silu(tape, time), grid.batch, (out, wide))
            h = silu(tape, norm(tape, add(tape, h, told), out, statistics))
            h = net.layer(f"{path}.conv2", h, grid.positions, (out, out, 3, 3))
            kept = x
            if inputs != out:
                kept = net.layer(f"{path}.conv_shortcut", x, grid.positions, (out, inputs, 1, 1))
            return scaled(tape, add(tape, kept, h))

        return self.net.tape.checkpointed([x, time], write, self.net.checkpointing)

    def _transformer(
        self, path: str, x: Stored, grid: Grid, width: int, depth: int, level: int
    ) -> Stored:
        net, tape = self.net, self.net.tape
        linear = bool(self.config.get("use_linear_projection", False))
        shape = (width, width) if linear else (width, width, 1, 1)
        h = norm(tape, x, width, grid.batch * self._groups)
        h = net.layer(f"{path}.proj_in", h, grid.positions, shape)
        for index in range(depth):
            h = self._block(f"{path}.transformer_blocks.{index}", h, grid, width, level)
        h = tape.op([h], h.numel)  # channels first again
        h = net.layer(f"{path}.proj_out", h, grid.positions, shape)
        return add(tape, h, x)

    def _block(self, path: str, x: Stored, grid: Grid, width: int, level: int) -> Stored:
        """Self-attention, cross-attention and a gated feed-forward layer."""
        context_width = int(self.config["cross_attention_dim"])
        square = (width, width)

        def write(tape: Tape) -> Stored:
            net, positions = self.net.on(tape), grid.positions
            h = x
            for name in ("attn1", "attn2"):
                here = f"{path}.{name}"
                normed = norm(tape, h, width, positions)
                source, rows, inputs = (
                    (normed, positions, width)
                    if name == "attn1"
                    else (self.context, grid.batch * self.tokens, context_width)
                )
                q = net.layer(f"{here}.to_q", normed, positions, square, bias=False)
                k = net.layer(f"{here}.to_k", source, rows, (width, inputs), bias=False)
                v = net.layer(f"{here}.to_v", source, rows, (width, inputs), bias=False)
                mixed = attention(tape, q, k, v, self._heads(level) * positions)
                mixed = net.layer(f"{here}.to_out.0", mixed, positions, square)
                h = add(tape, scaled(tape, mixed), h)
            normed = norm(tape, h, width, positions)
            wide = net.layer(f"{path}.ff.net.0.proj", normed, positions, (8 * width, width))
            inner = positions * 4 * width
            gate_bytes = inner * tape.width
            gated = tape.op(
                [wide], inner, keeps=[wide], own_bytes=gate_bytes, forward_bytes=gate_bytes
            )
            out = net.layer(f"{path}.ff.net.2", gated, positions, (width, 4 * width))
            return add(tape, out, h)

        return self.net.tape.checkpointed([x, self.context], write, self.net.checkpointing)
