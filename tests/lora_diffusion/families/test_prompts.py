"""Prompts become what diffusers' own pipeline makes of them, and longer ones what chunks say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lora_diffusion.families import prompts
from tests.lora_diffusion.families.sd15_models import LAYERS, SCHEDULER, Models

SHORT = ["a photo of a cat", "", "tiny", "x" * 75]


@pytest.fixture(scope="module")
def pipeline(models: Models) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=models.vae,
        text_encoder=models.text,
        tokenizer=models.tokenizer,
        unet=models.unet,
        scheduler=DDIMScheduler.from_config(SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def embedded(models: Models, texts: list[str], clip_skip: int = 1, **more: Any) -> Tensor:
    ids = prompts.token_chunks(models.tokenizer, texts, **more)
    with torch.no_grad():
        return prompts.encode(models.text, ids, clip_skip)


@pytest.mark.parametrize("clip_skip", range(1, LAYERS + 1))
def test_short_prompts_are_the_stock_pipeline_s(
    models: Models, pipeline: Any, clip_skip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers counts the layers skipped, we count the layer taken: its 1 is our 2."""
    ours = embedded(models, SHORT, clip_skip)
    # With clip skip, diffusers 0.42 asks for the level that transformers 5 dropped.
    itself = property(lambda encoder: encoder)
    monkeypatch.setattr(type(models.text), "text_model", itself, raising=False)
    with torch.no_grad():
        stock, _ = pipeline.encode_prompt(
            SHORT, "cpu", 1, False, clip_skip=clip_skip - 1 if clip_skip > 1 else None
        )
    assert ours.shape == (4, 77, 64)
    assert torch.allclose(ours, stock, atol=1e-6)


def test_every_clip_skip_takes_another_layer(models: Models) -> None:
    first, *others = [embedded(models, ["a cat"], skip) for skip in range(1, LAYERS + 1)]
    assert all((first - other).abs().max() > 1e-3 for other in others)


@pytest.mark.parametrize(
    ("letters", "chunks"), [(0, 1), (1, 1), (75, 1), (76, 2), (150, 2), (151, 3)]
)
def test_chunks_are_counted_in_75s(models: Models, letters: int, chunks: int) -> None:
    text = "x" * letters
    assert prompts.chunk_count(models.tokenizer, text) == chunks
    ids = prompts.token_chunks(models.tokenizer, [text])
    assert ids.shape == (1, chunks, 77)
    start, end = models.tokenizer.bos_token_id, models.tokenizer.eos_token_id
    inner = ids[0, :, 1:].flatten()
    assert bool((ids[0, :, 0] == start).all())
    assert int((inner != end).sum()) == letters
    assert bool((ids[0, :, 76] == end).all())


def test_a_long_prompt_is_its_chunks_one_after_another(models: Models) -> None:
    text = "a" * 75 + "b" * 75 + "cc"  # one token a letter
    whole = embedded(models, [text])
    # The middle of a word carries no end-of-word mark, so each chunk is encoded from its ids.
    ids = prompts.token_ids(models.tokenizer, text)
    assert len(ids) == 152
    start, end = models.tokenizer.bos_token_id, models.tokenizer.eos_token_id
    for i in range(3):
        own = ids[75 * i : 75 * (i + 1)]
        framed = torch.tensor([[start, *own, end, *[end] * (75 - len(own))]])
        with torch.no_grad():
            expected = models.text(framed).last_hidden_state
        assert torch.allclose(whole[:, 77 * i : 77 * (i + 1)], expected, atol=1e-6)


def test_unequal_lengths_are_padded_with_empty_chunks(models: Models) -> None:
    both = embedded(models, ["x" * 100, "short"])
    assert both.shape == (2, 154, 64)
    empty = embedded(models, [""])
    assert torch.allclose(both[1:, :77], embedded(models, ["short"]), atol=1e-6)
    assert torch.allclose(both[1:, 77:], empty, atol=1e-6)
    assert torch.allclose(both[:1], embedded(models, ["x" * 100]), atol=1e-6)


def test_a_chunk_count_asked_for_is_a_minimum(models: Models) -> None:
    assert embedded(models, ["short"], chunks=3).shape == (1, 231, 64)
    assert embedded(models, ["x" * 200], chunks=1).shape == (1, 231, 64)


def test_padding_is_the_tokenizer_s_own(models: Models) -> None:
    """SD1.x pads with the end mark, SD2 with id 0; both are what their tokenizer says."""

    class Sd2Words:
        bos_token_id, eos_token_id, pad_token_id = 512, 513, 0

        def __call__(self, text: str, **settings: Any) -> Any:
            return models.tokenizer(text, **settings)

    sd1 = prompts.token_chunks(models.tokenizer, ["ab"])[0, 0]
    sd2 = prompts.token_chunks(Sd2Words(), ["ab"])[0, 0]
    assert sd1[3:].tolist() == [513] * 74
    assert sd2[3:].tolist() == [513] + [0] * 73
    assert sd1[:3].tolist() == sd2[:3].tolist()


def test_gradients_reach_the_encoder(models: Models) -> None:
    """Text-encoder adapters train through this."""
    weight = models.text.get_parameter("embeddings.token_embedding.weight")
    weight.requires_grad_(True)
    try:
        ids = prompts.token_chunks(models.tokenizer, ["ab"])
        prompts.encode(models.text, ids, 2).square().sum().backward()
        assert weight.grad is not None
        assert weight.grad.abs().sum() > 0
    finally:
        weight.requires_grad_(False)
        weight.grad = None


def test_the_encoder_of_transformers_4_shape_works_too(models: Models) -> None:
    """`text_model` inside, as CLIPTextModelWithProjection still has it."""

    class Nested(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text_model = models.text

        def forward(self, *args: Any, **settings: Any) -> Any:
            return self.text_model(*args, **settings)

    ids = prompts.token_chunks(models.tokenizer, ["a cat"])
    with torch.no_grad():
        nested = prompts.encode(Nested(), ids, 2)
    assert torch.equal(nested, embedded(models, ["a cat"], 2))
