"""Tiny models of the true classes, shared by all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lora_diffusion.keys import TEXT_ENCODER, UNET
from trainers.data.user_cache import VARIABLE

VOCABULARY = 100


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Indexes and small pictures go into a folder of the tests, also those of processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path_factory.mktemp("caches")))
        yield


def make_parts() -> dict[str, nn.Module]:
    """A UNet and a CLIP text encoder, a few thousand parameters each, always the same."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        layers_per_block=1,
        norm_num_groups=4,
    )
    text: Any = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    return {UNET: unet.eval(), TEXT_ENCODER: text.eval()}


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """A module's tests on one thread: with tiny models several only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def parts() -> dict[str, nn.Module]:
    return make_parts()


Forward = Callable[[], Tensor]


@pytest.fixture
def forward(parts: dict[str, nn.Module]) -> Forward:
    """The UNet's output on fixed latents, conditioned on fixed ids through the text encoder."""
    source = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 8, 8, generator=source)
    timesteps = torch.tensor([3, 500])
    ids = torch.randint(0, VOCABULARY, (2, 77), generator=source)

    def run() -> Tensor:
        context = parts[TEXT_ENCODER](ids).last_hidden_state
        output: Tensor = parts[UNET](latents, timesteps, encoder_hidden_states=context).sample
        return output

    return run


def fill(handle: Any, seed: int = 2, spread: float = 0.1) -> None:
    """Give an adapter weights as training would: B is no longer zero."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in handle.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source) * spread)


def state_bytes(model: nn.Module) -> dict[str, bytes]:
    """The state dict as bytes, to compare exactly."""
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


@pytest.fixture(scope="session")
def demo_base() -> Path:
    from lora_diffusion import bundled

    return bundled.resolve("bundled:demo_base")
