"""Settings of the pictures and their captions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainers.spec.section import Section


class SubsetSpec(Section):
    """One folder of a dataset that is made of several."""

    folder: str = Field(description="Folder of pictures.")
    name: str | None = Field(None, description="Unset takes the folder's name.")
    repeats: int = Field(
        1, ge=1, le=10_000, description="How often an epoch shows each of its pictures."
    )
    weight: float = Field(1.0, ge=0, le=100, description="Factor on the loss of its pictures.")
    is_class: bool = Field(
        False, description="Regularisation pictures: they show the class, not the subject."
    )
    trigger: str | None = Field(
        None, description='Trigger word; unset takes data.trigger, "" uses none.'
    )
    instance_prompt: str | None = Field(
        None,
        description="Caption of pictures that have none; unset takes data.instance_prompt.",
    )
    caption_ending: str | None = Field(
        None,
        pattern=r"^\.[A-Za-z0-9_.-]{1,20}$",
        description="Ending of the caption files; unset takes .txt, then .caption.",
    )
    caption_table: str | None = Field(
        None, description="JSON or JSON lines of captions; unset takes data.caption_table."
    )
    mask_folder: str | None = Field(
        None, description="Folder of masks that have the pictures' names: white is learned."
    )


class DataSpec(Section):
    """The pictures, their captions, and the prior-preservation pictures."""

    folder: str = Field(
        "bundled:demo_character",
        description="Folder of pictures; a .txt or .caption beside a picture is its caption. Tars "
        "in it are WebDataset shards; a pattern such as a-{000..123}.tar names them too.",
    )
    nested: bool = Field(True, description="Also take the pictures of folders within the folder.")
    kohya_folders: bool = Field(
        True,
        description="A folder named N_concept, N up to 999, shows its pictures N times an epoch; "
        "the concept is the caption of those that have none.",
    )
    subsets: tuple[SubsetSpec, ...] = Field(
        (),
        description="Several folders with settings of their own, in place of data.folder: "
        "[[data.subsets]] in a TOML file.",
    )
    caption_table: str | None = Field(
        None,
        description="JSON lines with file_name and text, or kohya's metadata JSON; a folder's "
        "metadata.jsonl is found by itself.",
    )
    caption_lines: bool = Field(
        False,
        description="Each line of a caption file is a caption of its own; a visit takes one.",
    )
    caption_encoding: str | None = Field(
        None,
        description="Encoding of caption files that are not UTF-8, such as cp1252 or cp932; unset "
        "refuses them.",
    )
    picture_text: bool = Field(
        False,
        description="Pictures without a caption take the prompt in their PNG or EXIF text.",
    )
    max_megapixels: int = Field(
        100, ge=1, le=1_000, description="Larger pictures are refused before they are decoded."
    )
    trigger: str | None = Field(
        None,
        description="The word that calls the subject up. It is put before captions that lack it.",
    )
    instance_prompt: str = Field(
        "a photo of {trigger}",
        description="Caption of pictures that have no caption file; {trigger} is filled in.",
    )
    resolution_px: int | None = Field(
        None,
        ge=32,
        le=4096,
        multiple_of=8,
        description="Side (px) of the square that no training crop has more pixels than; unset "
        "takes the base's own.",
    )
    buckets: bool = Field(
        True,
        description="Crop each picture to the proportions nearest to its own; off crops all to a "
        "square.",
    )
    bucket_min_px: int | None = Field(
        None, ge=8, le=8192, description="Shortest side of a crop; unset is half the resolution."
    )
    bucket_max_px: int | None = Field(
        None, ge=8, le=8192, description="Longest side of a crop; unset is double the resolution."
    )
    bucket_step_px: int | None = Field(
        None,
        ge=8,
        le=1024,
        multiple_of=8,
        description="Sides of crops are multiples of this; unset takes what the UNet halves "
        "evenly, such as 64 for SD and 32 for SDXL.",
    )
    upscale: bool = Field(
        False, description="With buckets: enlarge pictures that are smaller than the resolution."
    )
    flip: float = Field(
        0.0, ge=0, le=1, description="Chance that a picture is shown mirrored, left to right."
    )
    random_crop: bool = Field(
        False, description="Crop anywhere in the picture rather than in its middle."
    )
    colour_jitter: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Brightness, contrast and saturation change by up to this share, each visit "
        "anew.",
    )
    masked_loss: bool = Field(
        False,
        description="Learn only what a picture's mask shows white: its file in a subset's "
        "mask_folder, or else the picture's alpha.",
    )
    unmasked_weight: float = Field(
        0.0, ge=0, le=1, description="Weight in the loss of what the mask leaves out."
    )
    caption_dropout: float = Field(
        0.0, ge=0, le=1, description="Share of steps in which a picture is shown with no caption."
    )
    caption_parts: Literal["tags", "sentences"] = Field(
        "tags",
        description="What shuffle_parts, keep_parts and part_dropout take a caption apart into: "
        "tags between commas, or sentences.",
    )
    shuffle_parts: bool = Field(
        False, description="Show the parts of a caption in a new order each visit."
    )
    keep_parts: int = Field(
        0, ge=0, le=100, description="Parts at the beginning that are not moved and not dropped."
    )
    part_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Chance of each part of a caption to be left out; the trigger never is.",
    )
    wildcards: bool = Field(
        False, description="In captions, draw one of {a|b}, and for __name__ a line of name.txt."
    )
    wildcard_folder: str | None = Field(None, description="Folder with those files.")
    cache: Literal["memory", "disk", "off"] = Field(
        "memory",
        description="Where encoded pictures and captions are kept: memory; disk, which the next "
        "run finds again; off encodes at each step.",
    )
    cache_folder: str | None = Field(
        None,
        description="Folder of the disk cache; unset is ~/.cache/lora-diffusion, or "
        "what LORA_DIFFUSION_CACHE names.",
    )
    cache_variants: int = Field(
        8,
        ge=1,
        le=1000,
        description="How many versions of a picture or a caption are kept where crop, colours or "
        "words change from visit to visit.",
    )
    class_prompts: tuple[str, ...] = Field(
        (),
        description="Prompts without the trigger; the base draws the class pictures from them.",
    )
    class_folder: str | None = Field(
        None, description="Folder of class pictures; missing ones are drawn into it by the base."
    )
    class_pictures: int = Field(
        0, ge=0, le=10_000, description="Class pictures for prior preservation; 0 trains without."
    )
    class_fraction: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Share of each batch that is class pictures (DreamBooth's pairs are 0.5).",
    )

    @model_validator(mode="after")
    def _trigger_is_a_word(self) -> DataSpec:
        if self.trigger is not None and not self.trigger.strip():
            raise ValueError("data.trigger is empty: give it a word, or leave it out")
        return self

    @model_validator(mode="after")
    def _settings_belong_together(self) -> DataSpec:
        needs = (
            ("bucket_min_px", self.bucket_min_px, "data.buckets", self.buckets),
            ("bucket_max_px", self.bucket_max_px, "data.buckets", self.buckets),
            ("bucket_step_px", self.bucket_step_px, "data.buckets", self.buckets),
            ("upscale", self.upscale, "data.buckets", self.buckets),
            ("unmasked_weight", self.unmasked_weight, "data.masked_loss", self.masked_loss),
            (
                "keep_parts",
                self.keep_parts,
                "data.shuffle_parts or data.part_dropout",
                self.shuffle_parts or self.part_dropout,
            ),
            ("wildcard_folder", self.wildcard_folder, "data.wildcards", self.wildcards),
            ("cache_folder", self.cache_folder, "data.cache disk", self.cache == "disk"),
            (
                "subsets' mask_folder",
                any(subset.mask_folder for subset in self.subsets),
                "data.masked_loss",
                self.masked_loss,
            ),
        )
        for name, value, other, is_there in needs:
            if value and not is_there:
                raise ValueError(f"data.{name} needs {other}: set that too, or leave this out")
        for name, changes in (
            ("random_crop", self.random_crop),
            ("colour_jitter", self.colour_jitter),
        ):
            if changes and self.cache != "off" and self.cache_variants == 1:
                raise ValueError(
                    f"data.{name} and data.cache_variants = 1 do not go together: the one cached "
                    "version never changes. Raise data.cache_variants, or set data.cache to off"
                )
        return self

    @model_validator(mode="after")
    def _class_needs_prompts(self) -> DataSpec:
        if not all(prompt.strip() for prompt in self.class_prompts):
            raise ValueError(
                "data.class_prompts has an empty prompt, which no class picture can show: leave it "
                "out"
            )
        if self.class_pictures and not (self.class_prompts or self.class_folder):
            raise ValueError(
                "data.class_pictures needs data.class_prompts or data.class_folder: say what the "
                "class pictures show, for example --data.class_prompts '[\"a photo of a dog\"]'"
            )
        return self
