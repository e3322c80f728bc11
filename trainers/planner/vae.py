"""The VAE's two halves as operations on a tape, from its configuration. No torch.

Source: huggingface/diffusers, models/autoencoders/{autoencoder_kl,vae}.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainers.planner.layers import Grid, Net, add, attention, norm, scaled, silu
from trainers.planner.tape import Stored

Config = Mapping[str, Any]


def encode(net: Net, config: Config, grid: Grid) -> Stored:
    """Pictures on `grid` (px) -> mean and log-variance."""
    widths: list[int] = list(config["block_out_channels"])
    units, groups = int(config.get("layers_per_block", 1)), _groups(config)
    colours, latents = int(config.get("in_channels", 3)), int(config.get("latent_channels", 4))
    x = net.tape.tensor(grid.positions * colours)
    x = net.layer("encoder.conv_in", x, grid.positions, (widths[0], colours, 3, 3))
    inputs = widths[0]
    for level, width in enumerate(widths):
        given = x
        for unit in range(units):
            x = _resnet(net, f"encoder.{level}.{unit}", x, grid, inputs, width, groups)
            inputs = width
        if level < len(widths) - 1:
            padded = Grid(grid.batch, grid.height + 1, grid.width + 1)
            x = net.tape.op([x], padded.positions * width)
            grid = grid.half()
            x = net.layer(f"encoder.{level}.down", x, grid.positions, (width, width, 3, 3))
        net.tape.hold(given)
    x = _middle(net, config, "encoder", x, grid, widths[-1])
    x = silu(net.tape, norm(net.tape, x, widths[-1], grid.batch * groups))
    moments = (2 * latents, widths[-1], 3, 3)
    x = net.layer("encoder.conv_out", x, grid.positions, moments)
    if config.get("use_quant_conv", True):
        x = net.layer("quant_conv", x, grid.positions, (2 * latents, 2 * latents, 1, 1))
    return x


def decode(net: Net, config: Config, grid: Grid) -> Stored:
    """Latents on `grid` -> pictures."""
    widths: list[int] = list(config["block_out_channels"])[::-1]
    units, groups = int(config.get("layers_per_block", 1)) + 1, _groups(config)
    colours, latents = int(config.get("out_channels", 3)), int(config.get("latent_channels", 4))
    x = net.tape.tensor(grid.positions * latents)
    if config.get("use_post_quant_conv", True):
        x = net.layer("post_quant_conv", x, grid.positions, (latents, latents, 1, 1))
    x = net.layer("decoder.conv_in", x, grid.positions, (widths[0], latents, 3, 3))
    x = _middle(net, config, "decoder", x, grid, widths[0])
    inputs = widths[0]
    for level, width in enumerate(widths):
        given = x
        for unit in range(units):
            x = _resnet(net, f"decoder.{level}.{unit}", x, grid, inputs, width, groups)
            inputs = width
        if level < len(widths) - 1:
            grid = grid.twice()
            x = net.tape.op([x], grid.positions * width)
            x = net.layer(f"decoder.{level}.up", x, grid.positions, (width, width, 3, 3))
        net.tape.hold(given)
    x = silu(net.tape, norm(net.tape, x, widths[-1], grid.batch * groups))
    return net.layer("decoder.conv_out", x, grid.positions, (colours, widths[-1], 3, 3))


def _groups(config: Config) -> int:
    return int(config.get("norm_num_groups") or 32)


def _middle(net: Net, config: Config, path: str, x: Stored, grid: Grid, width: int) -> Stored:
    groups = _groups(config)
    x = _resnet(net, f"{path}.mid.0", x, grid, width, width, groups)
    if config.get("mid_block_add_attention", True):
        square, tape = (width, width), net.tape
        h = norm(tape, x, width, grid.batch * groups)
        q, k, v = (net.layer(f"{path}.mid.{n}", h, grid.positions, square) for n in ("q", "k", "v"))
        h = attention(tape, q, k, v, grid.positions)
        h = net.layer(f"{path}.mid.out", h, grid.positions, square)
        x = scaled(tape, add(tape, h, x))
    return _resnet(net, f"{path}.mid.1", x, grid, width, width, groups)


def _resnet(
    net: Net, path: str, x: Stored, grid: Grid, inputs: int, out: int, groups: int
) -> Stored:
    tape, statistics = net.tape, grid.batch * groups
    h = silu(tape, norm(tape, x, inputs, statistics))
    h = net.layer(f"{path}.conv1", h, grid.positions, (out, inputs, 3, 3))
    h = silu(tape, norm(tape, h, out, statistics))
    h = net.layer(f"{path}.conv2", h, grid.positions, (out, out, 3, 3))
    kept = x
    if inputs != out:
        kept = net.layer(f"{path}.shortcut", x, grid.positions, (out, inputs, 1, 1))
    return scaled(tape, add(tape, kept, h))
