"""Makes the bundled demo base and its picture sets from nothing but this script.

    python assets/make_demo.py all --work /tmp/demo_work --threads 2

Stages, in order; each one can be run alone and starts again where it was stopped:
  pictures  draw both character sets and the style set
  vae       train encoder and decoder together
  decoder   polish the decoder on the frozen encoder
  text      teach the text encoder to read captions
  unet      train the UNet on the encoder's latents
  widen     teach text encoder and UNet a word for every trait
  export    write assets/demo_base
  score     measure the exported base and draw a contact sheet
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from demo_making.creatures import SECOND_LOOK
from demo_making.export import export_pipeline
from demo_making.scenes import SECOND_WORD, character_set, style_set
from demo_making.score import base_adherence, reader_check, save_sheet, vae_psnr
from demo_making.text import train_text_encoder, widen_text_encoder
from demo_making.unet import WIDER, UnetSteps, cache_latents, scaling_factor_of, train_unet
from demo_making.vae import VaeSteps, load_vae, train_decoder, train_joint
from diffusers import StableDiffusionPipeline
from PIL import Image

GALLERY_PX = 256  # four times the base's size: sharp in a gallery, trainers scale it down
CHARACTER_SEED, STYLE_SEED, SECOND_SEED = 41, 42, 43
SCORE_PROMPTS, SCORE_SEEDS = 100, (0, 1)
READER_SCENES = 200


@dataclass(frozen=True)
class Run:
    """Where a run reads and writes, and with how much."""

    assets: Path
    work: Path
    threads: int
    wider: UnetSteps

    @property
    def base(self) -> Path:
        """The exported diffusers folder."""
        return self.assets / "demo_base"

    def state(self, name: str) -> Path:
        """A checkpoint file in the work folder."""
        return self.work / f"{name}.pt"


def make_pictures(run: Run) -> None:
    """Draw the picture sets, each picture with its caption beside it."""
    sets = {
        "demo_character": character_set(CHARACTER_SEED, GALLERY_PX),
        "demo_style": style_set(STYLE_SEED, GALLERY_PX),
        "demo_second": character_set(SECOND_SEED, GALLERY_PX, look=SECOND_LOOK, word=SECOND_WORD),
    }
    for name, pairs in sets.items():
        folder = run.assets / name
        folder.mkdir(parents=True, exist_ok=True)
        for index, (picture, caption) in enumerate(pairs, start=1):
            picture.save(folder / f"{index:02d}.png", optimize=True)
            (folder / f"{index:02d}.txt").write_text(caption + "\n", encoding="utf-8")
        print(f"{folder}: {len(pairs)} pictures")


def make_vae(run: Run) -> None:
    """Train the VAE's first leg."""
    train_joint(run.state("vae"), VaeSteps(), run.threads)


def make_decoder(run: Run) -> None:
    """Train the VAE's second leg."""
    train_decoder(run.state("decoder"), run.state("vae"), VaeSteps(), run.threads)


def make_text(run: Run) -> None:
    """Train the text encoder."""
    if not run.state("text").exists():
        right = train_text_encoder(run.state("text"))
        print(f"captions read without a mistake: {right:.1%}")


def make_unet(run: Run) -> None:
    """Encode the scenes once, then train the UNet."""
    if not run.state("latents").exists():
        cache_latents(run.state("latents"), load_vae(run.state("vae")), UnetSteps())
    text = run.state("text")
    train_unet(run.state("unet"), run.state("latents"), text, UnetSteps(), run.threads)


def make_wider(run: Run) -> None:
    """The second schooling: widen the text encoder, then go on with the UNet."""
    text, latents = run.state("text_wide"), run.state("latents_wide")
    if not text.exists():
        right = widen_text_encoder(text, run.state("text"))
        print(f"captions of traits read without a mistake: {right:.1%}")
    if not latents.exists():
        factor = scaling_factor_of(run.state("latents"))
        cache_latents(latents, load_vae(run.state("vae")), run.wider, factor)
    train_unet(
        run.state("unet_wide"), latents, text, run.wider, run.threads, begin_at=run.state("unet")
    )


def make_export(run: Run) -> None:
    """Write the diffusers folder."""
    size = export_pipeline(
        run.base,
        joint=run.state("vae"),
        decoder=run.state("decoder"),
        text=run.state("text_wide"),
        latents=run.state("latents_wide"),
        unet=run.state("unet_wide"),
    )
    print(f"{run.base}: {size:.2f} MB")


def make_score(run: Run) -> None:
    """Measure the exported base; write score.json and a contact sheet to the work folder."""
    pipeline = StableDiffusionPipeline.from_pretrained(run.base, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    numbers: dict[str, object] = {}
    sheet: list[Image.Image] = []
    for kind, (mean, lowest) in vae_psnr(pipeline.vae, seed=0).items():
        print(f"VAE, {kind}: mean {mean:.1f} dB, lowest {lowest:.1f} dB")
        numbers[f"vae_psnr_db/{kind}"] = {"mean": mean, "lowest": lowest}
    print(f"reader, {READER_SCENES} drawn scenes: {reader_check(READER_SCENES, seed=7)}")
    for seed in SCORE_SEEDS:
        scores, pictures = base_adherence(pipeline, SCORE_PROMPTS, seed)
        print(f"base, {SCORE_PROMPTS} prompts, seed {seed}: {scores}", flush=True)
        numbers[f"adherence/seed_{seed}"] = vars(scores)
        sheet = sheet or pictures
    save_sheet(sheet, run.work / "base_100_prompts.png")
    (run.work / "score.json").write_text(json.dumps(numbers, indent=2), encoding="utf-8")


STAGES: dict[str, Callable[[Run], None]] = {
    "pictures": make_pictures,
    "vae": make_vae,
    "decoder": make_decoder,
    "text": make_text,
    "unet": make_unet,
    "widen": make_wider,
    "export": make_export,
    "score": make_score,
}


def parse() -> tuple[list[str], Run]:
    """Read the command line: the stages to run, and the run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=[*STAGES, "all"], help="what to make")
    parser.add_argument(
        "--work", type=Path, required=True, metavar="DIR", help="folder for checkpoints"
    )
    parser.add_argument(
        "--assets", type=Path, default=Path(__file__).resolve().parent, metavar="DIR",
        help="folder for the results (default: the folder of this script)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=2, help="CPU cores to use (default 2)")
    parser.add_argument(
        "--wider-steps", type=int, metavar="N", help="end the UNet's second schooling after N steps"
    )
    args = parser.parse_args()
    wider = WIDER if args.wider_steps is None else WIDER.ending_at(args.wider_steps)
    run = Run(args.assets, args.work, args.threads, wider)
    return list(STAGES) if args.stage == "all" else [args.stage], run


def main() -> None:
    """Run the stages that the command line names."""
    stages, run = parse()
    run.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(run.threads)
    for stage in stages:
        print(f"== {stage}", flush=True)
        STAGES[stage](run)


if __name__ == "__main__":
    main()
