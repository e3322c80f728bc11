"""Settings of the base model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainers.spec.section import Section


class ModelSpec(Section):
    """The base model and how it is held in memory."""

    base: str = Field(
        "bundled:demo_base",
        description="Base model: a diffusers folder, a .safetensors or .ckpt file, or a hub id.",
    )
    tokenizer: str | None = Field(
        None,
        description="Folder with the CLIP tokenizer, for a single-file base with no hub at hand.",
    )
    arch: Literal["auto", "sd15", "sd21", "sdxl"] = Field(
        "auto", description="What the base has to be; auto takes what it is."
    )
    prediction: Literal["auto", "epsilon", "v_prediction"] = Field(
        "auto",
        description="What the UNet predicts; auto reads it from the base, and settles it where the "
        "base does not say.",
    )
    zero_snr: bool | None = Field(
        None,
        description="Noise schedule that ends without signal, as NoobAI's v-prediction models have "
        "it (arXiv:2305.08891); unset reads it from the base.",
    )
    clip_skip: int = Field(
        1, ge=1, le=4, description="Which text-encoder layer is used, counted from the last (1)."
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 or mps.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Arithmetic of the frozen base; adapters train in fp32. auto: bf16 on a GPU "
        "that has it, fp16 on an older one, fp32 on the CPU.",
    )
    attention: Literal["sdpa", "xformers", "sliced"] = Field(
        "sdpa",
        description="Attention: torch's own kernels; xformers (its extra and a GPU); sliced, a "
        "head at a time, for devices without a kernel that saves memory.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, slower."
    )
    low_memory: bool = Field(
        False,
        description="The UNet waits in main memory until the pictures are encoded, and previews "
        "are drawn one at a time: less GPU memory at its peak.",
    )
    fp8_base: bool = Field(
        False,
        description="Keep the frozen UNet in 8 bits (fp8 e4m3) and compute in bf16 or fp16: half "
        "its memory, slightly off; of use with gradient_checkpointing.",
    )
    compile: bool = Field(
        False, description="Compile the UNet (torch.compile): minutes at first, faster on GPUs."
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads; unset leaves the choice to torch."
    )
