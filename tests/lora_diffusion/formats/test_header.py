"""The strict header reader: what it takes, and that it refuses the rest by name and cause."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lora_diffusion.errors import AdapterFileError
from lora_diffusion.formats.header import MAX_HEADER_BYTES, MAX_TENSORS, read_header

Write = Callable[..., Path]


def entry(shape: Any, start: int, end: int, dtype: Any = "F16") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def refused(path: Path, *words: str) -> str:
    with pytest.raises(AdapterFileError) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(path.name.replace("\x1b", "")), message
    for word in words:
        assert word in message, message
    assert "\n" not in message
    return message


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    tensors = {"b.x": torch.ones(2, 3), "a": torch.tensor(1.0, dtype=torch.bfloat16)}
    save_file(tensors, path, {"key": "välue"})
    header = read_header(path)
    assert header.tensors["b.x"].shape == (2, 3)
    assert header.tensors["b.x"].dtype == "F32"
    assert header.tensors["a"].shape == ()
    assert header.tensors["a"].elements == 1
    assert header.metadata == {"key": "välue"}
    assert header.file_bytes == path.stat().st_size
    assert header.data_start == header.file_bytes - 24 - 2
    assert list(header.tensors) == ["b.x", "a"]  # by position, not by name


def test_a_header_without_metadata_has_none(raw_file: Write) -> None:
    assert read_header(raw_file({"a": entry([1], 0, 2)}, b"\0\0")).metadata == {}


BAD_HEADERS: list[tuple[str, dict[str, Any] | str, bytes, str]] = [
    ("overlap", {"a": entry([2], 0, 4), "b": entry([2], 2, 6)}, bytes(6), "overlaps"),
    ("same range", {"a": entry([2], 0, 4), "b": entry([2], 0, 4)}, bytes(4), "overlaps"),
    ("gap", {"a": entry([1], 0, 2), "b": entry([1], 4, 6)}, bytes(6), "gap"),
    ("gap at start", {"a": entry([1], 2, 4)}, bytes(4), "gap"),
    ("mismatch", {"a": entry([3], 0, 4)}, bytes(4), "needs 6 bytes"),
    ("backwards", {"a": entry([1], 4, 2)}, bytes(4), "byte range has -2"),
    ("truncated", {"a": entry([4], 0, 8)}, bytes(7), "cut short"),
    ("overhang", {"a": entry([4], 0, 8)}, bytes(9), "belong to nothing"),
    ("zero size", {"a": entry([0, 1 << 40], 0, 0)}, b"", "empty"),
    ("huge", {"a": entry([1 << 40, 1 << 40], 0, 4)}, bytes(4), "needs"),
    ("rank", {"a": entry([1] * 9, 0, 2)}, bytes(2), "9 dimensions"),
    ("rank 10,000", {"a": entry([1] * 10_000, 0, 2)}, bytes(2), "10000 dimensions"),
    ("dtype", {"a": entry([1], 0, 2, "F12")}, bytes(2), "unknown dtype"),
    ("dtype list", {"a": entry([1], 0, 2, ["F16"])}, bytes(2), "unknown dtype"),
    ("bool shape", {"a": entry([True], 0, 2)}, bytes(2), "whole numbers"),
    ("negative", {"a": entry([-1], 0, 2)}, bytes(2), "whole numbers"),
    ("string shape", {"a": entry("1", 0, 2)}, bytes(2), "whole numbers"),
    ("float shape", '{"a":{"dtype":"F16","shape":[1.0],"data_offsets":[0,2]}}', bytes(2), "1.0"),
    ("NaN", '{"a":{"dtype":"F16","shape":[NaN],"data_offsets":[0,2]}}', bytes(2), "NaN"),
    (
        "4,000 digits",
        '{"a":{"dtype":"F16","shape":[' + "9" * 4_000 + '],"data_offsets":[0,2]}}',
        bytes(2),
        "absurdly large",
    ),
    ("three offsets", {"a": {**entry([1], 0, 2), "data_offsets": [0, 2, 4]}}, bytes(2), "range"),
    ("extra field", {"a": {**entry([1], 0, 2), "code": "x"}}, bytes(2), "no valid dtype"),
    ("missing field", {"a": {"dtype": "F16", "shape": [1]}}, bytes(2), "no valid dtype"),
    ("entry list", {"a": [1, 2]}, bytes(2), "no valid dtype"),
    ("escape name", {"a\x1b[31m": entry([1], 0, 2)}, bytes(2), "characters no adapter uses"),
    ("path name", {"../a b": entry([1], 0, 2)}, bytes(2), "characters no adapter uses"),
    ("empty name", {"": entry([1], 0, 2)}, bytes(2), "characters no adapter uses"),
    ("long name", {"a" * 401: entry([1], 0, 2)}, bytes(2), "characters no adapter uses"),
    ("metadata number", {"__metadata__": {"k": 1}, "a": entry([1], 0, 2)}, bytes(2), "'k'"),
    ("metadata nested", {"__metadata__": {"k": {"x": "y"}}}, b"", "'k'"),
    ("metadata list", {"__metadata__": ["k"]}, b"", "not a table"),
    ("metadata null", '{"__metadata__":null}', b"", "not a table"),
    ("lone surrogate", '{"__metadata__":{"k":"\\ud800"}}', b"", "Unicode"),
    ("duplicate tensor", '{"a":1,"a":2}', b"", "'a' twice"),
    ("duplicate metadata", '{"__metadata__":{"k":"1","k":"2"}}', b"", "'k' twice"),
    ("not JSON", '{"a":', b"", "not valid JSON"),
    ("trailing", '{} {"b":1}', b"", "not valid JSON"),
    ("deep", '{"a":' + "[" * 200_000, b"", "not valid JSON"),
    ("raw newline", '{"__metadata__":{"k":"a\nb"}}', b"", "not valid JSON"),
]


@pytest.mark.parametrize(
    ("header", "data", "cause"), [case[1:] for case in BAD_HEADERS], ids=[c[0] for c in BAD_HEADERS]
)
def test_refuses_bad_headers(
    raw_file: Write, header: dict[str, Any] | str, data: bytes, cause: str
) -> None:
    refused(raw_file(header, data), cause)


def test_refuses_bytes_that_are_not_utf8(raw_file: Write) -> None:
    refused(raw_file(b'{"\xff":1}'), "UTF-8")


def test_refuses_a_header_longer_than_the_file(raw_file: Write) -> None:
    refused(raw_file("{}", length=5_000), "cut short")


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 1 << 40, (1 << 64) - 1])
def test_refuses_a_huge_header_without_reading_it(raw_file: Write, length: int) -> None:
    refused(raw_file("{}", length=length), "more than the 8388608 allowed")


def test_refuses_too_many_tensors_quickly(raw_file: Write) -> None:
    names = {f"t{i}": entry([], i, i + 1, "U8") for i in range(MAX_TENSORS + 1)}
    path = raw_file(names, bytes(len(names)))
    started = time.perf_counter()
    refused(path, f"the {MAX_TENSORS} ")
    assert time.perf_counter() - started < 5


def test_counts_objects_wherever_they_are(raw_file: Write) -> None:
    """Parsing stops at the limit, though one tensor's entry is where they all are."""
    refused(raw_file('{"a":[' + ",".join(["{}"] * 1_000_000) + "]}"), f"the {MAX_TENSORS} tensors")


