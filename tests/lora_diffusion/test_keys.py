"""The canonical names that adapter files are built from."""

from __future__ import annotations

from torch import nn

from lora_diffusion.keys import (
    TEXT_ENCODER,
    UNET,
    LayerKey,
    canonical_path,
    live_modules,
    live_path,
)


def test_clips_missing_level_is_restored_and_taken_off(parts):
    text = parts[TEXT_ENCODER]
    canonical = "text_model.encoder.layers.0.self_attn.q_proj"
    live = live_path(LayerKey(TEXT_ENCODER, canonical), text)
    assert isinstance(text.get_submodule(live), nn.Linear)
    assert canonical_path(TEXT_ENCODER, text, live) == canonical


def test_an_encoder_that_kept_the_level_keeps_its_names():
    kept = nn.Module()
    kept.text_model = nn.Module()
    path = "text_model.encoder.layers.0.self_attn.q_proj"
    assert canonical_path(TEXT_ENCODER, kept, path) == path
    assert live_path(LayerKey(TEXT_ENCODER, path), kept) == path


def test_every_module_has_a_key_of_its_own(parts):
    keys = live_modules(parts)
    modules = sum(len(list(model.named_modules())) - 1 for model in parts.values())
    assert len(keys) == modules
    assert LayerKey(UNET, "mid_block.attentions.0.proj_in") in keys
