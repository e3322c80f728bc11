"""`--sweep`: what it says, and what it can't."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_diffusion.errors import InputError
from trainers.sweep.members import members, members_in

PRESET = {"adapter": {"rank": 6, "alpha": 3.0}, "optim": {"lr_unet": 1e-3}}
GIVEN = {"adapter": {"alpha": 2.0}}


def made(*sweeps: str, folder: Path = Path("out")):
    return members(sweeps, [PRESET, GIVEN], folder)


def test_one_option_is_a_run_for_each_value():
    runs = made("adapter.rank=4, 8,16")
    assert [run.name for run in runs] == ["rank-4", "rank-8", "rank-16"]
    assert [run.spec.adapter.rank for run in runs] == [4, 8, 16]
    assert {run.spec.adapter.alpha for run in runs} == {2.0}
    assert runs[0].run_dir.path == Path("out/rank-4")
    assert runs[0].settings == {"adapter.rank": "4"}


def test_several_options_are_a_grid():
    runs = made("optim.lr_unet=1e-4,1e-3", "schedule.seed=0,1")
    assert [(run.spec.optim.lr_unet, run.spec.schedule.seed) for run in runs] == [
        (1e-4, 0), (1e-4, 1), (1e-3, 0), (1e-3, 1),
    ]  # fmt: skip
    assert runs[3].name == "lr_unet-1e-3_seed-1"


def test_datasets_are_named_by_their_last_part_and_lists_and_null_are_values():
    runs = made("data.folder=/a/cats,../my dogs/")
    assert [(run.name, run.spec.data.folder) for run in runs] == [
        ("folder-cats", "/a/cats"), ("folder-my-dogs", "../my dogs/"),
    ]  # fmt: skip
    runs = made('adapter.ranks={"*.attn1.*": 2, "*.attn2.*": 4},{}')
    assert [dict(run.spec.adapter.ranks) for run in runs] == [{"*.attn1.*": 2, "*.attn2.*": 4}, {}]
    assert [run.spec.adapter.conv_rank for run in made("adapter.conv_rank=null,2")] == [None, 2]


def test_a_kind_starts_afresh_as_on_the_command_line_but_for_what_was_given_there():
    lora, dora = made("adapter.kind=lora,dora")
    assert (lora.spec.adapter.rank, lora.spec.adapter.alpha) == (6, 2.0)
    assert (dora.spec.adapter.kind, dora.spec.adapter.alpha) == ("dora", 2.0)


def test_a_file_lists_runs_one_by_one(tmp_path):
    path = tmp_path / "runs.toml"
    path.write_text(
        '[[run]]\nname = "small one"\nadapter.rank = 2\n\n'
        "[[run]]\n[run.optim]\nlr_unet = 0.01\nlr_patterns = {mid = 0.5}\n"
    )
    first, second = made(str(path))
    assert (first.name, first.spec.adapter.rank) == ("small-one", 2)
    assert (second.name, second.spec.adapter.rank) == ("run-2", 6)
    assert second.spec.optim.lr_patterns == {"mid": 0.5}
    assert [run.name for run in made(str(path), "schedule.seed=1,2")] == [
        "small-one_seed-1", "small-one_seed-2", "run-2_seed-1", "run-2_seed-2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("adapter.rnk=4", "Did you mean 'adapter.rank'"),
        ("adapter.rank=4,x", "run rank-x: adapter.rank = 'x'"),
        ("adapter.rank=4,4", "asks twice for the run 'rank-4'"),
        ("adapter.rank=4,,8", "a value is empty"),
        ("rank=4", "names no setting"),
        ("adapter.ranks={1", "is not JSON"),
        ("nothing.toml", "can't be read"),
        ("schedule.seed=" + ",".join(map(str, range(129))), "asks for 129 runs"),
    ],
)
def test_what_can_not_be_understood_is_one_clear_line(sweep, message):
    with pytest.raises(InputError) as raised:
        made(sweep)
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adapter.rank = 4", "is no list of runs"),
        ("[[run]]\nrank = 4", "has 'rank', which is no section"),
    ],
)
def test_files_that_list_no_runs_are_refused(tmp_path, text, message):
    path = tmp_path / "runs.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        made(str(path))


@pytest.mark.parametrize("text", ["", "{}", '{"runs": [{"name": "a"}]}'])
def test_a_damaged_summary_is_told(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(InputError, match="is damaged"):
        members_in(tmp_path)
