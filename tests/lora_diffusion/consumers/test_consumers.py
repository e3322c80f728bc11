"""What each program is known to do with a file, on layers of the published models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lora_diffusion.base_layers import true_size
from lora_diffusion.consumers import CONSUMERS, Portability, Report, of_base, verify
from lora_diffusion.formats.kohya_names import kohya_stem
from lora_diffusion.keys import LayerKey
from tests.lora_diffusion.consumers.files import dotted, kohya, saved, sdxl_name, target_of
from tests.lora_diffusion.families import other_models, sd15_models
from tests.lora_diffusion.families.other_models import make_sd21, make_sdxl

ALL = frozenset(CONSUMERS)
PATCHERS = frozenset({"a1111-forge", "comfyui", "invokeai"})
BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0"
TO_K = LayerKey("unet", f"{BLOCK}.attn2.to_k")
TO_Q = LayerKey("unet", f"{BLOCK}.attn1.to_q")
FF = LayerKey("unet", f"{BLOCK}.ff.net.2")
CONV = LayerKey("unet", "down_blocks.1.resnets.0.conv1")
UP = LayerKey("unet", "up_blocks.0.upsamplers.0.conv")
TIME = LayerKey("unet", "down_blocks.1.resnets.0.time_emb_proj")
CONV_IN = LayerKey("unet", "conv_in")


def clip(leaf: str, part: str = "text_encoder") -> LayerKey:
    return LayerKey(part, f"text_model.encoder.layers.0.{leaf}")


SELF = [clip(f"self_attn.{leaf}_proj") for leaf in ("q", "k", "v", "out")]
SELF_2 = [clip(f"self_attn.{leaf}_proj", "text_encoder_2") for leaf in ("q", "k", "v", "out")]
USUAL = [TO_K, TO_Q, FF, *SELF, clip("mlp.fc1")]


def tensors_of(
    arch: str, keys: Iterable[LayerKey], name: Callable[[LayerKey], str] | None = None
) -> dict[str, Tensor]:
    """A LoRA under kohya's names, rank 4, alpha 2."""
    return kohya(keys, true_size(arch), name or (lambda key: str(kohya_stem(key, arch))))


def verified(tensors: Mapping[str, Tensor], folder: Path, arch: str = "") -> Portability:
    version = {"": "", "sd15": "sd_v1", "sd21": "sd_v2", "sdxl": "sdxl_base_v1-0"}[arch]
    return verify(saved(tensors, folder / "x.safetensors", {"ss_base_model_version": version}))


def report(found: Portability, name: str) -> Report:
    return found.reports[name]


@pytest.mark.parametrize("arch", ["sd15", "sd21", "sdxl"])
def test_a_plain_file_is_portable(tmp_path: Path, arch: str) -> None:
    keys = [*USUAL, CONV, UP, TIME, *(SELF_2 if arch == "sdxl" else [])]
    found = verified(tensors_of(arch, keys), tmp_path)
    assert found.portable
    assert frozenset(found.readers) == ALL
    assert (found.arch, found.notes) == (arch, ())
    for each in found.reports.values():
        assert (each.consumed, each.total, each.delta) == (3 * len(keys), 3 * len(keys), "equal")


def with_scale(axis: int) -> dict[str, Tensor]:
    tensors = tensors_of("sd15", USUAL)
    for key in USUAL:
        outputs, inputs = true_size("sd15")[key]
        shape = (1, inputs) if axis else (outputs, 1)
        tensors[f"{kohya_stem(key, 'sd15')}.dora_scale"] = torch.ones(shape)
    return tensors


def test_dora_per_input_is_right_in_three_and_ignored_in_two(tmp_path: Path) -> None:
    found = verified(with_scale(1), tmp_path)
    assert frozenset(found.readers) == PATCHERS
    for name in ("diffusers", "sd-scripts"):
        each = report(found, name)
        assert each.consumed == each.total - len(USUAL)
        assert len(each.wrong) == len(USUAL)
        assert "plain LoRA" in each.delta
    assert "No DoRA file works in all five" in found.notes[0]


def test_dora_per_output_is_right_in_none(tmp_path: Path) -> None:
    found = verified(with_scale(0), tmp_path)
    assert found.readers == ()
    for name, cause in (("comfyui", "norm of W"), ("invokeai", "norms of inputs"),
                        ("a1111-forge", "norm of W")):  # fmt: skip
        assert report(found, name).consumed == report(found, name).total
        assert cause in report(found, name).delta


def test_sdxl_under_diffusers_names(tmp_path: Path) -> None:
    found = verified(tensors_of("sdxl", [TO_K, TO_Q, FF, CONV], sdxl_name), tmp_path)
    assert found.portable
    found = verified(tensors_of("sdxl", [TO_K, UP], sdxl_name), tmp_path)
    assert frozenset(found.readers) == ALL - {"a1111-forge"}  # A1111 counts that layer as SD 1's
    assert report(found, "a1111-forge").consumed == 3


