"""Each optimizer: its settings, that it trains, and that it goes on from a checkpoint."""

from __future__ import annotations

import sys
from typing import get_args

import pytest
import torch

from lora_diffusion.errors import InputError
from lora_diffusion.injection import AdapterConfig, AdapterHandle, inject
from tests.conftest import make_parts
from trainers import checkpoint
from trainers.argv import to_argv
from trainers.layering import build_spec
from trainers.optim import limit_norms, make_optimizer, set_lr, shown_lr
from trainers.optim.averaging import ShownWeights
from trainers.spec import OptimizerKind, OptimSpec

KINDS = get_args(OptimizerKind)
RANK = 64  # adamw8bit keeps 8 bits for tensors from 4,096 numbers


def made(kind: str, seed: int = 0, **settings) -> tuple[AdapterHandle, torch.optim.Optimizer]:
    handle = inject(make_parts(), AdapterConfig(rank=RANK, targets="*.attn2.to_q", seed=seed))
    return handle, make_optimizer(OptimSpec(kind=kind, **settings), handle)


def step(handle: AdapterHandle, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """One update on made-up gradients, the same for the same seed."""
    set_lr(optimizer, 1 / (1 + seed))
    source = torch.Generator().manual_seed(seed)
    for parameter in handle.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=source)
    optimizer.step()
    optimizer.zero_grad()


def save(folder, handle, optimizer, average=None):
    path = checkpoint.save(
        folder, step=2, spec={}, dataset="", scaler={}, handle=handle, optimizer=optimizer,
        average=average or {}, keep=1,
        memory={},
    )  # fmt: skip
    return checkpoint.read(path)


def same(one: AdapterHandle, other: AdapterHandle) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_optimizer_takes_the_same_steps(tmp_path, kind):
    handle, optimizer = made(kind)
    for seed in range(3):
        step(handle, optimizer, seed)
    point = save(tmp_path, handle, optimizer)
    again, other = made(kind, seed=9)
    checkpoint.restore(point, again, other, None)
    assert same(handle, again)
    for seed in range(3, 6):
        step(handle, optimizer, seed)
        step(again, other, seed)
        assert same(handle, again)
    assert shown_lr(optimizer) == shown_lr(other)


@pytest.mark.parametrize("kind", KINDS)
def test_each_optimizer_descends(kind):
    """From a fixed point away, its rate times enough steps closes most of the distance."""
    handle, optimizer = made(kind)
    goal = [torch.full_like(p, 0.05) for p in handle.parameters()]

    def distance() -> torch.Tensor:
        pairs = zip(handle.parameters(), goal, strict=True)
        return sum(((p - g).square().sum() for p, g in pairs), torch.zeros(()))

    before = distance().item()
    if kind != "prodigy":
        set_lr(optimizer, 1e-2 / optimizer.param_groups[0]["base_lr"])
    for _ in range(200):
        distance().backward()
        optimizer.step()
        optimizer.zero_grad()
    with ShownWeights(handle, optimizer, None).in_place():
        assert distance().item() < 0.5 * before


def test_a_fork_to_another_optimizer_starts_it_afresh(tmp_path):
    handle, optimizer = made("adamw")
    step(handle, optimizer, 0)
    point = save(tmp_path, handle, optimizer)
    again, other = made("prodigy", seed=9)
    checkpoint.restore(point, again, other, None)
    assert same(handle, again)
    assert not other.state
    step(again, other, 1)


def test_prodigy_shows_the_rate_that_it_finds():
    handle, optimizer = made("prodigy")
    assert shown_lr(optimizer) == pytest.approx(1e-6)
    for _ in range(40):
        step(handle, optimizer, 0)
    assert shown_lr(optimizer) > 1e-5


def test_schedule_free_shows_its_average_and_trains_on_unchanged():
    handle, optimizer = made("schedulefree")
    shown = ShownWeights(handle, optimizer, None)
    for seed in range(3):
        step(handle, optimizer, seed)
    trained = [p.detach().clone() for p in handle.parameters()]
    beta1 = 0.9
    with shown.in_place():
        for p, y in zip(handle.parameters(), trained, strict=True):
            # y = beta1 x + (1 - beta1) z (Defazio et al., arXiv:2405.15682, eq. 2)
            z = optimizer.state[p]["z"]
            torch.testing.assert_close(p.detach(), (y - (1 - beta1) * z) / beta1)
            assert not torch.equal(p, y)
    assert all(torch.equal(p, y) for p, y in zip(handle.parameters(), trained, strict=True))
    step(handle, optimizer, 3)  # still in training mode


