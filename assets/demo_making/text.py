"""The demo text encoder: a small CLIPTextModel that learns to read captions, then is frozen.

A UNet trained together with an untrained text encoder ignores the text for a very long
time. So the encoder first learns to tell, by linear heads on its outputs, every attribute
that a caption names; half a minute later its outputs separate what the UNet must separate.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .figures import PALETTE, SHAPES
from .scenes import RADIUS, caption_of, random_scene
from .traits import TRAITS, varied_scene
from .words import MAX_TOKENS, make_tokenizer
from .workers import flat_then_linear

HIDDEN, LAYERS, HEADS = 128, 2, 4
STEPS, BATCH, LR = 700, 64, 2e-3
WIDER_STEPS, WIDER_LR, STAY_WEIGHT = 900, 1.5e-3, 20.0
EMPTY_SHARE = 0.1  # the empty prompt of classifier-free guidance

# Attribute -> the words that can name it; index 0 is kept for "not named".
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": (*SHAPES, "creature"),
    "colour": tuple(PALETTE),
    "background": tuple(PALETTE),
    "size": tuple(RADIUS),
    "stripes": ("striped",),
    "antennae": ("antennae",),
    "feet": ("feet",),
}


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The untrained encoder for this tokenizer."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN,
            intermediate_size=2 * HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=HIDDEN,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokens_of(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids [n, 77], padded as the diffusers pipelines pad."""
    ids: Tensor = tokenizer(
        captions,
        padding="max_length",
        max_length=MAX_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids


def labels_of(caption: str) -> list[int]:
    """For each attribute: 0 if the caption does not name it, else 1 + the word's index."""
    words = caption.replace(",", " ").split()
    named: dict[str, str] = {}
    if "background" in words:
        at = words.index("background")
        named["background"] = words[at - 1]
        words = words[: at - 1] + words[at + 1 :]
    for attribute, choices in ATTRIBUTES.items():
        if attribute != "background":
            named[attribute] = next((word for word in words if word in choices), "")
    return [
        1 + choices.index(named[attribute]) if named.get(attribute) else 0
        for attribute, choices in ATTRIBUTES.items()
    ]


def train_text_encoder(path: Path, seed: int = 21) -> float:
    """Train, save the encoder's weights at `path`, return the share of labels told right."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tokenizer = make_tokenizer()
    encoder = make_text_encoder(tokenizer)
    heads = nn.ModuleList(nn.Linear(HIDDEN, 1 + len(words)) for words in ATTRIBUTES.values())
    params = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(params, lr=LR, betas=(0.9, 0.99), weight_decay=1e-2)
    correct: list[float] = []
    for step in range(STEPS):
        captions = [
            "" if rng.random() < EMPTY_SHARE else caption_of(random_scene(rng), rng)
            for _ in range(BATCH)
        ]
        labels = torch.tensor([labels_of(caption) for caption in captions])
        ids = tokens_of(tokenizer, captions)
        hidden = encoder(ids).last_hidden_state
        # The end token and the padding after it have read the whole caption.
        after = (ids == tokenizer.eos_token_id).unsqueeze(-1).float()
        summary = (hidden * after).sum(1) / after.sum(1)
        logits = [head(summary) for head in heads]
        losses = [F.cross_entropy(out, labels[:, i]) for i, out in enumerate(logits)]
        for group in optimizer.param_groups:
            group["lr"] = LR * flat_then_linear(step, STEPS, 0.5)
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        told = torch.stack([out.argmax(1) for out in logits], dim=1)
        correct.append(float((told == labels).all(1).float().mean()))
        if (step + 1) % 50 == 0:
            print(f"text {step + 1}  all right {np.mean(correct[-50:]):.3f}", flush=True)
    torch.save(encoder.state_dict(), path)
    return float(np.mean(correct[-50:]))


def widen_text_encoder(path: Path, start: Path, seed: int = 22) -> float:
    """Teach the encoder of `start` the traits' words, without moving what it makes of the others.

    Half of each batch are captions that it knows, whose outputs must stay; a UNet that has learned
    to follow them still can. Returns the share of labels told right.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tokenizer = make_tokenizer()
    before, encoder = load_text_encoder(start, tokenizer), make_text_encoder(tokenizer)
    encoder.load_state_dict(before.state_dict())
    heads = nn.ModuleList(nn.Linear(HIDDEN, 1 + len(words)) for words in TRAITS.values())
    params = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(params, lr=WIDER_LR, betas=(0.9, 0.99), weight_decay=0.0)
    known, right, strayed = BATCH // 2, [0.0], [0.0]
    for step in range(WIDER_STEPS):
        captions = [
            "" if rng.random() < EMPTY_SHARE else caption_of(random_scene(rng), rng)
            for _ in range(known)
        ]
        varied = [varied_scene(rng, pictures=0) for _ in range(BATCH - known)]
        ids = tokens_of(tokenizer, captions + [scene.caption for scene in varied])
        labels = torch.tensor(
            [
                [
                    1 + words.index(scene.told[t]) if t in scene.told else 0
                    for t, words in TRAITS.items()
                ]
                for scene in varied
            ]
        )
        hidden = encoder(ids).last_hidden_state
        with torch.no_grad():
            kept = before(ids[:known]).last_hidden_state
        stray = F.mse_loss(hidden[:known], kept) / kept.var()
        after = (ids[known:] == tokenizer.eos_token_id).unsqueeze(-1).float()
        summary = (hidden[known:] * after).sum(1) / after.sum(1)
        logits = [head(summary) for head in heads]
        losses = [F.cross_entropy(out, labels[:, i]) for i, out in enumerate(logits)]
        for group in optimizer.param_groups:
            group["lr"] = WIDER_LR * flat_then_linear(step, WIDER_STEPS, 0.5)
        optimizer.zero_grad()
        (torch.stack(losses).sum() + STAY_WEIGHT * stray).backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        told = torch.stack([out.argmax(1) for out in logits], dim=1)
        right.append(float((told == labels).all(1).float().mean()))
        strayed.append(float(stray.detach()))
        if (step + 1) % 50 == 0:
            print(
                f"text {step + 1}  all right {np.mean(right[-50:]):.3f}  "
                f"known captions moved {np.mean(strayed[-50:]):.4f}",
                flush=True,
            )
    torch.save(encoder.state_dict(), path)
    return float(np.mean(right[-50:]))


def load_text_encoder(path: Path, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The trained encoder, frozen."""
    encoder = make_text_encoder(tokenizer)
    encoder.load_state_dict(torch.load(path, weights_only=True))
    return encoder.eval().requires_grad_(False)