def test_takes_as_many_tensors_as_allowed(raw_file: Write) -> None:
    names = {f"t{i}": entry([], i, i + 1, "U8") for i in range(MAX_TENSORS)}
    assert len(read_header(raw_file(names, bytes(len(names)))).tensors) == MAX_TENSORS


@pytest.mark.parametrize(
    "filler", ["[", '{"a":', '"a",', "1,", '{},"', "\\u0041"], ids=lambda f: f"8MB of {f}"
)
def test_eight_hostile_megabytes_stay_bounded(raw_file: Write, filler: str) -> None:
    text = '{"a":[' + filler * ((MAX_HEADER_BYTES - 100) // len(filler))
    path = raw_file(text)
    tracemalloc.start()
    started = time.perf_counter()
    refused(path)
    seconds = time.perf_counter() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 10
    assert peak < 256 << 20


def test_says_what_a_pickle_or_archive_is(tmp_path: Path) -> None:
    legacy, zipped = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    legacy.write_bytes(pickle.dumps({"a": list(range(100))}))
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    refused(legacy, "pickle", "refused")
    refused(zipped, "zip", "pickle", "refused")
    modern = tmp_path / "torch.ckpt"
    torch.save({"a": torch.ones(2)}, modern)
    refused(modern, "zip", "pickle")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "0 bytes"),
        (b"\x02\0\0", "3 bytes"),
        (b"<!DOCTYPE html><title>Log in</title>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "PNG"),
        (b"GGUF" + bytes(40), "GGUF"),
        (b"just some text that is no model", "not a safetensors file"),
    ],
)
def test_says_what_another_file_is(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "it.safetensors"
    path.write_bytes(content)
    refused(path, cause)


def test_refuses_missing_files_folders_and_pipes(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "no such file")
    refused(tmp_path, "a folder")
    with pytest.raises(AdapterFileError, match="cannot be read"):
        read_header("nul\0byte")
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    refused(pipe, "not a regular file")  # and does not wait for a writer


def test_file_names_lose_their_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b]0;owned\x07\u202eb.safetensors"
    path.write_bytes(b"")
    with pytest.raises(AdapterFileError) as caught:
        read_header(path)
    assert str(caught.value).startswith("a]0;ownedb.safetensors: ")


def test_the_torch_free_modules_stay_so() -> None:
    modules = ("header", "hash", "metadata", "summary", "describe", "layout", "raw", "reading")
    imports = ", ".join(f"lora_diffusion.formats.{module}" for module in modules)
    code = f"import {imports}, sys; print(json := 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_padding_after_the_json_is_allowed(raw_file: Write) -> None:
    text = json.dumps({"a": entry([1], 0, 2)}) + "     "
    assert list(read_header(raw_file(text, bytes(2))).tensors) == ["a"]
