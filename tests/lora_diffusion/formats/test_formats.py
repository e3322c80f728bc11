"""`load_adapter` and `save_adapter`: the golden file, round trips, and other tools' files."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lora_diffusion
from lora_diffusion.adapter import AdapterFile
from lora_diffusion.errors import AdapterFileError, InputError
from lora_diffusion.factors import LoRAFactors
from lora_diffusion.formats import TrainingFacts, load_adapter, read_adapter, save_adapter
from lora_diffusion.formats.header import read_header
from lora_diffusion.formats.metadata import SPEC_KEY, facts_from_metadata
from lora_diffusion.keys import LayerKey

Write = Callable[..., Path]
GOLDEN = Path(__file__).parent / "golden" / "kohya_small.json"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def golden_adapter() -> AdapterFile:
    """Numbers that every machine and version computes alike."""

    def steps(*shape: int) -> torch.Tensor:
        count = int(torch.tensor(shape).prod())
        return (torch.arange(count) % 17 - 8).reshape(shape) / 16

    names = {
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v": (2, 768, 8, ()),
        "up_blocks.1.attentions.2.proj_out": (2, 8, 8, (1, 1)),
        "up_blocks.1.upsamplers.0.conv": (1, 4, 4, (3, 3)),
    }
    layers = {
        LayerKey("unet", path): LoRAFactors(
            steps(rank, inputs, *kernel), steps(outputs, rank, *(1 for _ in kernel)), 0.5 * rank
        )
        for path, (rank, inputs, outputs, kernel) in names.items()
    }
    text = LayerKey("text_encoder", "text_model.encoder.layers.3.self_attn.out_proj")
    layers[text] = LoRAFactors(steps(2, 6), steps(6, 2), 2.0)
    return AdapterFile("sd15", layers)


def test_the_golden_file_byte_for_byte(tmp_path: Path) -> None:
    """Fails when the bytes we write change: then other tools must be tried again."""
    path = tmp_path / "golden.safetensors"
    facts = TrainingFacts(title="golden", base="demo_base", trigger_words=("qzx",), seed=1)
    save_adapter(golden_adapter(), path, dtype="fp16", facts=facts)
    header = read_header(path)
    expected = json.loads(GOLDEN.read_text())
    found = {name: [entry.dtype, list(entry.shape)] for name, entry in header.tensors.items()}
    assert found == expected["tensors"]
    assert list(found) == list(expected["tensors"])
    assert header.metadata["sshs_model_hash"] == expected["model_hash"]
    assert sorted(header.metadata) == expected["metadata_keys"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == expected["sha256"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_save_then_load(tmp_path: Path, adapter: AdapterFile, dtype: str) -> None:
    path = tmp_path / "new folder" / "x.safetensors"
    save_adapter(adapter, path, dtype=dtype)
    back = read_adapter(path)
    assert back.notes == ()
    assert back.adapter.modules_by_part() == {"unet": 3, "text_encoder": 1}
    for key, factors in adapter.layers.items():
        assert torch.equal(factors.down.to(DTYPES[dtype]), back.adapter.layers[key].down)
        assert torch.equal(factors.up.to(DTYPES[dtype]), back.adapter.layers[key].up)
        assert factors.alpha == back.adapter.layers[key].alpha
    again = tmp_path / "again.safetensors"
    save_adapter(back.adapter, again, dtype=dtype)
    assert load_file(again).keys() == load_file(path).keys()
    assert (
        read_header(again).metadata["sshs_model_hash"]
        == read_header(path).metadata["sshs_model_hash"]
    )


def test_the_public_name() -> None:
    assert lora_diffusion.load is load_adapter


def test_facts_are_completed_and_come_back(tmp_path: Path, adapter: AdapterFile) -> None:
    path = tmp_path / "my.style.safetensors"
    save_adapter(adapter, path, dtype="bf16", facts=TrainingFacts(seed=3))
    metadata = load_adapter(path).metadata
    facts = facts_from_metadata(metadata)
    assert facts == TrainingFacts(
        seed=3, title="my.style", kind="locon", rank=4, alpha=2.0, dtype="bf16"
    )
    assert metadata["ss_output_name"] == "my.style"
    assert metadata["ss_network_dim"] == "4"


def test_saving_again_keeps_what_was_told(tmp_path: Path, adapter: AdapterFile) -> None:
    path = tmp_path / "x.safetensors"
    told = TrainingFacts(title="Quill", seed=3, trigger_words=("qzx",), rank=99)
    save_adapter(replace(adapter, metadata={"mine": "kept"}), path, facts=told)
    save_adapter(load_adapter(path), path, dtype="fp32")
    metadata = load_adapter(path).metadata
    assert metadata["mine"] == "kept"
    assert facts_from_metadata(metadata) == replace(told, kind="locon", alpha=2.0, dtype="fp32")


def test_another_tools_metadata_is_only_filled_in(tmp_path: Path, adapter: AdapterFile) -> None:
    theirs = {"ss_output_name": "theirs", "ss_base_model_version": "sd_v2_v", "ss_v2": "True"}
    path = tmp_path / "x.safetensors"
    save_adapter(replace(adapter, metadata=theirs), path)
    metadata = load_adapter(path).metadata
    assert theirs.items() <= metadata.items()
    assert metadata["ss_network_module"] == "networks.lora"
    assert SPEC_KEY not in metadata


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"format": "legacy"}, "isn't written"),
        ({"embeddings": {"x": torch.ones(1)}, "format": "diffusers"}, "cannot hold embeddings"),
        ({"dtype": "int8"}, "isn't written"),
        ({"facts": TrainingFacts(arch="sdxl")}, "is for sd15, and the facts"),
        ({"facts": TrainingFacts(prediction="sample")}, "unknown"),
    ],
)
def test_save_refuses_unknown_settings(
    tmp_path: Path, adapter: AdapterFile, change: dict[str, object], cause: str
) -> None:
    with pytest.raises(InputError, match=cause):
        save_adapter(adapter, tmp_path / "x.safetensors", **change)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_save_refuses_an_adapter_without_layers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no layers"):
        save_adapter(AdapterFile("sd15", {}), tmp_path / "x.safetensors")


OTHERS = {
    "diffusers": (["unet.no.such.to_q.lora_A.weight"], "'unet.no.such.to_q.lora_A.weight' belong"),
    "old diffusers": (
        ["unet.x.processor.to_q_lora.down.weight"],
        "'unet.x.proc.*belong to no",
    ),
    "peft": (["base_model.model.x.to_q.lora_A.weight"], "no adapter_config.json beside it"),
    "lycoris": (["lycoris_no_such.lora_up.weight"], "'lycoris_no_such.lora_up.weight' belong to"),
    "lycoris lokr": (["lycoris_unet_x.lokr_w1"], "belong to no layer"),
    "legacy": (["unet:0:up", "unet:0:down"], "1 UNet layers"),
    "half a loha": (["lora_unet_mid_block_resnets_0_conv1.hada_w1_a"], "has no hada_w1_b"),
    "half a lokr": (["lora_unet_mid_block_resnets_0_conv1.lokr_w1"], "has no lokr_w2_a"),
    "biases": (["lora_unet_mid_block_resnets_0_conv1.diff_b"], "biases .* aren't"),
    "norms": (["lora_unet_mid_block_resnets_0_norm1.w_norm"], "no tensors|unknown kind|no layer"),
    "oft": (["lora_unet_x.oft_blocks"], "OFT"),
    "glora": (["lora_unet_x.a1.weight", "lora_unet_x.b2.weight"], "GLoRA"),
    "sdxl, half a layer": (["lora_unet_input_blocks_4_1_proj_in.lora_down.weight"], "has no up"),
    "control lora": (["lora_te2_x.lora_up.weight"], "belong to no layer of a Stable Diffusion"),
    "flux diffusers": (["transformer.x.attn.to_q.lora_A.weight"], "other than Stable"),
    "flux": (["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"], "other than Stable"),
    "ldm checkpoint": (["model.diffusion_model.input_blocks.0.0.weight"], "a full checkpoint"),
    "diffusers unet": (["down_blocks.0.resnets.0.conv1.weight"], "a full checkpoint"),
    "text encoder": (["text_model.encoder.layers.0.mlp.fc1.weight"], "a full checkpoint"),
    "vae": (["encoder.conv_in.weight"], "a full checkpoint"),
    "embedding": (["emb_params"], "textual-inversion"),
    "embedding sdxl": (["clip_l", "clip_g"], "textual-inversion"),
    "unknown": (["something.else"], "none of its tensors"),
}


@pytest.mark.parametrize(("names", "what"), OTHERS.values(), ids=OTHERS.keys())
def test_other_files_are_named_for_what_they_are(
    shaped_file: Write, names: list[str], what: str
) -> None:
    path = shaped_file({name: ("F32", [4, 4]) for name in names})
    with pytest.raises(AdapterFileError, match=what) as caught:
        load_adapter(path)
    assert str(caught.value).startswith("it.safetensors: ")


def test_identifying_hostile_names_is_quick(shaped_file: Write) -> None:
    names = {f"{'.lora'.ljust(370, 'l')}{i:06}": ("U8", []) for i in range(15_000)}
    path = shaped_file(names)
    started = time.perf_counter()
    with pytest.raises(AdapterFileError, match="none of its tensors"):
        load_adapter(path)
    assert time.perf_counter() - started < 10


def test_nan_in_a_file_is_refused(tmp_path: Path) -> None:
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    path = tmp_path / "x.safetensors"
    weight = torch.ones(2, 2)
    weight[1, 1] = torch.nan
    tensors = {f"{stem}.lora_up.weight": torch.ones(2, 2), f"{stem}.lora_down.weight": weight}
    save_file(tensors, path)
    with pytest.raises(AdapterFileError, match=r"lora_down\.weight' holds NaN"):
        load_adapter(path)
