"""Pickled checkpoints: their tensors arrive, and nothing that a pickle says is ever done."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from lora_diffusion.families import load_base, unpickle
from tests.lora_diffusion.families.checks import message_of, same
from tests.lora_diffusion.families.sd15_models import Models, ldm_tensors, save_checkpoint

pytestmark = pytest.mark.usefixtures("no_network")

UNET = "model.diffusion_model."
Payload = Callable[[str], object]


class Call:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.parts


class Named:
    """A global that pickles by a name of our choosing, though it is not installed here."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self) -> None:
        """Pickle asks that what it writes as called can be."""


def touch(canary: str) -> str:
    return f"open({canary!r}, 'w').close()"


def by_hand(template: str) -> Payload:
    """A protocol-0 pickle; `{canary}` is filled in."""
    return lambda canary: template.format(canary=canary).encode()


def shell(canary: str) -> str:
    return f"touch {canary}"


# Name -> canary -> an object whose unpickling would create the canary, or such a pickle's bytes.
PAYLOADS: dict[str, Payload] = {
    "os.system": lambda c: Call(os.system, shell(c)),
    "os.popen": lambda c: Call(os.popen, shell(c)),
    "os.execvp": lambda c: Call(os.execvp, "touch", ["touch", c]),
    "os.mkdir": lambda c: Call(os.mkdir, c),
    "os.posix_spawn": lambda c: Call(os.posix_spawn, "/usr/bin/touch", ["touch", c], {}),
    "subprocess.Popen": lambda c: Call(subprocess.Popen, ["touch", c]),
    "subprocess.run": lambda c: Call(subprocess.run, ["touch", c]),
    "exec": lambda c: Call(exec, touch(c)),
    "eval": lambda c: Call(eval, touch(c)),
    "compile and exec": lambda c: Call(exec, Call(compile, touch(c), "x", "exec")),
    "open": lambda c: Call(open, c, "w"),
    "getattr": by_hand("cbuiltins\ngetattr\n(cos\n__dict__\nS'get'\ntR(S'{canary}'\ntR."),
    "torch's own loader": lambda c: Call(
        torch.storage._load_from_bytes, _saved(Call(os.system, shell(c)))
    ),
    "torch.load": lambda c: Call(torch.load, io.BytesIO(_saved(Call(os.system, shell(c))))),
    "torch.save": lambda c: Call(torch.save, 1, c),
    "pickle.loads": lambda c: Call(pickle.loads, pickle.dumps(Call(os.system, shell(c)))),
    "tensor.tofile": lambda c: Call(torch.Tensor.numpy, torch.ones(1), state=Call(open, c, "w")),
    "as a weight": lambda c: {UNET + "x": Call(os.system, shell(c))},
    "in the state": lambda c: {"state_dict": {UNET + "x": Call(os.system, shell(c))}},
    "beside the state": lambda c: {"state_dict": {}, "optimizer_states": Call(os.mkdir, c)},
    "as a key": lambda c: {Call(os.system, shell(c)): 1},
    "as an ordered table": lambda c: OrderedDict([("x", Call(os.system, shell(c)))]),
    "as an object's state": lambda c: Call(OrderedDict, state={"x": Call(os.mkdir, c)}),
    "as an argument of a tensor": lambda c: Call(
        torch._utils._rebuild_parameter, Call(os.mkdir, c), False, OrderedDict()
    ),
    "protocol 0, global": by_hand("cposix\nsystem\n(S'touch {canary}'\ntR."),
    "protocol 0, instance": by_hand("(S'touch {canary}'\nios\nsystem\n."),
    "protocol 0, object": by_hand("(cos\nsystem\nS'touch {canary}'\no."),
    "protocol 0, builtins": by_hand('c__builtin__\nexec\n(S\'open("{canary}", "w")\'\ntR.'),
    "a stand-in's module": by_hand(
        "cpytorch_lightning.callbacks.model_checkpoint\nos.system\n(S'touch {canary}'\ntR."
    ),
    "a stand-in called": lambda c: b"".join(
        [
            b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n",
            b"(cposix\nsystem\n(S'touch " + c.encode() + b"'\ntRtR.",
        ]
    ),
}


