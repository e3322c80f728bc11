"""Every dialect: what is written reads back the same, or writing says what it cannot say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_diffusion.adapter import AdapterFile
from lora_diffusion.errors import AdapterFileError, InputError
from lora_diffusion.factors import (
    DoRAFactors,
    Factors,
    FullFactors,
    LoHaFactors,
    LoKrFactors,
    LoRAFactors,
)
from lora_diffusion.formats import FORMATS, decoding, load_adapter, read_adapter, save_adapter
from lora_diffusion.formats.describe import describe
from lora_diffusion.formats.encoding import encode
from lora_diffusion.formats.layer_names import by_flat_name, kernel_of
from lora_diffusion.formats.reading import lay_out_spelled, spell
from lora_diffusion.keys import PARTS, LayerKey

Write = Callable[..., Path]
VERSIONS = {"sd15": "sd_v1", "sd21": "sd_v2_v", "sdxl": "sdxl_base_v1-0"}
TO_K = LayerKey("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k")
TO_V = LayerKey("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v")
CONV = LayerKey("unet", "down_blocks.1.resnets.0.conv1")
TE1 = LayerKey("text_encoder", "text_model.encoder.layers.0.self_attn.q_proj")
TE2 = LayerKey("text_encoder_2", "text_model.encoder.layers.31.mlp.fc1")
SINGLE = tuple(name for name in FORMATS if name != "peft")


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def factors(
    rank: int = 2,
    inputs: int = 6,
    outputs: int = 5,
    kernel: tuple[int, ...] = (),
    alpha: float = 1.0,
    seed: int = 0,
    axis: str | None = None,
) -> LoRAFactors:
    ones = tuple(1 for _ in kernel)
    down = numbers(rank, inputs, *kernel, seed=seed)
    up = numbers(outputs, rank, *ones, seed=seed + 1)
    if axis is None:
        return LoRAFactors(down, up, alpha)
    along = (1, inputs) if axis == "in" else (outputs, 1)
    return DoRAFactors(down, up, alpha, numbers(*along, *ones, seed=seed + 2).abs(), axis)


def adapter_of(arch: str, layers: dict[LayerKey, LoRAFactors]) -> AdapterFile:
    return AdapterFile(arch, layers, {"ss_base_model_version": VERSIONS[arch]})


def assert_same(left: AdapterFile, right: AdapterFile, *, alpha_is_folded: bool = False) -> None:
    assert left.arch == right.arch
    assert left.layers.keys() == right.layers.keys()
    for key, ours in left.layers.items():
        theirs = right.layers[key]
        assert theirs.weight_shape == ours.weight_shape
        assert theirs.kind == ours.kind
        if isinstance(ours, DoRAFactors):
            assert theirs.axis == ours.axis
            assert torch.equal(theirs.magnitude, ours.magnitude)
        if alpha_is_folded:
            ours, theirs = (LoRAFactors(f.down, f.up, f.alpha) for f in (ours, theirs))
            assert theirs.alpha == theirs.rank == ours.rank
            scale = float(ours.delta().abs().max())
            torch.testing.assert_close(theirs.delta(), ours.delta(), rtol=0, atol=1e-6 * scale)
        else:
            assert theirs.alpha == ours.alpha
            mine, others = ours.tensors(), theirs.tensors()
            assert mine.keys() == others.keys()
            assert all(torch.equal(mine[name], others[name]) for name in mine)


def through(adapter: AdapterFile, format: str, dtype: torch.dtype = torch.float32) -> AdapterFile:
    """`adapter` as a file of `format` says it, without the file."""
    tensors = encode(adapter, dtype, format).pieces[""]
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    spelling = spell(format, "x", shapes, adapter.metadata)
    laid = lay_out_spelled("x", shapes, spelling, adapter.metadata)
    return decoding.decode(tensors, laid, adapter.metadata).adapter


_SHAPE = st.tuples(
    st.integers(1, 6), st.integers(2, 9), st.integers(2, 9), st.sampled_from([(), (1, 1), (3, 3)])
)
_LAYER = st.builds(
    lambda shape, alpha, seed, axis: factors(*shape, alpha=alpha, seed=seed, axis=axis),
    _SHAPE,
    st.floats(0.015625, 64, width=32),
    st.integers(0, 1 << 30),
    st.sampled_from([None, "in", "out"]),
)
_SIZES = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))


def loha(size: tuple[int, int, int], kernel: tuple[int, ...], alpha: float) -> LoHaFactors:
    rank, inputs, outputs = size
    w1_a, w2_a = (numbers(outputs, rank, seed=seed) for seed in (1, 2))
    w1_b, w2_b = (numbers(rank, inputs, *kernel, seed=seed) for seed in (3, 4))
    return LoHaFactors(w1_a, w1_b, w2_a, w2_b, alpha)


def lokr(
    size: tuple[int, int, int], kernel: tuple[int, ...], alpha: float, factored: tuple[bool, bool]
) -> LoKrFactors:
    rank, inputs, outputs = size
    w1 = (numbers(2, 3, seed=1),)
    if factored[0]:
        w1 = (numbers(2, rank, seed=1), numbers(rank, 3, seed=2))
    w2 = (numbers(outputs, inputs, *kernel, seed=3),)
    if factored[1]:
        w2 = (numbers(outputs, rank, seed=3), numbers(rank, inputs, *kernel, seed=4))
    made = LoKrFactors(w1, w2, alpha)
    return made if any(factored) else replace(made, alpha=float(made.rank))


_KERNELS = st.sampled_from([(), (3, 3)])
_ALPHA = st.floats(0.015625, 64, width=32)
_OTHER_LAYER = st.one_of(
    st.builds(loha, _SIZES, _KERNELS, _ALPHA),
    st.builds(lokr, _SIZES, _KERNELS, _ALPHA, st.tuples(st.booleans(), st.booleans())),
    st.builds(lambda size, kernel: FullFactors(numbers(*size[1:], *kernel, seed=0)),
              _SIZES, _KERNELS),
)  # fmt: skip
_ALL_KEYS = sorted(key for part in PARTS for key in by_flat_name(part).values())


@st.composite
def _adapters(draw: st.DrawFn) -> AdapterFile:
    arch = draw(st.sampled_from(sorted(VERSIONS)))
    layers = draw(st.dictionaries(st.sampled_from(_ALL_KEYS), _LAYER, min_size=1, max_size=6))
    return adapter_of(arch, layers)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    layers=st.dictionaries(
        st.sampled_from([key for key in _ALL_KEYS if "add_embedding" not in key.path]),
        st.one_of(_LAYER, _OTHER_LAYER, _OTHER_LAYER),
        min_size=1,
        max_size=5,
    )
)
@pytest.mark.parametrize("format", FORMATS)
def test_every_kind_makes_the_round_or_is_named(
    format: str, layers: dict[LayerKey, Factors]
) -> None:
    adapter = adapter_of("sdxl", layers)
    others = [f for f in layers.values() if not isinstance(f, LoRAFactors)]
    hada = [(k, f) for k, f in layers.items() if isinstance(f, LoHaFactors | LoKrFactors)]
    try:
        tensors = encode(adapter, torch.float32, format).pieces
    except InputError as error:
        text = str(error)
        if "knows only LoRA and DoRA" in text:
            assert others
            assert format in ("diffusers", "peft")
        elif "no model has that kernel" in text:
            assert any(f.weight_shape[2:] != kernel_of(k) for k, f in hada)
        elif "no name for layer" in text:
            assert format == "lycoris"
            assert any(key.part != "unet" for key in layers)
        else:
            assert "magnitude" in text or "some plain LoRA" in text
            assert any(isinstance(f, DoRAFactors) for f in layers.values())
        return
    assert format in ("kohya", "lycoris") or not others
    if format == "peft":
        return  # a folder; `test_files_of_every_dialect_and_base` reads it back
    assert len(tensors[""]) == len(set(tensors[""]))
    back = through(adapter, format)
    assert_same(adapter, replace(back, arch="sdxl"), alpha_is_folded=format == "diffusers")


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(adapter=_adapters())
@pytest.mark.parametrize("format", SINGLE)
def test_a_round_trip_is_the_same_or_an_error(format: str, adapter: AdapterFile) -> None:
    keys, values = adapter.layers.keys(), adapter.layers.values()
    try:
        back = through(adapter, format)
    except AdapterFileError as error:  # only SDXL has a second encoder; the file contradicts itself
        assert "contradicts itself" in str(error) or "SD" in str(error)
        assert adapter.arch != "sdxl"
    except InputError as error:
        text = str(error)
        if "no name for layer" in text:
            lacks = {"lycoris": {"text_encoder", "text_encoder_2"}, "kohya": {"text_encoder_2"}}
            assert any(key.part in lacks[format] for key in keys)
        elif "magnitude" in text:
            assert any(isinstance(f, DoRAFactors) and f.axis == "in" for f in values)
        else:
            assert "some plain LoRA" in text
            assert len({f.kind for f in values}) == 2
    else:
        if back.arch != adapter.arch:  # the added embedding and the second encoder are SDXL's only
            assert any("add_embedding" in k.path or k.part == "text_encoder_2" for k in keys)
            back = replace(back, arch=adapter.arch)
        assert_same(adapter, back, alpha_is_folded=format == "diffusers")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("arch", VERSIONS)
def test_files_of_every_dialect_and_base(tmp_path: Path, arch: str, format: str) -> None:
    layers = {
        TO_K: factors(4, alpha=2.0, seed=1),
        TO_V: factors(2, alpha=0.5, seed=4),
        CONV: factors(3, kernel=(3, 3), alpha=3.0, seed=7),
    }
    if format != "lycoris":
        layers[TE1] = factors(4, alpha=8.0, seed=10)
        if arch == "sdxl":
            layers[TE2] = factors(1, alpha=1.0, seed=13)
    adapter = adapter_of(arch, layers)
    path = tmp_path / ("x" if format == "peft" else "x.safetensors")
    notes = save_adapter(adapter, path, format=format, dtype="fp32")
    assert bool(notes) == (format == "diffusers")
    back = read_adapter(path)
    assert back.notes == ()
    assert_same(adapter, back.adapter, alpha_is_folded=format == "diffusers")
    assert back.adapter.metadata["ss_base_model_version"] == VERSIONS[arch]
    found = describe(path)
    assert (found.format, found.arch, found.kind) == (format, arch, "locon")
    assert found.modules == back.adapter.modules_by_part()
    assert sum(found.alphas.values()) == len(layers)
    assert [p for p in found.problems if "hashes are those of" not in p] == []


@pytest.mark.parametrize("kernel", [(), (1, 1), (3, 3)])
@pytest.mark.parametrize("axis", ["in", "out"])
@pytest.mark.parametrize("format", FORMATS)
def test_dora_is_kept_along_its_axis_or_refused(
    tmp_path: Path, format: str, axis: str, kernel: tuple[int, ...]
) -> None:
    adapter = adapter_of("sd15", {CONV: factors(2, 4, 7, kernel, 1.0, axis=axis)})
    path = tmp_path / ("x" if format == "peft" else "x.safetensors")
    if axis == "in" and format in ("diffusers", "peft"):
        with pytest.raises(InputError, match="along the weight's inputs"):
            save_adapter(adapter, path, format=format)
        assert not path.exists()
        return
    save_adapter(adapter, path, format=format, dtype="fp32")
    assert_same(adapter, load_adapter(path), alpha_is_folded=format == "diffusers")
    found = describe(path)
    assert found.kind == "dora"
    if format == "kohya":
        scale = load_file(path)["lora_unet_down_blocks_1_resnets_0_conv1.dora_scale"]
        assert scale.shape == ((1, 4) if axis == "in" else (7, 1)) + (1,) * len(kernel)
        assert found.metadata["ss_network_module"]


def test_dora_of_a_single_number_has_no_axis() -> None:
    adapter = adapter_of("sd15", {CONV: factors(1, 1, 1, axis="in")})
    with pytest.raises(InputError, match="weight of one number"):
        encode(adapter, torch.float32, "kohya")


def test_plain_and_dora_layers_mix_only_where_a_file_can_say_so() -> None:
    adapter = adapter_of("sd15", {TO_K: factors(), TO_V: factors(axis="out")})
    assert_same(adapter, through(adapter, "kohya"))
    for format in ("diffusers", "peft"):
        with pytest.raises(InputError, match="some plain LoRA"):
            encode(adapter, torch.float32, format)


@pytest.mark.parametrize("alpha", [0.5, 4.0, 3.0, 128.0, 0.01])
def test_folded_alpha_loses_nothing_that_fp16_keeps(alpha: float) -> None:
    f = factors(16, 320, 320, alpha=alpha)
    small = replace(f, down=(f.down * 0.02).half().float(), up=(f.up * 2e-3).half().float())
    adapter = adapter_of("sd15", {TO_K: small})
    back = through(adapter, "diffusers", torch.float16).layers[TO_K]
    error = (back.delta() - small.delta()).norm() / small.delta().norm()
    assert error < 3e-4  # half a unit in the last place of fp16 is 2.4e-4 of a number
    if alpha in (0.5, 4.0):  # alpha / 16 is a power of two
        assert error < 1e-5


def sdxl_names(*stems: str) -> dict[str, tuple[str, list[int]]]:
    return {
        name: ("F32", shape)
        for stem in stems
        for name, shape in (
            (f"{stem}.lora_down.weight", [2, 8]),
            (f"{stem}.lora_up.weight", [8, 2]),
            (f"{stem}.alpha", []),
        )
    }


SGM = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
DIFFUSERS = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
TE1_STEM = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
TE2_STEM = "lora_te2_text_model_encoder_layers_0_self_attn_q_proj"
TE_STEM = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


def write_ones(shaped_file: Write, tensors: dict[str, tuple[str, list[int]]]) -> Path:
    path = shaped_file(tensors)
    save_file({name: torch.ones(shape) for name, (_, shape) in tensors.items()}, path)
    return path


@pytest.mark.parametrize("spelling", [SGM, DIFFUSERS])
def test_sdxl_is_read_in_either_spelling_and_written_in_its_own(
    shaped_file: Write, tmp_path: Path, spelling: str
) -> None:
    path = write_ones(shaped_file, sdxl_names(spelling, TE1_STEM))
    adapter = load_adapter(path)
    assert (adapter.arch, set(adapter.layers)) == ("sdxl", {TO_K, TE1})
    save_adapter(adapter, tmp_path / "out.safetensors")
    stems = {name.partition(".")[0] for name in load_file(tmp_path / "out.safetensors")}
    assert stems == {SGM, TE1_STEM}


@pytest.mark.parametrize(
    ("names", "cause"),
    [
        ((SGM, DIFFUSERS.replace("to_k", "to_v")), "mixes two spellings"),
        ((SGM, DIFFUSERS), "mixes two spellings"),
        ((SGM, TE_STEM), r"original code means SDXL, and the prefix 'lora_te_' means SD 1\.x or"),
        ((TE1_STEM, TE_STEM), "same part of one layer"),
        ((TE2_STEM, TE_STEM), "contradicts itself"),
    ],
)
def test_mixed_and_contradicting_names_are_refused(
    shaped_file: Write, names: tuple[str, ...], cause: str
) -> None:
    with pytest.raises(AdapterFileError, match=cause):
        load_adapter(write_ones(shaped_file, sdxl_names(*names)))


@pytest.mark.parametrize(
    ("stem", "width", "metadata", "arch", "note"),
    [
        (DIFFUSERS, 2048, {}, "sdxl", ""),
        (DIFFUSERS, 1024, {}, "sd21", ""),
        (DIFFUSERS, 768, {}, "sd15", ""),
        (DIFFUSERS, 768, {"ss_base_model_version": "sdxl_base_v1-0"}, "sd15", "says sdxl"),
        (DIFFUSERS, 64, {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "sdxl", ""),
        (DIFFUSERS, 64, {}, "sd15", "assumed"),
        (SGM, 64, {}, "sdxl", ""),
        (TE_STEM, 768, {}, "sd15", ""),
        (TE_STEM, 1024, {}, "sd21", ""),
        (TE1_STEM, 768, {}, "sdxl", ""),
        (TE1_STEM, 1024, {}, "sd21", "'lora_te1_', as SDXL has, but is for SD 2.x"),
    ],
)
def test_the_base_is_told_from_names_and_widths(
    shaped_file: Write, stem: str, width: int, metadata: dict[str, str], arch: str, note: str
) -> None:
    down = ("F32", [2, width])
    tensors = sdxl_names(stem) | {f"{stem}.lora_down.weight": down}
    path = write_ones(shaped_file, tensors)
    save_file(load_file(path), path, metadata)
    read = read_adapter(path)
    assert read.adapter.arch == describe(path).arch == arch
    assert note in " ".join(read.notes)
    assert bool(note) == bool(read.notes)


@pytest.mark.parametrize(
    ("stems", "width", "cause"),
    [
        ((SGM,), 768, "cross-attention 768 wide means SD 1.x"),
        ((DIFFUSERS, TE2_STEM), 768, "'lora_te2_' means SDXL, and a cross-attention 768 wide"),
        ((DIFFUSERS, TE_STEM), 2048, "'lora_te_' means SD 1.x or SD 2.x, and a cross-attention"),
    ],
)
def test_names_and_widths_may_not_contradict(
    shaped_file: Write, stems: tuple[str, ...], width: int, cause: str
) -> None:
    tensors = sdxl_names(*stems) | {f"{stems[0]}.lora_down.weight": ("F32", [2, width])}
    with pytest.raises(AdapterFileError, match=cause):
        describe(write_ones(shaped_file, tensors))


def test_up_to_five_unknown_names_are_shown(shaped_file: Write) -> None:
    path = write_ones(shaped_file, sdxl_names(*(f"lora_unet_no_{i}" for i in range(9))))
    with pytest.raises(AdapterFileError, match=r"lora_unet_no_.* and 22 more belong") as caught:
        load_adapter(path)
    assert str(caught.value).count("'lora_unet_no_") == 5


def test_up_to_five_more_misshapen_layers_and_twins_are_shown(shaped_file: Write) -> None:
    paths = [key for key in by_flat_name("unet") if key.endswith("attn2_to_k")][:9]
    bad = sdxl_names(*(f"lora_unet_{path}" for path in paths))
    bad |= {name: ("F32", [3, 8]) for name in bad if "lora_down" in name}
    rank = r"disagree about the rank: 3 and 2\..* and 4 more\."
    with pytest.raises(AdapterFileError, match=rank) as caught:
        load_adapter(write_ones(shaped_file, bad))
    assert str(caught.value).count("attn2.to_k") == 4
    twins = sdxl_names(TE1_STEM, TE_STEM)
    told = r"'lora_te1_.*', 'lora_te_.*' and 1 more are the same part"
    with pytest.raises(AdapterFileError, match=told):
        load_adapter(write_ones(shaped_file, twins))


BUNDLED = "bundle_emb.cat.string_to_param.*"


def test_embeddings_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    adapter = adapter_of("sd15", {TO_K: factors()})
    path = tmp_path / "x.safetensors"
    save_adapter(adapter, path, dtype="fp32", embeddings={BUNDLED: torch.ones(2, 768)})
    read = read_adapter(path)
    assert read.embeddings.keys() == {BUNDLED}
    assert "textual-inversion embeddings, '" in " ".join(read.notes)
    assert "textual-inversion embeddings, '" in " ".join(describe(path).problems)
    assert_same(adapter, read.adapter)
    save_adapter(read.adapter, path, dtype="fp32")
    assert read_adapter(path).notes == ()


def test_metadata_about_another_file_is_not_carried_over(tmp_path: Path) -> None:
    told = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 99}), "unet": "[]",
            "unet:0:rank": "4", "<s1>": "<embed>", "mine": "kept"}  # fmt: skip
    adapter = AdapterFile("sd15", {TO_K: factors()}, told)
    path = tmp_path / "x.safetensors"
    save_adapter(adapter, path, format="diffusers")
    metadata = load_adapter(path).metadata
    assert metadata["mine"] == "kept"
    assert not metadata.keys() & (told.keys() - {"mine"})


def test_folders_and_files_are_not_taken_for_each_other(tmp_path: Path) -> None:
    adapter = adapter_of("sd15", {TO_K: factors()})
    with pytest.raises(InputError, match="is a folder"):
        save_adapter(adapter, tmp_path / "x.safetensors", format="peft")
    both = adapter_of("sd15", {TO_K: factors(), TE1: factors()})
    save_adapter(both, tmp_path / "both", format="peft")
    save_adapter(both, tmp_path / "both", format="peft")  # again is fine
    with pytest.raises(InputError, match="holds another adapter"):
        save_adapter(adapter, tmp_path / "both", format="peft")
    with pytest.raises(InputError, match="it is a folder"):
        save_adapter(adapter, tmp_path)
    with pytest.raises(InputError, match=r"name that ends in \.safetensors"):
        save_adapter(adapter, tmp_path / "x.pt")
    assert not (tmp_path / "x.pt").exists()
    with pytest.raises(AdapterFileError, match="a folder without an adapter"):
        load_adapter(tmp_path)
