"""The PEFT library as the judge of PEFT's folders, written and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.errors import AdapterFileError
from lora_diffusion.factors import DoRAFactors, LoRAFactors
from lora_diffusion.formats import load_adapter, read_adapter, save_adapter
from lora_diffusion.formats.describe import describe
from lora_diffusion.formats.peft_config import layer_alphas
from lora_diffusion.keys import LayerKey, live_modules
from tests.conftest import make_parts

peft = pytest.importorskip("peft")
TARGETS = r".*(to_q|to_out\.0|ff\.net\.2|proj_in|resnets\.0\.conv1|q_proj|fc1)"


def targets(parts: dict[str, nn.Module]) -> dict[LayerKey, nn.Module]:
    import re

    return {
        key: module
        for key, module in live_modules(parts).items()
        if re.fullmatch(TARGETS, key.path) and isinstance(module, nn.Linear | nn.Conv2d)
    }


def made(modules: dict[LayerKey, nn.Module], *, dora: bool = False) -> dict[LayerKey, LoRAFactors]:
    """Random factors for `modules`, ranks and alphas differing from layer to layer."""
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for index, (key, module) in enumerate(modules.items()):
        weight: Any = module.weight
        rank, ones = 2 + index % 3, (1,) * (weight.dim() - 2)
        low_rank = (
            torch.randn(rank, *weight.shape[1:], generator=generator),
            torch.randn(weight.shape[0], rank, *ones, generator=generator),
            1.5 + index % 4,
        )
        if dora:
            norms = weight.detach().flatten(1).norm(dim=1)
            scale = 0.5 + torch.rand(weight.shape[0], generator=generator)
            layers[key] = DoRAFactors(*low_rank, (norms * scale).reshape(-1, 1, *ones), "out")
        else:
            layers[key] = LoRAFactors(*low_rank)
    return layers


def peft_deltas(part: str, model: nn.Module, wrapped: Any) -> dict[LayerKey, Tensor]:
    """What PEFT adds to each weight, by merging it: the whole truth, DoRA's too."""
    before = {
        key: module.base_layer.weight.detach().clone()  # type: ignore[union-attr, operator]
        for key, module in live_modules({part: model}).items()
        if hasattr(module, "base_layer")
    }
    wrapped.merge_adapter()
    after = live_modules({part: model})
    return {
        key: after[key].base_layer.weight.detach() - weight  # type: ignore[union-attr, operator]
        for key, weight in before.items()
    }


def assert_close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dora", [False, True])
def test_peft_applies_what_we_write(tmp_path: Path, dora: bool) -> None:
    parts = make_parts()
    modules = targets(parts)
    weights = {key: module.weight.detach().clone() for key, module in modules.items()}  # type: ignore[union-attr, operator]
    layers = made(modules, dora=dora)
    folder = tmp_path / "adapter"
    save_adapter(AdapterFile("sd15", layers), folder, format="peft", dtype="fp32")
    assert sorted(p.name for p in folder.iterdir()) == ["text_encoder", "unet"]
    found = {}
    for part, model in parts.items():
        wrapped = peft.PeftModel.from_pretrained(model, str(folder / part))
        found |= peft_deltas(part, model, wrapped)
    assert found.keys() == layers.keys()
    for key, factors in layers.items():
        assert_close(found[key], factors.delta(weights[key]))


@pytest.mark.parametrize("style", ["lora", "patterns", "rslora", "dora"])
def test_we_read_what_peft_writes(tmp_path: Path, style: str) -> None:
    parts = make_parts()
    weights = {key: m.weight.detach().clone() for key, m in targets(parts).items()}  # type: ignore[union-attr, operator]
    settings: dict[str, Any] = {
        "lora": {},
        "patterns": {
            "rank_pattern": {"to_q": 2, "resnets.0.conv1": 5},
            "alpha_pattern": {"to_q": 9, r"attn2\.to_out.0": 1, "^mid_block.*.proj_in": 7},
        },
        "rslora": {"use_rslora": True},
        "dora": {"use_dora": True},
    }[style]
    torch.manual_seed(1)
    wrapped = {}
    for part, model in parts.items():
        config = peft.LoraConfig(
            r=4, lora_alpha=6, target_modules=TARGETS, init_lora_weights=False, **settings
        )
        wrapped[part] = peft.get_peft_model(model, config)
        wrapped[part].save_pretrained(str(tmp_path / part))
    read = read_adapter(tmp_path)
    assert read.adapter.layers.keys() == weights.keys()
    assert len({factors.rank for factors in read.adapter.layers.values()}) == (
        3 if style == "patterns" else 1
    )
    for part, model in parts.items():
        for key, delta in peft_deltas(part, model, wrapped[part]).items():
            assert_close(read.adapter.layers[key].delta(weights[key]), delta)
    one = load_adapter(tmp_path / "unet")
    assert set(one.modules_by_part()) == {"unet"}
    assert describe(tmp_path).format == "peft"