def test_the_moving_average_warms_up_and_goes_on_from_a_checkpoint(tmp_path):
    handle, optimizer = made("adamw", lr_unet=1e-2)
    shown = ShownWeights(handle, optimizer, 0.3)
    expected = [p.detach().clone() for p in handle.parameters()]
    for number in range(4):
        step(handle, optimizer, number)
        shown.follow(number)
        decay = min(0.3, (1 + number) / (10 + number))
        expected = [
            decay * e + (1 - decay) * p.detach()
            for e, p in zip(expected, handle.parameters(), strict=True)
        ]
        if number == 1:
            point = save(tmp_path, handle, optimizer, shown.average)
    trained = [p.detach().clone() for p in handle.parameters()]
    with pytest.raises(ZeroDivisionError), shown.in_place():
        for p, e in zip(handle.parameters(), expected, strict=True):
            torch.testing.assert_close(p.detach(), e)
        raise ZeroDivisionError  # a failed preview
    assert all(torch.equal(p, t) for p, t in zip(handle.parameters(), trained, strict=True))

    again, other = made("adamw", seed=9, lr_unet=1e-2)
    checkpoint.restore(point, again, other, None)
    resumed = ShownWeights(again, other, 0.3)
    resumed.restore(checkpoint.average(point))
    for number in (2, 3):
        step(again, other, number)
        resumed.follow(number)
    for name, value in shown.average.items():
        assert torch.equal(value, resumed.average[name])


def test_without_an_average_what_is_shown_is_the_adapter():
    handle, optimizer = made("adamw")
    before = [p.detach().clone() for p in handle.parameters()]
    with ShownWeights(handle, optimizer, None).in_place():
        assert all(torch.equal(p, b) for p, b in zip(handle.parameters(), before, strict=True))


def test_a_larger_norm_is_scaled_down_and_a_smaller_one_left_alone():
    handle, _ = made("adamw")
    with torch.no_grad():
        for index, (_, adapter) in enumerate(handle.adapters()):
            adapter.up.fill_(1.0 if index == 0 else 1e-6)
    deltas = [adapter.delta(torch.empty(0)) for _, adapter in handle.adapters()]
    limit_norms(handle, 0.5)
    for index, (_, adapter) in enumerate(handle.adapters()):
        now, before = adapter.delta(torch.empty(0)), deltas[index]
        if before.norm() > 0.5:
            torch.testing.assert_close(now, before * (0.5 / before.norm()))
        else:
            assert torch.equal(now, before)
    norms = [float(d.detach().norm()) for d in deltas]
    assert max(norms) > 0.5 > min(norms)


def test_each_kind_has_its_own_defaults():
    assert OptimSpec().beta2 == 0.999
    lion = OptimSpec(kind="lion", beta1=None)
    assert (lion.beta1, lion.beta2, lion.epsilon) == (0.9, 0.99, None)
    assert OptimSpec(kind="prodigy").lr_unet == 1.0
    below = {"optim": {"kind": "adamw", "lr_unet": 3e-3, "epsilon": 1e-6}}
    changed = build_spec([below, {"optim": {"kind": "prodigy"}}])
    assert (changed.optim.lr_unet, changed.optim.epsilon) == (1.0, 1e-8)
    assert to_argv(changed)[:2] == ["--optim.kind", "prodigy"]
    same_rate = build_spec([{"optim": {"kind": "lion", "lr_unet": 1e-4}}])
    assert "--optim.lr_unet" in to_argv(same_rate)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "adam"}, ["optim.kind", "adamw8bit"]),
        ({"kind": "adafactor", "beta1": 0.5}, ["optim.beta1", "adafactor"]),
        ({"kind": "lion", "epsilon": 1e-6}, ["optim.epsilon", "lion"]),
        ({"d_coef": 2.0}, ["optim.d_coef", "adamw"]),
        ({"lr_cycles": 2}, ["optim.lr_cycles", "cosine"]),
        ({"lr_schedule": "rex", "lr_power": 2.0}, ["optim.lr_power", "rex"]),
        ({"kind": "prodigy", "lr_text": 0.5}, ["prodigy", "optim.lr_text", "same value"]),
        ({"kind": "prodigy", "lora_plus_ratio": 4.0}, ["prodigy", "optim.lora_plus_ratio"]),
        ({"kind": "prodigy", "lr_patterns": {"*": 0.5}}, ["prodigy", "optim.lr_patterns"]),
        ({"kind": "schedulefree", "lr_schedule": "cosine"}, ["schedulefree", "constant"]),
        ({"kind": "schedulefree", "ema_decay": 0.9}, ["schedulefree", "optim.ema_decay"]),
        ({"kind": "schedulefree", "beta1": 0.0}, ["schedulefree", "optim.beta1"]),
    ],
)
def test_settings_that_do_not_belong_together_are_one_line(settings, words):
    with pytest.raises(InputError) as caught:
        build_spec([{"optim": settings}])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_max_norm_is_refused_where_the_update_is_not_low_rank():
    with pytest.raises(InputError, match=r"optim\.max_norm .*dora"):
        build_spec([{"optim": {"max_norm": 1.0}, "adapter": {"kind": "dora"}}])


def test_a_missing_bitsandbytes_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(InputError, match=r"^optim\.kind = adamw8bit .*\[8bit\]"):
        made("adamw8bit")
