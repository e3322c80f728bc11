"""How long the data side takes, and in how much memory.

    python -m benchmarks.data scan --pictures 100000 --folder DIR
    python -m benchmarks.data loader

`scan` makes a folder of synthetic pictures with captions (once; it is kept), and times in a process
of its own each: the first look (walk, captions, decoding, hashing, duplicates, index), the second
look through the index, and the walk with captions alone. Peak memory is the process's own (RSS).
`loader` is explained in `benchmarks.loader`.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

_PER_FOLDER = 1_000
_SIDE = 64


def main(argv: list[str] | None = None) -> int:
    """Run one measurement and print it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    scan = commands.add_parser("scan", help="scan, doctor and index")
    scan.add_argument("--pictures", type=int, default=100_000)
    scan.add_argument("--folder", type=Path, required=True, help="where the pictures are made")
    look = commands.add_parser("look", help="one look, as the others start it")
    look.add_argument("folder", type=Path)
    look.add_argument("index", type=Path)
    walk = commands.add_parser("walk", help="walk and captions alone, as the others start it")
    walk.add_argument("folder", type=Path)
    loader = commands.add_parser("loader", help="loading pictures against a plain PIL loop")
    loader.add_argument("--pictures", type=int, default=32)
    loader.add_argument("--pairs", type=int, default=12)
    loader.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(argv)
    if arguments.command == "look":
        _print(_measured(lambda: _look(arguments.folder, arguments.index)))
    elif arguments.command == "walk":
        _print(_measured(lambda: _walk(arguments.folder)))
    elif arguments.command == "loader":
        from benchmarks.loader import measure_loader

        _print(measure_loader(arguments.pictures, arguments.pairs, arguments.threads))
    else:
        _print(measure_scan(arguments.folder, arguments.pictures))
    return 0


def measure_scan(folder: Path, pictures: int) -> dict[str, object]:
    """Make the pictures where they are missing, and look at them twice."""
    make_pictures(folder, pictures)
    with tempfile.TemporaryDirectory() as index:
        first = _apart("look", str(folder), index)
        second = _apart("look", str(folder), index)
    return {
        "pictures": pictures,
        "first_look": first,
        "second_look": second,
        "walk_and_captions": _apart("walk", str(folder)),
    }


def make_pictures(folder: Path, count: int) -> None:
    """`count` small pictures unlike one another, each with a caption, a thousand to a folder."""
    for number in range(count):
        inner = folder / f"{number // _PER_FOLDER:04d}"
        path = inner / f"{number % _PER_FOLDER:03d}.jpg"
        if number % _PER_FOLDER == 0:
            if (inner / f"{min(_PER_FOLDER, count) - 1:03d}.txt").exists():
                continue
            inner.mkdir(parents=True, exist_ok=True)
        if path.with_suffix(".txt").exists():
            continue
        rough = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        picture = Image.fromarray(rough).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG")
        path.write_bytes(buffer.getvalue())
        path.with_suffix(".txt").write_text(f"picture number {number}, a synthetic one")


def _look(folder: Path, index: Path) -> dict[str, object]:
    from trainers.data.doctor import diagnose
    from trainers.spec import DataSpec

    report = diagnose(DataSpec(folder=str(folder), trigger="sks"), index_folder=index)
    return {"pictures": len(report.pictures), "kinds": report.kinds()}


def _walk(folder: Path) -> dict[str, object]:
    from trainers.data.scan import find
    from trainers.spec import DataSpec

    return {"pictures": len(find(DataSpec(folder=str(folder), trigger="sks")))}


def _measured(work: object) -> dict[str, object]:
    import resource

    assert callable(work)
    began, worked = time.perf_counter(), time.process_time()
    result = work()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform != "darwin":
        peak *= 1024  # kilobytes there
    return {
        **result,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "peak_rss_mb": round(peak / 1e6),
    }


def _apart(*arguments: str) -> object:
    """Run one command of this module in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.data", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _print(result: object) -> None:
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    sys.exit(main())
