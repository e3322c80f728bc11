"""Pictures a second: ours against a plain PIL loop over the same files, in turns.

The plain loop opens, crops to the square and makes a tensor, which is what each step of a trainer
without caches does. Ours are the loader that feeds the VAE (`decode`: any mode to upright sRGB,
buckets), and what a step reads once all is cached (`memory`, `disk`: mean and log-variance of
every picture, captions, sizes). The VAE itself is left out of all of them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from trainers.data.augment import to_pixels
from trainers.data.buckets import BucketRules
from trainers.data.cache import MemoryStore, Record, ShardStore, Store
from trainers.data.dataset import Dataset, VisitRules, place_in_buckets
from trainers.data.encoding import Job, ahead, load
from trainers.data.order import make_order
from trainers.data.scan import Picture

_SIDE = 512
_SIZES = ((768, 1024), (1024, 768), (900, 900), (720, 1280))
_BATCH = 4


def measure_loader(pictures: int, pairs: int, threads: int) -> dict[str, object]:
    """Medians over `pairs` rounds: seconds a picture of the plain loop, and each one's share."""
    with tempfile.TemporaryDirectory() as place:
        found = _make(Path(place), pictures)
        rules = BucketRules.around(_SIDE, 64)
        samples = place_in_buckets(found, rules, masked=False)

        def dataset(store: Store[Job]) -> Dataset:
            made = Dataset(samples, [], VisitRules(), _latents, store)
            made.fill(lambda done, total: None)
            return made

        ways: dict[str, Callable[[], None]] = {
            "decode": lambda: _decode(dataset_jobs, threads),
            "memory": lambda: _read(in_memory),
            "disk": lambda: _read(on_disk),
        }
        in_memory = dataset(MemoryStore())
        on_disk = dataset(ShardStore(Path(place) / "cache"))
        dataset_jobs = list(in_memory.wanted().values())
        plain: list[float] = []
        shares: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(pairs):
            for name, way in ways.items():
                floor = _seconds(lambda: _plain(found))
                shares[name].append(_seconds(way) / floor)
                plain.append(floor / pictures)
    return {
        "pictures": pictures,
        "threads": threads,
        "plain_loop_ms_a_picture": round(1000 * statistics.median(plain), 2),
        "time_over_plain_loop": {
            name: round(statistics.median(each), 4) for name, each in shares.items()
        },
    }


def _make(folder: Path, count: int) -> list[Picture]:
    """JPEGs of several shapes with the detail of a photograph, as far as file size goes."""
    found = []
    for number in range(count):
        height, width = _SIZES[number % len(_SIZES)]
        rough = np.random.default_rng(number).integers(0, 256, (height // 8, width // 8, 3))
        picture = Image.fromarray(rough.astype(np.uint8)).resize((width, height))
        path = folder / f"{number:03d}.jpg"
        picture.save(path, quality=90)
        found.append(Picture(path, (f"picture {number}",), name=path.name))
    return found


def _latents(jobs: Sequence[Job]) -> list[Record]:
    """Records of the right shapes, without a VAE."""
    records: list[Record] = []
    for job in jobs:
        height, width = (side // 8 for side in job.look.target_px)
        records.append({name: torch.randn(1, 4, height, width) for name in ("mean", "logvar")})
    return records


def _plain(pictures: Sequence[Picture]) -> None:
    for picture in pictures:
        with Image.open(str(picture.path)) as opened:
            to_pixels(ImageOps.fit(opened.convert("RGB"), (_SIDE, _SIDE), Image.Resampling.LANCZOS))


def _decode(jobs: Sequence[Job], threads: int) -> None:
    for _ in ahead(lambda job: load(job, None), jobs, threads):
        pass


def _read(dataset: Dataset) -> None:
    order = make_order(
        dataset.members(is_class=False), [], class_fraction=0.5, seed=0, batch_size=_BATCH,
        whole_epochs=True,
    )  # fmt: skip
    for number in range(order.batches_in_epochs(1)):
        for shown in dataset.show(order.batch(number)):
            shown.moments.sample(torch.zeros_like(shown.moments.mean))


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
