"""cloneofsimo's numbered files: an imitation of the search that numbered them is the judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lora_diffusion.errors import AdapterFileError
from lora_diffusion.formats import read_adapter, save_adapter
from lora_diffusion.formats.describe import describe
from lora_diffusion.keys import live_modules

UNET_CLASSES = {"CrossAttention", "Attention", "GEGLU"}


class Attention(nn.Module):
    """diffusers' attention, whose class had another name at first."""

    def __init__(self, width: int, reads: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(reads, width)
        self.to_v = nn.Linear(reads, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Dropout()])


class GEGLU(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GEGLU(width), nn.Dropout(), nn.Linear(4 * width, width)])


class OldBlock(nn.Module):
    """Feed-forward between the attentions: diffusers when the tool was written."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn1 = Attention(width, width)
        self.ff = FeedForward(width)
        self.attn2 = Attention(width, 768)


class NewBlock(nn.Module):
    """Feed-forward last: diffusers since."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn1 = Attention(width, width)
        self.attn2 = Attention(width, 768)
        self.ff = FeedForward(width)


def unet_of(block: type[nn.Module]) -> nn.Module:
    """The true UNet's tree with small blocks in the place of its transformers."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(cross_attention_dim=768)
    for index, (path, _) in enumerate(list(unet.named_modules())):
        if path.endswith("transformer_blocks"):
            unet.set_submodule(path, nn.ModuleList([block(16 + 8 * (index % 3))]))
    return unet  # type: ignore[no-any-return]


def numbered(part: str, model: nn.Module, classes: set[str]) -> tuple[dict[str, Tensor], list[str]]:
    """The tool's file of `model`, rank 2, and the path of each number."""
    paths = {module: key.path for key, module in live_modules({part: model}).items()}
    tensors: dict[str, Tensor] = {}
    order: list[str] = []
    for ancestor in model.modules():
        if type(ancestor).__name__ in classes:
            for module in ancestor.modules():
                if isinstance(module, nn.Linear):
                    outputs, inputs = module.weight.shape
                    torch.manual_seed(len(order))
                    tensors[f"{part}:{len(order)}:up"] = torch.randn(outputs, 2)
                    tensors[f"{part}:{len(order)}:down"] = torch.randn(2, inputs)
                    order.append(paths[module])
    return tensors, order


def write(path: Path, tensors: dict[str, Tensor], **classes: set[str]) -> Path:
    metadata = {part: json.dumps(sorted(names)) for part, names in classes.items()}
    ranks = {name.rpartition(":")[0] + ":rank": "2" for name in tensors if ":" in name}
    save_file(tensors, path, metadata | ranks)
    return path


@pytest.mark.parametrize("classes", [UNET_CLASSES, {"CrossAttention", "Attention"}])
@pytest.mark.parametrize("block", [OldBlock, NewBlock])
def test_numbers_are_the_layers_the_search_met(
    tmp_path: Path, block: type[nn.Module], classes: set[str]
) -> None:
    tensors, order = numbered("unet", unet_of(block), classes)
    assert len(order) == (144 if "GEGLU" in classes else 128)
    path = write(tmp_path / "x.safetensors", tensors, unet=classes)
    adapter = read_adapter(path).adapter
    assert [key.path for key in adapter.layers] == order
    for index, factors in enumerate(adapter.layers.values()):
        up, down = tensors[f"unet:{index}:up"], tensors[f"unet:{index}:down"]
        torch.testing.assert_close(factors.delta(), up @ down)
    found = describe(path)
    assert (found.format, found.kind, found.arch, found.rank) == ("legacy", "lora", "sd15", 2)


def test_text_encoder_and_embeddings(tmp_path: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=9, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2,
    )  # fmt: skip
    model = CLIPTextModel(config)
    tensors, order = numbered("text_encoder", model, {"CLIPAttention"})
    assert len(order) == 8
    tensors["<s1>"] = torch.ones(768)
    path = write(tmp_path / "x.safetensors", tensors, text_encoder={"CLIPAttention"})
    read = read_adapter(path)
    assert [key.path for key in read.adapter.layers] == order
    assert read.embeddings.keys() == {"<s1>"}
    out = tmp_path / "y.safetensors"
    save_adapter(read.adapter, out, embeddings=read.embeddings)
    again = read_adapter(out)
    assert again.embeddings.keys() == {"bundle_emb.s1.string_to_param.*"}
    assert not any(name.startswith("text_encoder") for name in again.adapter.metadata)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"unet:0:up": None}, "has no 'unet:0:up'"),
        ({"unet:500:up": torch.ones(2, 2), "unet:500:down": torch.ones(2, 2)}, "145 UNet layers"),
        ({"unet:3:mid": torch.ones(2, 2)}, "'unet:3:mid' are not named like the others"),
        ({"unet:4:up": torch.ones(7, 2)}, "is a feed-forward"),
    ],
)
def test_other_numbers_are_refused(
    tmp_path: Path, change: dict[str, Tensor | None], cause: str
) -> None:
    tensors, _ = numbered("unet", unet_of(OldBlock), UNET_CLASSES)
    changed = {name: t for name, t in (tensors | change).items() if t is not None}
    with pytest.raises(AdapterFileError, match=cause):
        read_adapter(write(tmp_path / "x.safetensors", changed, unet=UNET_CLASSES))


def test_other_classes_are_refused(tmp_path: Path) -> None:
    tensors, _ = numbered("unet", unet_of(OldBlock), UNET_CLASSES)
    path = write(tmp_path / "x.safetensors", tensors, unet=UNET_CLASSES | {"ResnetBlock2D"})
    with pytest.raises(AdapterFileError, match="modules of 'ResnetBlock2D'"):
        read_adapter(path)