def test_mixed_names_of_sdxl(tmp_path: Path) -> None:
    tensors = tensors_of("sdxl", [TO_K, TO_Q]) | tensors_of("sdxl", [FF], sdxl_name)
    found = verified(tensors, tmp_path)
    assert report(found, "diffusers").consumed == 3
    assert "drops the UNet's original names" in report(found, "diffusers").reasons[0]
    assert report(found, "invokeai").consumed == 0
    assert "mixes" in report(found, "invokeai").reasons[0]
    assert report(found, "comfyui").reads_it


def test_text_encoder_of_sdxl_under_sd1s_name(tmp_path: Path) -> None:
    def name(key: LayerKey) -> str:
        return sdxl_name(key).replace("lora_te1_", "lora_te_")

    found = verified(tensors_of("sdxl", [TO_K, *SELF], name), tmp_path)
    assert report(found, "invokeai").consumed == 0  # takes it for SD 1's by the first key
    assert report(found, "sd-scripts").consumed == 3
    assert report(found, "a1111-forge").consumed == 3
    assert report(found, "comfyui").reads_it


def test_text_encoder_of_sd1_under_sdxls_name(tmp_path: Path) -> None:
    found = verified(tensors_of("sd15", [TO_K, *SELF], sdxl_name), tmp_path)
    assert frozenset(found.readers) == {"diffusers", "a1111-forge", "comfyui"}


def test_attention_of_open_clip_in_part(tmp_path: Path) -> None:
    """A1111 patches q, k and v of OpenCLIP's one tensor together or not at all."""
    found = verified(tensors_of("sdxl", [TO_K, *SELF, *SELF_2[:3]]), tmp_path)
    assert report(found, "a1111-forge").consumed == 15
    assert "diffusers" not in found.readers  # for want of out_proj
    assert {"comfyui", "invokeai", "sd-scripts"} <= set(found.readers)


def test_missing_alpha_is_a_scale_of_one_but_in_diffusers(tmp_path: Path) -> None:
    tensors = tensors_of("sd15", USUAL)
    del tensors[f"{kohya_stem(TO_Q, 'sd15')}.alpha"]
    found = verified(tensors, tmp_path)
    assert frozenset(found.readers) == ALL - {"diffusers"}
    assert list(report(found, "diffusers").wrong) == [kohya_stem(TO_Q, "sd15")]


def test_diffusers_form_lacks_attention_in_comfy(tmp_path: Path) -> None:
    found = verified(dotted([TO_K, TO_Q, FF, *SELF], true_size("sd15")), tmp_path)
    assert found.readers == ("diffusers",)
    assert report(found, "comfyui").consumed == 10
    assert "processor.to_q" in report(found, "comfyui").reasons[0]
    for name in ("invokeai", "sd-scripts", "a1111-forge"):
        assert report(found, name).consumed == 0


def test_alpha_in_the_metadata_only(tmp_path: Path) -> None:
    """diffusers keeps PEFT's configuration there, and no other program looks."""
    config = '{"unet.r": 4, "unet.lora_alpha": 2, "unet.peft_type": "LORA"}'
    path = saved(dotted([FF], true_size("sd15")), tmp_path / "x.safetensors",
                 {"lora_adapter_metadata": config, "ss_v2": "False",
                  "ss_base_model_version": "sd_v1"})  # fmt: skip
    found = verify(path)
    assert report(found, "diffusers").reads_it
    assert "scale is taken for 1" in report(found, "comfyui").delta


def test_lycoris_prefix(tmp_path: Path) -> None:
    def name(key: LayerKey) -> str:
        return "lycoris_" + key.path.replace(".", "_")

    found = verified(tensors_of("sd15", [TO_K, TO_Q, FF], name), tmp_path)
    assert found.readers == ("comfyui",)  # Forge too, A1111 not
    assert "A1111" in report(found, "a1111-forge").reasons[0]


def test_peft_is_read_by_nobody(tmp_path: Path) -> None:
    tensors = {f"base_model.model.{name.removeprefix('unet.')}": tensor
               for name, tensor in dotted([TO_K, TO_Q], true_size("sd15")).items()}  # fmt: skip
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 4}')
    found = verify(saved(tensors, tmp_path / "adapter_model.safetensors"))
    assert all(each.consumed == 0 for each in found.reports.values())


@pytest.mark.parametrize(
    ("keys", "arch", "readable"),
    [
        ([TO_Q], "sd15", False),  # no width of text features anywhere
        ([TO_Q], "sdxl", False),
        ([TO_Q, *SELF[:1]], "sd15", True),
        ([LayerKey("unet", TO_Q.path.replace("down_blocks.1", "down_blocks.2")
                   .replace("blocks.0.attn", "blocks.5.attn"))], "sdxl", True),  # its depth
        ([TIME], "sd15", False),  # 1280 wide, which it takes for SDXL's
    ],
)  # fmt: skip
def test_what_invokeai_recognises(
    tmp_path: Path, keys: list[LayerKey], arch: str, readable: bool
) -> None:
    found = verified(tensors_of(arch, keys), tmp_path, arch)
    assert report(found, "invokeai").reads_it == readable
    assert report(found, "comfyui").reads_it


