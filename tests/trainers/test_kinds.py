"""Each kind of adapter through the trainer: identity, training, export, resume, start from a file.

A few steps on the demo base in this process; one base serves all tests, and each must leave it as
it was.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_diffusion import attach, bundled, load
from lora_diffusion.adapter import AdapterFile
from lora_diffusion.errors import InputError
from lora_diffusion.families import DiffusionBase, load_base
from lora_diffusion.formats.describe import describe
from lora_diffusion.formats.metadata import facts_from_metadata
from lora_diffusion.injection import AdapterHandle
from trainers import checkpoint, setup
from trainers.batch import Batches
from trainers.data import prepare, scan
from trainers.data.dataset import Dataset
from trainers.data.scan import Picture
from trainers.export import Exporter
from trainers.layering import build_spec
from trainers.loop import Trainer
from trainers.machine import devices
from trainers.optim import make_optimizer
from trainers.spec import JobSpec

STEPS = 2
SETTINGS = {
    "adapter": {"rank": 4, "alpha": 2.0},
    "optim": {"lr_unet": 1e-2, "lr_text": 1e-3, "lr_warmup_ratio": 0.0, "weight_decay": 0.1},
    "data": {"folder": "bundled:demo_character", "trigger": "sks"},
    "model": {"precision": "fp32", "device": "cpu"},
    "schedule": {"steps": STEPS, "batch_size": 2},
    "save": {"dtype": "fp32"},
}
COMMON = {**SETTINGS["adapter"], "neuron_dropout": 0.1}
KINDS = {
    "lora": {"kind": "lora", **COMMON},
    "rslora": {"kind": "rslora", **COMMON},
    "dora": {"kind": "dora", **COMMON},
    "dora-out": {"kind": "dora", "dora_axis": "out", **COMMON},
    "locon": {**COMMON, "targets": "all", "conv_rank": 2},
    "loha": {"kind": "loha", "rank": 4, "alpha": 2.0, "targets": "all", "conv_rank": 2},
    "lokr": {"kind": "lokr", "rank": 2, "alpha": 1.0, "targets": "all", "lokr_factor": 4},
}
PARTS = ("unet", "text_encoder")


@pytest.fixture(scope="module")
def base() -> DiffusionBase:
    return load_base(bundled.resolve("bundled:demo_base"))


@pytest.fixture(scope="module")
def plain(base) -> torch.Tensor:
    """What the base predicts without any adapter."""
    return predict(base)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def dataset(base) -> Dataset:
    spec = build_spec([SETTINGS])
    made = prepare.make_dataset(base, spec, scan.find(spec.data)[:4], [])
    made.fill(lambda *_: None)
    return made


@dataclass
class Made:
    """A trainer and what it is made of."""

    trainer: Trainer
    spec: JobSpec
    optimizer: torch.optim.Optimizer

    @property
    def handle(self):
        return self.trainer.handle

    def train(self, first: int = 0, last: int = STEPS) -> Made:
        self.trainer.set_training()
        for step in range(first, last):
            assert self.trainer.step(step).loss > 0
        return self

    def parameters(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self.handle.parameters()]

    def output(self) -> torch.Tensor:
        return predict(self.trainer.base)

    def save(self, folder: Path, step: int) -> checkpoint.Checkpoint:
        spec = self.spec.model_dump(mode="json")
        path = checkpoint.save(
            folder, step=step, spec=spec, dataset="d", scaler={}, handle=self.handle,
            optimizer=self.optimizer, average={}, memory={}, keep=1,
        )  # fmt: skip
        return checkpoint.read(path)


@torch.no_grad()
def predict(base) -> torch.Tensor:
    for part in base.parts.values():
        part.eval()
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return base.predict(latents, torch.tensor([300]), base.encode_prompts(["a photo of sks"]))


@pytest.fixture
def make(base, dataset):
    """Trainers on the one base; the newest takes the place of the one before."""
    handles: list[AdapterHandle] = []

    def made(*, begin: AdapterFile | None = None, **changes) -> Made:
        if handles:
            handles.pop().remove()
        return make_trainer(base, dataset, begin, changes, handles)

    yield made
    for handle in handles:
        handle.remove()
    for part in base.parts.values():
        if hasattr(part, "disable_gradient_checkpointing"):
            part.disable_gradient_checkpointing()
        else:
            part.activation_checkpointing_disable()


def make_trainer(
    base: DiffusionBase,
    dataset: Dataset,
    begin: AdapterFile | None,
    changes: dict[str, Any],
    handles: list[AdapterHandle],
) -> Made:
    """A trainer; its handle is put on `handles` as soon as the base has an adapter."""
    spec = build_spec([SETTINGS, changes])
    placement = devices.choose(spec.model)
    handle = setup.put_adapter(base, spec)
    handles.append(handle)
    if begin:
        setup.start_from(handle, begin, spec.adapter)
    optimizer = make_optimizer(spec.optim, handle)
    prompts = setup.cache_prompts(base, spec, dataset, None, lambda *_: None)
    order = prepare.make_run_order(spec, dataset)
    trainer = Trainer(
        spec,
        STEPS,
        base,
        handle,
        Batches(spec, base, dataset, order, pads_captions=prompts is None),
        devices.make_accelerator(placement),
        optimizer,
        prompts,
    )
    return Made(trainer, spec, optimizer)


def export(made: Made, path: Path) -> Path:
    exporter = Exporter(
        spec=made.spec,
        base=made.trainer.base,
        base_hash="",
        pictures=[Picture(Path("a.png"), ("a",))],
        class_pictures=0,
        precision="fp32",
        buckets=[],
        resolution_px=64,
        started=time.time(),
        steps_per_epoch=7,
    )
    exporter.write(made.handle, path, STEPS, time.time(), None)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_starts_as_the_base_trains_and_comes_back_the_same(make, plain, kind):
    made = make(adapter=KINDS[kind])
    assert torch.equal(made.output(), plain)
    before = made.parameters()
    made.train()
    assert all(
        not torch.equal(old, new) for old, new in zip(before, made.parameters(), strict=True)
    )
    trained = made.output()
    assert not torch.allclose(trained, plain)
    file = made.handle.to_file("sd15")
    made.handle.remove()
    assert torch.equal(made.output(), plain)
    again = attach(made.trainer.base.parts, file)
    assert torch.equal(made.output(), trained)
    again.merge()
    torch.testing.assert_close(made.output(), trained, rtol=1e-3, atol=1e-4)
    again.remove()
    assert torch.equal(made.output(), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kinds_file_gives_the_same_output(make, tmp_path, kind):
    made = make(adapter=KINDS[kind]).train()
    expected = made.output()
    path = export(made, tmp_path / "mine.safetensors")
    made.handle.remove()
    again = attach(made.trainer.base.parts, load(path, made.trainer.base.shapes()))
    torch.testing.assert_close(made.output(), expected, rtol=1e-5, atol=1e-6)
    again.remove()
    told = facts_from_metadata(load(path).metadata)
    assert told is not None
    assert told.kind == kind.removesuffix("-out")
    if kind.startswith("dora"):
        assert told.network_args["wd_on_output"] == str(kind == "dora-out")
    if kind == "rslora":
        assert (told.rank, told.alpha) == (4, 4.0)
        assert {f.alpha for f in load(path).layers.values()} == {4.0}
        assert told.network_args["rs_lora"] == "True"
    if kind in ("loha", "lokr"):
        assert told.network_args["algo"] == kind
        metadata = load(path).metadata
        assert metadata["ss_network_module"] == "lycoris.kohya"
        assert {factors.kind for factors in load(path).layers.values()} == {kind}
        assert describe(path).kind == kind
    if kind == "locon":
        assert (told.network_args["conv_dim"], told.network_args["conv_alpha"]) == ("2", "1")
        sizes = {(f.weight_shape[2:] == (3, 3), f.rank) for f in load(path).layers.values()}
        assert sizes == {(True, 2), (False, 4)}


PLUS = {"lora_plus_ratio": 4.0, "lr_patterns": {"*.attn2.*": 0.5, "text_encoder.*": 2.0}}


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": KINDS["dora"]},
        {"adapter": KINDS["dora-out"], "optim": PLUS},
        {"optim": PLUS},
        {"adapter": KINDS["loha"]},
        {"adapter": KINDS["lokr"]},
    ],
    ids=["dora", "dora-out-lora+", "lora+", "loha", "lokr"],
)
def test_resuming_gives_the_same_bits(make, tmp_path, changes):
    whole = make(**changes).train(last=1)
    point = whole.save(tmp_path, 1)
    expected = whole.train(1).parameters()
    again = make(**changes)
    checkpoint.restore(point, again.handle, again.optimizer, None)
    again.train(1)
    for one, other in zip(expected, again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_dora_trains_the_same_with_recomputed_activations(make):
    plain = make(adapter=KINDS["dora"]).train().parameters()
    settings = {"model": {"gradient_checkpointing": True}}
    again = make(adapter=KINDS["dora"], **settings).train().parameters()
    one, other = (torch.cat([p.flatten() for p in each]) for each in (plain, again))
    assert (one - other).norm() / one.norm() < 1e-3


def test_dora_trains_on_a_bf16_base(dataset):
    base = load_base(bundled.resolve("bundled:demo_base"), dtype=torch.bfloat16)
    settings = {"adapter": KINDS["dora"], "model": {"precision": "bf16"}}
    made = make_trainer(base, dataset, None, settings, [])
    before = made.parameters()
    made.train()
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    assert all(
        torch.isfinite(new).all() and not torch.equal(old, new)
        for old, new in zip(before, made.parameters(), strict=True)
    )


@pytest.mark.parametrize("kind", ["lora", "dora", "loha", "lokr"])
def test_a_run_begins_with_an_adapter(make, kind):
    made = make(adapter=KINDS[kind]).train()
    expected = made.output()
    file = made.handle.to_file("sd15")
    wider = {**KINDS[kind], "alpha": 2.0 if kind == "dora" else 8.0, "text_targets": "attn+ff"}
    again = make(begin=file, adapter=wider)
    assert len(again.handle.layers) > len(file.layers)
    assert {adapter.alpha for key, adapter in again.handle.adapters("text_encoder")} == {
        wider["alpha"]
    }
    torch.testing.assert_close(again.output(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "adapter", "words"),
    [
        ("lora", {"rank": 8}, ["has the rank 4", "adapter.rank to 4"]),
        ("lora", {"kind": "dora", "rank": 4}, ["adapter.kind to lora"]),
        ("dora", {"rank": 4}, ["adapter.kind to dora", "adapter.dora_axis to in"]),
        ("dora", {**KINDS["dora-out"]}, ["adapter.dora_axis to in"]),
        ("loha", {"kind": "lora", "rank": 4, "targets": "all"}, ["adapter.kind to loha"]),
        ("lokr", {**KINDS["lokr"], "lokr_factor": 2}, ["adapter.lokr_factor"]),
        ("lokr", {**KINDS["lokr"], "rank": 3}, ["has the rank 2", "adapter.conv_rank to 2"]),
        ("locon", {"rank": 4, "targets": "transformer"}, ["adapter.targets"]),
        ("locon", {"rank": 4, "targets": "all"}, ["adapter.conv_rank to 2"]),
    ],
)
def test_an_adapter_that_does_not_fit_is_one_error(make, kind, adapter, words):
    file = make(adapter=KINDS[kind]).handle.to_file("sd15")
    with pytest.raises(InputError) as caught:
        make(begin=file, adapter={"start_from": "some/old.safetensors", **adapter})
    for word in ["adapter.start_from: some/old.safetensors", *words]:
        assert word in str(caught.value)


def test_the_real_command_starts_from_a_file_and_resumes(make, tmp_path, train):
    from tests.trainers.conftest import FAST, assert_same_tensors

    made = make(adapter={**KINDS["rslora"], "rank": 2}).train()
    old = export(made, tmp_path / "old.safetensors")
    options = [
        *FAST, "--preview.enabled", "false", "--data.class_pictures", "0", "--save.dtype", "fp32",
        "--save.checkpoint_every_steps", "1", "--adapter.kind", "rslora", "--adapter.targets",
        "attn", "--adapter.rank", "2", "--adapter.start_from", old, "--save.name", "new",
        "--optim.lora_plus_ratio", "16", "--schedule.steps", "2",
    ]  # fmt: skip
    train(*options, "--output_dir", tmp_path / "run")
    old.rename(tmp_path / "moved.safetensors")  # a resumed run does not need it
    again = tmp_path / "again"
    (again / "checkpoints").mkdir(parents=True)
    name = "step-00000001.safetensors"
    (again / "checkpoints" / name).write_bytes((tmp_path / "run/checkpoints" / name).read_bytes())
    (again / "spec.toml").write_bytes((tmp_path / "run" / "spec.toml").read_bytes())
    train("--output_dir", again, "--resume")
    assert_same_tensors(tmp_path / "run" / "new.safetensors", again / "new.safetensors")
    metadata = load(again / "new.safetensors").metadata
    assert str(tmp_path) not in str(dict(metadata))
    assert "loraplus_lr_ratio" in metadata["ss_network_args"]
    missing = train(*options, "--output_dir", tmp_path / "other", check=2)
    assert "adapter.start_from" in missing.stderr
    assert "old.safetensors" in missing.stderr
    assert "Traceback" not in missing.stderr