def test_a_folder_of_another_name_is_told_by_its_layers(tmp_path: Path) -> None:
    for part, model in make_parts().items():
        save_adapter(AdapterFile("sd15", made(targets({part: model}))), tmp_path, format="peft")
        renamed = (tmp_path / part).rename(tmp_path / f"my {part[0]}")
        assert set(load_adapter(renamed).modules_by_part()) == {part}
        assert set(load_adapter(renamed / "adapter_model.safetensors").modules_by_part()) == {part}


PATH = "down_blocks.0.attentions.0.proj_in"


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        ({"peft_type": "LOHA"}, "PEFT's 'LOHA'"),
        ({"init_lora_weights": "pissa_niter_4"}, "by changing the base"),
        ({"modules_to_save": ["conv_in"]}, "modules_to_save"),
        ({"lora_alpha": "4"}, "lora_alpha is not a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha is not a number"),
        ({"lora_alpha": 1e9}, "absurd"),
        ({"alpha_pattern": [1]}, "not a table of numbers"),
        ({"alpha_pattern": {"proj_in": "x"}}, "alpha_pattern is not a number"),
        ({"alpha_pattern": {"(a+)+b": 2}}, "kind of expression"),
        ({"alpha_pattern": {"(.|.)" * 30 + "!": 2}}, "kind of expression"),
        ({"alpha_pattern": {"(.|.)" * 30 + "x": 2}}, "kind of expression"),
        ({"alpha_pattern": dict.fromkeys((f".*{i}" for i in range(300)), 2)}, "more than 200"),
        ({"alpha_pattern": {"(proj_in": 2}}, "kind of expression"),
        ({"alpha_pattern": {"x" * 300 + "|y": 2}}, "kind of expression"),
        ("[]", "not a JSON object"),
        ("{", "not a JSON object"),
        (None, "no adapter_config.json beside it"),
    ],
)
def test_bad_configurations_are_refused(tmp_path: Path, config: Any, cause: str) -> None:
    layers = {LayerKey("unet", PATH): LoRAFactors(torch.ones(2, 4), torch.ones(4, 2), 1.0)}
    save_adapter(AdapterFile("sd15", layers), tmp_path, format="peft")
    path = tmp_path / "unet" / "adapter_config.json"
    if config is None:
        path.unlink()
    else:
        good = json.loads(path.read_text())
        path.write_text(config if isinstance(config, str) else json.dumps(good | config))
    with pytest.raises(AdapterFileError, match=cause):
        load_adapter(tmp_path / "unet" / "adapter_model.safetensors")


def test_alphas_follow_pefts_rule() -> None:
    from peft.utils.other import get_pattern_key

    ranks = dict.fromkeys(("a.to_q", "b.to_q", "b.c.to_k", "to_q", "not_to_q"), 4)
    for patterns in (
        {"b.to_q": 1, "to_q": 2, "c.to_k": 3},
        {"to_q": 2, "b.to_q": 1},
        {"^to_q": 1, "^a.to_q$": 2, "c.to_(q|k)": 3},
        {".*to_q": 1, "a.to_q": 2},
        {r"b\.c\.to_k": 1, "o_q": 2},
    ):
        expected = {
            path: float(patterns.get(get_pattern_key(list(patterns), path), 8)) for path in ranks
        }
        assert layer_alphas("x", {"alpha_pattern": patterns}, ranks) == expected, patterns