def _saved(thing: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def _pickled(thing: object) -> bytes:
    return thing if isinstance(thing, bytes) else pickle.dumps(thing, protocol=2)


def as_zip(thing: object) -> bytes:
    """As torch has written checkpoints since 1.6."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", _pickled(thing))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


def as_old_file(thing: object) -> bytes:
    """As torch wrote them before: magic number, protocol, machine, content, one pickle each."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    heads = [0x1950A86A20F9469CFC6C, 1001, machine]
    return b"".join(pickle.dumps(head, protocol=2) for head in heads) + _pickled(thing)


@pytest.mark.parametrize("layout", [as_zip, as_old_file])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_payload_runs(tmp_path: Path, payload: str, layout: Callable[[object], bytes]) -> None:
    canary, source, target = (tmp_path / n for n in ("canary", "a.ckpt", "out.safetensors"))
    source.write_bytes(layout(PAYLOADS[payload](str(canary))))
    with pytest.raises(unpickle.RefusedError):
        unpickle.extract(source, target)
    assert not canary.exists()
    assert not target.exists()


@pytest.mark.parametrize("payload", ["os.system", "os.mkdir", "exec", "protocol 0, builtins"])
def test_the_payloads_would_run_if_they_were_let(tmp_path: Path, payload: str) -> None:
    canary = tmp_path / "canary"
    pickle.loads(_pickled(PAYLOADS[payload](str(canary))))  # noqa: S301
    assert canary.exists()


def test_an_attack_is_one_sentence(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.ckpt"
    path.write_bytes(as_zip({"state_dict": Call(os.system, shell(str(canary)))}))
    message = message_of(path)
    assert message.startswith("model.ckpt: asks Python for posix.system")
    assert "Get the .safetensors version" in message
    assert not canary.exists()


@pytest.mark.parametrize("name", ["a.safetensors", "a.SafeTensors", "a.SAFETENSORS", "a", "a.gguf"])
@pytest.mark.parametrize("layout", [as_zip, as_old_file, pickle.dumps])
def test_a_pickle_under_another_name_is_never_opened(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    layout: Callable[[object], bytes],
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it was opened"))
    path = tmp_path / name
    path.write_bytes(layout(OrderedDict(x=Call(os.system, shell(str(tmp_path / "canary"))))))
    message = message_of(path)
    assert message.startswith(f"{name}: is a Python pickle under a name that hides it")
    assert not (tmp_path / "canary").exists()


def _with(name: str, data: bytes = b"", **settings: Any) -> bytes:
    buffer = io.BytesIO(as_zip({}))
    with zipfile.ZipFile(buffer, "a", **settings) as archive:
        archive.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def _tar(thing: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        data = pickle.dumps(thing)
        entry = tarfile.TarInfo("pickle")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("ending", ["ckpt", "CKPT", "pt", "pth", "bin"])
@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a checkpoint that PyTorch wrote"),
        (b"hello, world, how are you", "not a checkpoint that PyTorch wrote"),
        (b"<html>", "not a checkpoint that PyTorch wrote"),
        (pickle.dumps({}, protocol=0), "not a checkpoint that PyTorch wrote"),
        (pickle.dumps({}, protocol=5), "not a checkpoint that PyTorch wrote"),
        (_tar({}), "not a checkpoint that PyTorch wrote"),
        (b"PK\x03\x04" + bytes(40), "cut short or broken"),
        (as_zip({})[:-30], "cut short or broken"),
        (_with("constants.pkl"), "TorchScript"),
        (_with("deep/data.pkl"), "a zip archive, not a checkpoint"),
        (_with("data/0", bytes(1 << 20), compression=zipfile.ZIP_DEFLATED), "is compressed"),
    ],
)
def test_what_is_refused_before_a_process_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, says: str, ending: str
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it was opened"))
    path = tmp_path / f"model.{ending}"
    path.write_bytes(data)
    message = message_of(path)
    assert message.startswith(f"model.{ending}: ")
    assert says in message


def test_safetensors_content_is_read_as_such_under_any_name(
    tensors: dict[str, Tensor], models: Models, tmp_path: Path, words: Path
) -> None:
    path = save_checkpoint(tensors, tmp_path / "model.ckpt")
    lines: list[str] = []
    same(load_base(path, tokenizer=words, on_progress=lines.append), models)
    assert not any("pickled" in line for line in lines)


def official(models: Models) -> dict[str, Any]:
    """The official SD1.4 file's form: Lightning's training state around the weights."""
    tensors = ldm_tensors(models)
    tensors["model_ema.decay"] = torch.tensor(0.9999)
    monitor = Named("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    best = Call(Named("numpy.core.multiarray", "scalar"), b"1234")
    return {
        "epoch": 3,
        "global_step": 470_000,
        "callbacks": {monitor: {"best": best, "score": torch.tensor(0.1)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}],
        "state_dict": tensors,
    }


def save_official(contents: dict[str, Any], path: Path, *, zipped: bool = True) -> Path:
    """As `torch.save`, with `Named` globals under their name."""

    class Pickler(pickle._Pickler):  # the Python one, which can be taught names
        def save(self, obj: Any, save_persistent_id: bool = True) -> None:
            if isinstance(obj, Named):
                self.write(f"c{obj.module}\n{obj.name}\n".encode())
            else:
                super().save(obj, save_persistent_id)

    class Module:
        @staticmethod
        def dump(obj: Any, file: Any, protocol: int) -> None:
            Pickler(file, protocol).dump(obj)

    Module.Pickler = Pickler  # type: ignore[attr-defined]
    torch.save(contents, path, pickle_module=Module, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_checkpoint_opens_without_what_it_holds_besides(
    models: Models, tmp_path: Path, words: Path, zipped: bool
) -> None:
    path = save_official(official(models), tmp_path / "sd-v1-4.ckpt", zipped=zipped)
    lines: list[str] = []
    base = load_base(path, tokenizer=words, on_progress=lines.append)
    same(base, models)
    assert (base.arch, base.name, base.prediction) == ("sd15", "sd-v1-4", "epsilon")
    text = "\n".join(lines)
    assert "in a process of its own" in text
    assert "also holds callbacks, epoch, global_step, model_ema.* and 1 more, left out" in text


def test_the_yaml_beside_it_is_read(models: Models, tmp_path: Path, words: Path) -> None:
    path = tmp_path / "v.ckpt"
    torch.save(ldm_tensors(models), path)
    path.with_suffix(".yaml").write_text('    parameterization: "v"\n')
    assert load_base(path, tokenizer=words).prediction == "v_prediction"


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        ([1, 2], "holds a list where a table of weights belongs"),
        (torch.ones(2), "holds a Tensor where a table of weights belongs"),
        ({}, "holds no weights"),
        ({"state_dict": {"a": 1}}, "holds no weights"),
        ({"a": torch.ones(2, device="meta")}, "not as plain numbers"),
        ({"a": torch.ones(2, 2).to_sparse()}, "not as plain numbers"),
        ({"a": torch.ones(1).expand(1 << 40)}, "unfolds to"),
    ],
)
def test_pickles_without_plain_weights(tmp_path: Path, thing: object, says: str) -> None:
    path = tmp_path / "a.ckpt"
    torch.save(thing, path)
    with pytest.raises(unpickle.RefusedError) as caught:
        unpickle.extract(path, tmp_path / "out")
    assert says in str(caught.value)


def test_an_optimizer_of_another_program_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {}, "loop": pickletools.OpcodeInfo}, path)
    with pytest.raises(unpickle.RefusedError, match=r"asks Python for pickletools\.OpcodeInfo"):
        unpickle.extract(path, tmp_path / "out")