def loha(shape: tuple[int, ...]) -> dict[str, Tensor]:
    outputs, inputs = shape
    sides = {"a": (outputs, 2), "b": (2, inputs)}
    return {f"hada_w{i}_{x}": torch.ones(sides[x]) for i in (1, 2) for x in "ab"}


def lokr(shape: tuple[int, ...]) -> dict[str, Tensor]:
    outputs, inputs = shape
    return {"lokr_w1": torch.ones(4, 4), "lokr_w2": torch.ones(outputs // 4, inputs // 4)}


@pytest.mark.parametrize("make", [loha, lokr])
def test_lycoris_kinds(
    tmp_path: Path, make: Callable[[tuple[int, ...]], dict[str, Tensor]]
) -> None:
    stem = kohya_stem(TO_K, "sd15")
    tensors = {f"{stem}.{leaf}": t for leaf, t in make(true_size("sd15")[TO_K]).items()}
    found = verified(tensors | {f"{stem}.alpha": torch.tensor(1.0)}, tmp_path)
    assert frozenset(found.readers) == PATCHERS
    assert report(found, "diffusers").consumed == report(found, "sd-scripts").consumed == 0
    assert ["works in all five" in note for note in found.notes] == [True]


def test_tucker(tmp_path: Path) -> None:
    tensors = tensors_of("sd15", [TO_K, CONV])
    stem = kohya_stem(CONV, "sd15")
    tensors[f"{stem}.lora_down.weight"] = torch.ones(4, true_size("sd15")[CONV][1], 1, 1)
    tensors[f"{stem}.lora_mid.weight"] = torch.ones(4, 4, 3, 3)
    assert frozenset(verified(tensors, tmp_path).readers) == PATCHERS


def test_embeddings_in_the_file(tmp_path: Path) -> None:
    tensors = tensors_of("sd15", USUAL) | {"bundle_emb.cat.string_to_param.*": torch.ones(2, 768)}
    found = verified(tensors, tmp_path)
    assert report(found, "diffusers").consumed == 0
    for name in ALL - {"diffusers"}:
        assert list(report(found, name).dropped) == ["bundle_emb.cat.string_to_param.*"]


def test_layers_that_sd_scripts_does_not_train(tmp_path: Path) -> None:
    found = verified(tensors_of("sd15", [TO_K, CONV_IN]), tmp_path)
    assert frozenset(found.readers) == ALL - {"sd-scripts"}
    assert report(found, "sd-scripts").consumed == 3


def test_forge_refuses_what_has_too_many_strange_keys(tmp_path: Path) -> None:
    strange = {f"lora_unet_other_{i}.lora_{side}.weight": torch.ones(2, 2)
               for i in range(7) for side in ("up", "down")}  # fmt: skip
    few = dict(list(strange.items())[:4])
    tensors = tensors_of("sd15", USUAL)
    assert report(verified(tensors | few, tmp_path), "a1111-forge").consumed == len(tensors)
    found = verified(tensors | strange, tmp_path)
    assert report(found, "a1111-forge").consumed == 0
    assert report(found, "comfyui").consumed == len(tensors)


def test_a_layer_of_another_size(tmp_path: Path) -> None:
    tensors = tensors_of("sd15", USUAL)
    stem = kohya_stem(TO_Q, "sd15")
    tensors[f"{stem}.lora_up.weight"] = torch.ones(7, 4)
    found = verified(tensors, tmp_path)
    assert found.readers == ()
    for name in PATCHERS:  # it is left out
        assert report(found, name).consumed == len(tensors) - 3
    for name in ALL - PATCHERS:  # PyTorch refuses to copy
        assert report(found, name).consumed == 0


def test_a_base_is_checked_layer_by_layer(tmp_path: Path, demo_base: Path) -> None:
    base = of_base("bundled:demo_base")
    assert base.shapes == of_base(demo_base).shapes
    keys = [key for key in base.shapes if ".attn" in key.path]
    tensors = kohya(keys, base.shapes, lambda key: str(kohya_stem(key, "sd15")))
    path = saved(tensors, tmp_path / "x.safetensors")
    found = verify(path, base)
    assert found.misfits == ()
    assert frozenset(found.readers) == ALL - {"invokeai"}  # knows the base by its true width
    without = verify(path)
    assert "shapes are not checked" in without.notes[-1]
    assert without.readers == found.readers
    stranger = verify(saved(tensors_of("sd15", USUAL), tmp_path / "y.safetensors"), base)
    assert len(stranger.misfits) == len(USUAL)
    assert stranger.readers == ()


@pytest.mark.parametrize("arch", ["sd15", "sd21", "sdxl"])
def test_a_base_in_one_file(tmp_path: Path, arch: str) -> None:
    make = {"sd15": sd15_models.make_models, "sd21": make_sd21, "sdxl": make_sdxl}[arch]
    tensors_in = sd15_models.ldm_tensors if arch == "sd15" else other_models.ldm_tensors
    models = make()
    path = sd15_models.save_checkpoint(tensors_in(models), tmp_path / "tiny.safetensors")
    assert of_base(path).shapes == target_of(models, arch).shapes
