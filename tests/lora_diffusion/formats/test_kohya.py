"""The kohya codec: round trips, refusals, and an independent reading of the same file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.errors import AdapterFileError, InputError
from lora_diffusion.factors import LoRAFactors
from lora_diffusion.formats import decoding, encoding, save_adapter
from lora_diffusion.formats.decoding import Decoded
from lora_diffusion.formats.layer_names import by_flat_name
from lora_diffusion.formats.reading import lay_out_spelled, spell
from lora_diffusion.keys import LayerKey, live_modules

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def encode(adapter: AdapterFile, dtype: torch.dtype) -> dict[str, Tensor]:
    return encoding.encode(adapter, dtype, "kohya").pieces[""]


def decode(
    tensors: dict[str, Tensor],
    metadata: dict[str, str] | None = None,
    *,
    base_shapes: dict[LayerKey, tuple[int, ...]] | None = None,
    source: str = "adapter",
) -> Decoded:
    metadata = metadata or {}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    spelling = spell("kohya", source, shapes, metadata)
    laid = lay_out_spelled(source, shapes, spelling, metadata, base_shapes=base_shapes)
    return decoding.decode(tensors, laid, metadata, source=source)


def assert_equal(left: AdapterFile, right: AdapterFile, dtype: torch.dtype) -> None:
    assert set(left.layers) == set(right.layers)
    for key, factors in left.layers.items():
        other = right.layers[key]
        assert torch.equal(factors.down.to(dtype), other.down)
        assert torch.equal(factors.up.to(dtype), other.up)
        assert torch.tensor(factors.alpha, dtype=dtype).item() == other.alpha


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
def test_decode_inverts_encode(adapter: AdapterFile, dtype: torch.dtype) -> None:
    back = decode(encode(adapter, dtype), {})
    assert_equal(adapter, back.adapter, dtype)
    assert back.adapter.arch == "sd15"
    assert back.notes == ()


_PARTS = ("unet", "text_encoder")
_ALL_KEYS = sorted(key for part in _PARTS for key in by_flat_name(part).values())
_KEYS = st.sampled_from([key for key in _ALL_KEYS if "add_embedding" not in key.path])  # SDXL's


@settings(max_examples=60, deadline=None)
@given(
    layers=st.dictionaries(
        _KEYS,
        st.tuples(
            st.integers(1, 6),
            st.integers(1, 9),
            st.integers(1, 9),
            st.sampled_from([(), (1, 1), (3, 3)]),
            st.floats(0.015625, 64, width=32),
            st.integers(0, 1 << 30),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_adapter_survives_in_fp32(
    layers: dict[LayerKey, tuple[int, int, int, tuple[int, ...], float, int]],
) -> None:
    built = {}
    for key, (rank, inputs, outputs, kernel, alpha, seed) in layers.items():
        generator = torch.Generator().manual_seed(seed)
        built[key] = LoRAFactors(
            torch.randn(rank, inputs, *kernel, generator=generator),
            torch.randn(outputs, rank, *(1 for _ in kernel), generator=generator),
            alpha,
        )
    adapter = AdapterFile("sd15", built)
    back = decode(encode(adapter, torch.float32), {}).adapter
    assert_equal(adapter, back, torch.float32)
    for key, factors in built.items():
        assert torch.equal(factors.delta(), back.layers[key].delta())


def test_alpha_is_a_scalar_in_the_dtype_of_the_weights(adapter: AdapterFile) -> None:
    tensors = encode(adapter, torch.float16)
    alphas = [t for name, t in tensors.items() if name.endswith(".alpha")]
    assert len(alphas) == len(adapter.layers)
    assert {(a.shape, a.dtype) for a in alphas} == {(torch.Size([]), torch.float16)}
    assert {t.dtype for t in tensors.values()} == {torch.float16}


def test_encoded_tensors_share_no_memory_with_the_adapter(adapter: AdapterFile) -> None:
    factors = next(iter(adapter.layers.values()))
    before = encode(adapter, torch.float32)[f"{STEM}.lora_down.weight"].clone()
    encoded = encode(adapter, torch.float32)[f"{STEM}.lora_down.weight"]
    factors.down.zero_()
    assert torch.equal(encoded, before)


def one(down: Tensor, up: Tensor, alpha: float = 1.0) -> AdapterFile:
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    return AdapterFile("sd15", {LayerKey("unet", path): LoRAFactors(down, up, alpha)})


@pytest.mark.parametrize(
    ("adapter", "cause"),
    [
        (one(torch.full((1, 2), math.nan), torch.ones(2, 1)), "NaN"),
        (one(torch.full((1, 2), math.inf), torch.ones(2, 1)), "NaN"),
        (one(torch.full((1, 2), 1e6), torch.ones(2, 1)), "cannot hold"),
        (one(torch.ones(1, 2), torch.ones(2, 1), alpha=1e6), "cannot hold"),
        (one(torch.ones(1, 2), torch.ones(2, 1), alpha=1e-9), "cannot hold"),
        (one(torch.ones(1, 2), torch.ones(2, 1), alpha=0), "above 0"),
        (one(torch.ones(1, 2), torch.ones(2, 1), alpha=math.nan), "NaN"),
        (AdapterFile("sd15", {LayerKey("unet", "no.such"):
                              LoRAFactors(*[torch.ones(1, 1)] * 2, 1)}),
         "unet.no.such"),
        (AdapterFile("sd15", {LayerKey("text_encoder_2", "text_model.encoder.layers.0.mlp.fc1"):
                              LoRAFactors(*[torch.ones(1, 1)] * 2, 1)}), "text_encoder_2"),
    ],
)  # fmt: skip
def test_encode_refuses_what_the_file_could_not_say(adapter: AdapterFile, cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        encode(adapter, torch.float16)


def good() -> dict[str, Tensor]:
    return {
        f"{STEM}.lora_down.weight": torch.ones(4, 768),
        f"{STEM}.lora_up.weight": torch.ones(32, 4),
        f"{STEM}.alpha": torch.tensor(4.0),
    }


DOWN, UP, ALPHA = good()


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({ALPHA: torch.tensor(0.0)}, "alpha of .* is 0 at rank 4"),
        ({ALPHA: torch.tensor(-4.0)}, "alpha of .* is -4"),
        ({ALPHA: torch.tensor(math.nan)}, "alpha of .* is nan"),
        ({ALPHA: torch.tensor(math.inf)}, "alpha of .* is inf"),
        ({ALPHA: torch.tensor(1e9)}, "absurd multiple"),
        ({ALPHA: torch.ones(2)}, "not one number"),
        ({UP: torch.ones(32, 5)}, "disagree about the rank: 4 and 5"),
        ({UP: torch.ones(32, 4, 1, 1)}, "not LoRA's"),
        ({DOWN: torch.ones(4, 8, 3), UP: torch.ones(32, 4, 1)}, "not LoRA's"),
        ({DOWN: torch.ones(4, 8, 3, 3), UP: torch.ones(32, 4, 3, 3)}, "not LoRA's"),
        ({DOWN: torch.tensor(1.0), UP: torch.tensor(1.0)}, "not LoRA's"),
        ({DOWN: None}, "has no down factor"),
        ({UP: None}, "has no up factor"),
        ({DOWN: torch.ones(4, 768, dtype=torch.int32)}, "not floating-point"),
        ({f"{STEM}.hada_w1_a": torch.ones(1)}, "hada_w1_a"),
        ({f"{STEM}.lokr_w2": torch.ones(1)}, "lokr_w2"),
        ({f"{STEM}.dora_scale": torch.ones(1)}, "DoRA magnitude .* fits neither axis"),
        ({f"{STEM}.lora_mid.weight": torch.ones(1)}, "not Tucker's form"),
        ({f"{STEM}.lora_mid.weight": torch.ones(4, 4, 3, 3)}, "not Tucker's form"),
        ({f"{STEM}.bias": torch.ones(1)}, "bias"),
        ({"lora_unet_no_such_layer.alpha": torch.ones(1)}, "lora_unet_no_such_layer"),
        ({"stray": torch.ones(1)}, "'stray'"),
        (dict.fromkeys((DOWN, UP, ALPHA)), "no tensors"),
    ],
)
def test_decode_refuses_by_name_and_cause(change: dict[str, Tensor | None], cause: str) -> None:
    tensors = {name: t for name, t in (good() | change).items() if t is not None}
    with pytest.raises(AdapterFileError, match=cause) as caught:
        decode(tensors, {}, source="some/dir/it.safetensors")
    assert str(caught.value).startswith("it.safetensors: ")


def test_missing_alpha_counts_as_the_rank_and_is_noted() -> None:
    tensors = good()
    del tensors[ALPHA]
    decoded = decode(tensors, {})
    (factors,) = decoded.adapter.layers.values()
    assert factors.alpha == 4
    assert decoded.notes == ("1 of 1 layers state no alpha; it counts as their rank there.",)


def test_alpha_may_be_an_integer_or_a_vector_of_one() -> None:
    for alpha in (torch.tensor(3), torch.tensor([3.0])):
        decoded = decode(good() | {ALPHA: alpha}, {})
        (factors,) = decoded.adapter.layers.values()
        assert factors.alpha == 3.0


@pytest.mark.parametrize(
    ("width", "metadata", "arch", "noted"),
    [
        (768, {"ss_v2": "True"}, "sd15", True),
        (1024, {}, "sd21", False),
        (64, {"modelspec.architecture": "stable-diffusion-v2-512/lora"}, "sd21", False),
        (64, {"ss_base_model_version": "sd_v1"}, "sd15", False),
        (64, {}, "sd15", True),
    ],
)
def test_arch_comes_from_shapes_then_metadata(
    width: int, metadata: dict[str, str], arch: str, noted: bool
) -> None:
    decoded = decode(good() | {DOWN: torch.ones(4, width)}, metadata)
    assert decoded.adapter.arch == arch
    assert bool(decoded.notes) == noted


def test_a_base_turns_linear_into_convolution_and_back() -> None:
    stem = "lora_unet_down_blocks_0_attentions_0_proj_in"
    key = LayerKey("unet", "down_blocks.0.attentions.0.proj_in")
    linear = {
        f"{stem}.lora_down.weight": torch.ones(2, 8),
        f"{stem}.lora_up.weight": torch.ones(8, 2),
    }
    conv = {name: tensor[..., None, None] for name, tensor in linear.items()}
    for tensors in (linear, conv):
        for shape in ((8, 8), (8, 8, 1, 1)):
            decoded = decode(tensors, {}, base_shapes={key: shape})
            assert decoded.adapter.layers[key].delta().shape == shape
    with pytest.raises(AdapterFileError, match="made for a weight of shape"):
        decode(linear, {}, base_shapes={key: (8, 8, 3, 3)})
    with pytest.raises(AdapterFileError, match="the base has no layer"):
        decode(linear, {}, base_shapes={})


def independent_deltas(path: Path, parts: dict[str, nn.Module]) -> dict[nn.Module, Tensor]:
    """The naming rules read the way other tools do: model modules -> names -> tensors.

    Each module's name is its dotted path with underscores; CLIP paths contain `text_model`.
    """
    state = load_file(path)
    deltas = {}
    for prefix, model in parts.items():
        for module_path, module in model.named_modules():
            if prefix == "lora_te" and not module_path.startswith("text_model"):
                module_path = f"text_model.{module_path}"
            name = f"{prefix}_{module_path.replace('.', '_')}"
            down = state.pop(f"{name}.lora_down.weight", None)
            if down is None:
                continue
            up = state.pop(f"{name}.lora_up.weight")
            scale = state.pop(f"{name}.alpha").item() / down.shape[0]
            if down.dim() == 4:
                deltas[module] = scale * torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down)
            else:
                deltas[module] = scale * torch.einsum("or,ri->oi", up, down)
    assert not state, f"names that no module answers to: {list(state)}"
    return deltas


def test_an_independent_reader_finds_the_same_deltas(tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            vocab_size=100,
        )
    )  # fmt: skip
    modules = {
        key: module
        for key, module in live_modules({"unet": unet, "text_encoder": text}).items()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for index, (key, module) in enumerate(modules.items()):
        shape = module.weight.shape
        layers[key] = LoRAFactors(
            torch.randn(3, *shape[1:], generator=generator),
            torch.randn(shape[0], 3, *(1 for _ in shape[2:]), generator=generator),
            alpha=1 + index % 5,
        )
    adapter = AdapterFile("sd15", layers)
    path = tmp_path / "all.safetensors"
    save_adapter(adapter, path, dtype="fp32")
    deltas = independent_deltas(path, {"lora_unet": unet, "lora_te": text})
    assert len(deltas) == len(modules) > 80
    for key, module in modules.items():
        expected = layers[key].delta()
        assert deltas[module].shape == module.weight.shape == expected.shape
        torch.testing.assert_close(deltas[module], expected, rtol=1e-5, atol=1e-5)


def test_text_encoder_names_keep_the_level_transformers_dropped(adapter: AdapterFile) -> None:
    names = encode(adapter, torch.float32)
    assert "lora_te_text_model_encoder_layers_11_mlp_fc1.lora_up.weight" in names


def test_tuckers_form_is_read_as_the_same_update() -> None:
    stem = "lora_unet_mid_block_resnets_0_conv1"
    generator = torch.Generator().manual_seed(0)
    down, core, up = (
        torch.randn(shape, generator=generator)
        for shape in ((3, 6, 1, 1), (3, 3, 3, 3), (5, 3, 1, 1))
    )
    tensors = {
        f"{stem}.lora_down.weight": down,
        f"{stem}.lora_mid.weight": core,
        f"{stem}.lora_up.weight": up,
        f"{stem}.alpha": torch.tensor(1.5),
    }
    decoded = decode(tensors)
    assert decoded.notes[0].startswith("1 layers are in Tucker's form")
    (factors,) = decoded.adapter.layers.values()
    assert factors.weight_shape == (5, 6, 3, 3)
    picture = torch.randn(1, 6, 8, 8, generator=generator)
    conv = torch.nn.functional.conv2d
    expected = 0.5 * conv(conv(conv(picture, down), core, padding=1), up)
    torch.testing.assert_close(
        conv(picture, factors.delta(), padding=1), expected, rtol=1e-4, atol=1e-4
    )
    for wrong in (torch.ones(3, 2, 3, 3), torch.ones(3, 3), torch.ones(2, 2, 3, 3)):
        with pytest.raises(AdapterFileError, match="not Tucker's form"):
            decode(tensors | {f"{stem}.lora_mid.weight": wrong})