def test_shared_and_turned_tensors_arrive(tmp_path: Path) -> None:
    one = torch.arange(6.0).reshape(2, 3)
    path, target = tmp_path / "a.ckpt", tmp_path / "out"
    torch.save({"a": one, "b": one, "c": one.T, "d": torch.nn.Parameter(one.half())}, path)
    assert unpickle.extract(path, target) == []
    with safe_open(target, "pt") as file:
        assert torch.equal(file.get_tensor("b"), one)
        assert torch.equal(file.get_tensor("c"), one.T)
        assert file.get_tensor("d").dtype == torch.float16


@pytest.mark.parametrize(
    "action",
    [
        "os.system('touch CANARY')",
        "import subprocess; subprocess.run(['touch', 'CANARY'])",
        "open('CANARY', 'w')",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "os.posix_spawn('/usr/bin/touch', ['touch', 'CANARY'], {})",
        "os.rename('other', 'CANARY')",
    ],
)
def test_the_process_ends_at_what_reading_never_does(tmp_path: Path, action: str) -> None:
    (tmp_path / "other").touch()
    here = Path(unpickle.__file__).parent
    # torch is replaced by nothing: the guard does not need it, and its import takes seconds.
    code = (
        "import os, sys, types; from unittest.mock import MagicMock\n"
        "sys.modules |= {n: MagicMock() for n in ('torch', 'safetensors', 'safetensors.torch')}\n"
        f"sys.path.insert(0, {str(here)!r}); import unpickle, pathlib\n"
        "unpickle.forbid_actions(pathlib.Path('target'))\n"
        "open('target', 'w').close()\n" + action
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert done.returncode == unpickle.FORBIDDEN_EXIT, done.stderr
    assert (tmp_path / "target").exists()
    assert not (tmp_path / "CANARY").exists()


def test_a_process_that_dies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"a": torch.ones(1)}, path)
    run = subprocess.run
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda *_, **__: run(
            [sys.executable, "-c", "import os; os.abort()"], capture_output=True, text=True
        ),
    )
    assert "cannot be read (exit code -6)" in message_of(path)


def test_no_room_for_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"a": torch.ones(1)}, path)
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert "TMPDIR" in message_of(path)
