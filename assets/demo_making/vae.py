"""The demo VAE: 64 px pictures to 32 x 32 x 4 latents, trained in two legs.

Leg one trains encoder and decoder on small crops; then the encoder is frozen, so that the
UNet can start on its latents while leg two goes on polishing the decoder alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from .clutter import random_clutter
from .scenes import PICTURE_PX, paint_scene, random_scene
from .workers import Report, Trainee, flat_then_linear, run_workers, step_generator

LATENT_CHANNELS = 4
SCENES, CLUTTERS = 1000, 2600  # clutter is most of it: it decides what adapters can show
CROP_PX = 32  # half-size crops train four times faster, and the flat scenes lose nothing
LOGVAR_START = -6.0  # nearly deterministic latents: the KL term need not first shrink noise
RGB_HINT_START, RGB_HINT_END = 1.0, 0.1  # without the hint the colours take very long to settle
KL_WEIGHT = 2e-4
JOINT_LR, DECODER_LR = 1.4e-3, 1.2e-3
EMA_DECAY = 0.995
FULL_SIZE_FROM = 0.8  # the share of the decoder's leg after which it sees whole pictures
LATENT_NOISE = 0.1  # at most: the UNet's latents are grainy, teach the decoder to forgive


@dataclass(frozen=True)
class VaeSteps:
    """Lengths of the two legs, and the batch over all processes."""

    joint: int = 5500
    decoder: int = 2500
    batch: int = 12
    seed: int = 11


def make_vae() -> AutoencoderKL:
    """The untrained VAE, started near a plain linear map so that colours pass at once."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(24, 48),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        # Groups of 8 and 16 channels: with smaller ones GroupNorm erases the colour.
        norm_num_groups=3,
        sample_size=PICTURE_PX,
    )
    for name, module in vae.named_modules():
        last_of_residual = name.endswith((".conv2", ".to_out.0"))
        if last_of_residual and isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    with torch.no_grad():
        vae.quant_conv.weight[LATENT_CHANNELS:] = 0
        vae.quant_conv.bias[LATENT_CHANNELS:] = LOGVAR_START
    return vae


def training_pictures(seed: int) -> Tensor:
    """The VAE's pictures, uint8 [n, 3, 64, 64]: scenes first, then clutter."""
    rng = np.random.default_rng(seed)
    pictures = [paint_scene(random_scene(rng), rng) for _ in range(SCENES)]
    pictures += [random_clutter(rng) for _ in range(CLUTTERS)]
    return torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)


def to_unit(pictures: Tensor) -> Tensor:
    """uint8 pixels to floats in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def _batch(pictures: Tensor, count: int, crop_px: int, generator: torch.Generator) -> Tensor:
    """Random crops, randomly flipped: [count, 3, crop_px, crop_px] in [-1, 1]."""
    chosen = torch.randint(len(pictures), (count,), generator=generator)
    corners = torch.randint(PICTURE_PX - crop_px + 1, (count, 2), generator=generator)
    flips = torch.rand(count, generator=generator) < 0.5
    crops = []
    for index, (y, x), flip in zip(chosen, corners.tolist(), flips, strict=True):
        crop = pictures[index, :, y : y + crop_px, x : x + crop_px]
        crops.append(crop.flip(-1) if flip else crop)
    return to_unit(torch.stack(crops)).contiguous(memory_format=torch.channels_last)


def picture_loss(out: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error, squared error, and the error of the edges."""
    error = out - target
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 0.5 * error.square().mean() + 0.5 * edges


def train_joint(path: Path, steps: VaeSteps, processes: int) -> None:
    """Leg one: encoder and decoder together. Leaves its state at `path`."""
    run_workers(_joint_worker, processes, path, steps)


def train_decoder(path: Path, joint_path: Path, steps: VaeSteps, processes: int) -> None:
    """Leg two: the decoder alone, on the frozen encoder of `joint_path`."""
    run_workers(_decoder_worker, processes, path, joint_path, steps)


def load_vae(joint_path: Path, decoder_path: Path | None = None) -> AutoencoderKL:
    """The averaged VAE of leg one, with leg two's decoder if there is one."""
    vae = make_vae()
    vae.load_state_dict(torch.load(joint_path, weights_only=True)["average"])
    if decoder_path is not None and decoder_path.exists():
        state = torch.load(decoder_path, weights_only=True)["average"]
        _decoder_of(vae).load_state_dict(state)
    return vae.eval().requires_grad_(False)


def _decoder_of(vae: AutoencoderKL) -> nn.ModuleDict:
    return nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})


def _joint_worker(rank: int, count: int, path: Path, steps: VaeSteps) -> None:
    torch.manual_seed(steps.seed)
    vae = make_vae().to(memory_format=torch.channels_last)
    trainee = Trainee(vae, path, rank, JOINT_LR, EMA_DECAY)
    start = trainee.resume()
    pictures, report = training_pictures(steps.seed), Report("vae", rank)
    for step in range(start, steps.joint):
        generator = step_generator(steps.seed, step, rank)
        batch = _batch(pictures, steps.batch // count, CROP_PX, generator)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            out = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        hint_share = min(1, 2 * step / steps.joint)
        hint_weight = RGB_HINT_START + (RGB_HINT_END - RGB_HINT_START) * hint_share
        hint = F.mse_loss(posterior.mean[:, :3].float(), F.avg_pool2d(batch, 2))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        recon = picture_loss(out, batch)
        loss = recon + KL_WEIGHT * kl + hint_weight * hint
        trainee.update(loss, flat_then_linear(step, steps.joint, 0.6), count)
        report.add(step, recon=recon, hint=hint, kl=kl)
        trainee.save(last=step + 1 == steps.joint)


def _decoder_worker(rank: int, count: int, path: Path, joint_path: Path, steps: VaeSteps) -> None:
    torch.manual_seed(steps.seed)
    vae = load_vae(joint_path).to(memory_format=torch.channels_last)
    decoder = _decoder_of(vae).train().requires_grad_(True)
    trainee = Trainee(decoder, path, rank, DECODER_LR, EMA_DECAY)
    start = trainee.resume()
    pictures, report = training_pictures(steps.seed + 1), Report("decoder", rank)
    for step in range(start, steps.decoder):
        generator = step_generator(steps.seed + 1, step, rank)
        full_size = step >= FULL_SIZE_FROM * steps.decoder
        crop_px = PICTURE_PX if full_size else CROP_PX
        size = max(count, steps.batch // 3) if full_size else steps.batch
        batch = _batch(pictures, size // count, crop_px, generator)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                mean = vae.encode(batch).latent_dist.mean.float()
            spread = LATENT_NOISE * torch.rand(len(mean), 1, 1, 1, generator=generator)
            noise = spread * torch.randn(mean.shape, generator=generator)
            out = vae.decode(mean + noise).sample.float()
        recon = picture_loss(out, batch)
        trainee.update(recon, flat_then_linear(step, steps.decoder, 0.4), count)
        report.add(step, recon=recon)
        trainee.save(last=step + 1 == steps.decoder)
