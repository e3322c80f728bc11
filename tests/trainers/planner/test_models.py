"""Each model's estimate against what PyTorch allocates for it, and its true number of weights."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_diffusion import AdapterConfig, inject
from trainers.planner import clip, vae
from trainers.planner.layers import Adapted, Grid, Net
from trainers.planner.measured import peak_bytes
from trainers.planner.tape import Tape
from trainers.planner.unet import Unet

CPU = torch.device("cpu")
TOKENS, CONTEXT = 77, 64


# each further thread of a bf16 kernel has buffers of its own, which nobody keeps
pytestmark = pytest.mark.usefixtures("one_thread")


def unet_config(*, linear: bool = False) -> dict:
    return {
        "block_out_channels": [32, 64, 128, 128],
        "cross_attention_dim": CONTEXT,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "layers_per_block": 2,
        "use_linear_projection": linear,
        "sample_size": 32,
    }


def told(handle, kind: str = "lora") -> dict:
    return {
        key: Adapted(kind, adapter.rank, sum(p.numel() for p in adapter.parameters()))
        for key, adapter in handle.adapters()
    }


CASES = {
    "attention": {},
    "batch of 4": {"batch": 4, "side": 16},
    "transformer": {"targets": "transformer"},
    "convolutions": {"targets": "all"},
    "linear projections": {"targets": "transformer", "linear": True},
    "alpha is not rank": {"alpha": 2.0},
    "checkpointing": {"checkpointing": True},
    "checkpointing, convolutions": {"checkpointing": True, "targets": "all", "batch": 2},
    "bf16": {"bf16": True},
    "bf16, checkpointing": {"bf16": True, "checkpointing": True},
    "DoRA": {"kind": "dora"},
    "LoKr": {"kind": "lokr"},
    "LoHa": {"kind": "loha"},
}


@pytest.mark.parametrize("name", CASES)
def test_a_unets_training_step(name):
    case = {"targets": "attn", "kind": "lora", "batch": 1, "side": 32} | CASES[name]
    bf16, checkpointing = case.get("bf16", False), case.get("checkpointing", False)
    config = unet_config(linear=case.get("linear", False))
    unet = UNet2DConditionModel(**config).requires_grad_(False).train()
    unet = unet.to(torch.bfloat16 if bf16 else torch.float32)
    handle = inject(
        {"unet": unet},
        AdapterConfig(
            kind=case["kind"],
            targets=case["targets"],
            text_targets="none",
            rank=8,
            alpha=case.get("alpha"),
        ),
    )
    if checkpointing:
        unet.enable_gradient_checkpointing()
    batch, side = case["batch"], case["side"]
    noisy, context = torch.randn(batch, 4, side, side), torch.randn(batch, TOKENS, CONTEXT)
    times = torch.full((batch,), 5)

    def step():
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            loss = unet(noisy, times, context).sample.float().square().mean()
        loss.backward()
        for parameter in handle.parameters():
            parameter.grad = None

    step()
    measured = peak_bytes(step, CPU)
    tape = Tape(*((2, 2) if bf16 else (4, 4)))
    net = Net(tape, "unet", told(handle, case["kind"]), checkpointing)
    Unet(net, config, tape.tensor(batch * TOKENS * CONTEXT), TOKENS).write(batch, side, side)
    estimated = tape.peak(backward=True)
    assert estimated == pytest.approx(measured, rel=0.1), f"{estimated / measured:.3f}"
    trained = handle.trainable
    assert tape.weights == sum(p.numel() for p in unet.parameters()) - trained


@pytest.mark.parametrize("kind", ["CLIPTextModel", "CLIPTextModelWithProjection"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_text_encoders_training_step(kind, checkpointing):
    act = {"CLIPTextModel": "quick_gelu", "CLIPTextModelWithProjection": "gelu"}[kind]
    classes = {c.__name__: c for c in (CLIPTextModel, CLIPTextModelWithProjection)}
    config = CLIPTextConfig(
        vocab_size=500, hidden_size=128, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=4, hidden_act=act, projection_dim=64, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    encoder = classes[kind](config).requires_grad_(False).train()
    handle = inject(
        {"text_encoder": encoder}, AdapterConfig(targets="none", text_targets="attn", rank=8)
    )
    if checkpointing:
        encoder.activation_checkpointing_enable()
    ids = torch.randint(2, 400, (4, 77))

    def step():
        encoder(ids).last_hidden_state.square().mean().backward()
        for parameter in handle.parameters():
            parameter.grad = None

    step()
    measured = peak_bytes(step, CPU)
    tape = Tape()
    net = Net(tape, "text_encoder", told(handle), checkpointing)
    clip.write(net, config.to_dict() | {"architectures": [kind]}, 4)
    assert tape.peak(backward=True) == pytest.approx(measured, rel=0.1)
    assert tape.weights == sum(p.numel() for p in encoder.parameters()) - handle.trainable


def test_the_vae_both_ways():
    config = {
        "block_out_channels": [32, 64, 64, 64],
        "layers_per_block": 2,
        "norm_num_groups": 8,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }
    model = AutoencoderKL(**config).eval().requires_grad_(False)
    pictures, latents = torch.randn(2, 3, 128, 128), torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        encoding = peak_bytes(lambda: model.encode(pictures), CPU)
        decoding = peak_bytes(lambda: model.decode(latents), CPU)
    tapes = Tape(), Tape()
    vae.encode(Net(tapes[0], "vae"), config, Grid(2, 128, 128))
    vae.decode(Net(tapes[1], "vae"), config, Grid(2, 16, 16))
    assert tapes[0].peak(backward=False) == pytest.approx(encoding, rel=0.1)
    assert tapes[1].peak(backward=False) == pytest.approx(decoding, rel=0.1)
    assert sum(t.weights for t in tapes) == sum(p.numel() for p in model.parameters())
