"""`python -m trainers.dreambooth_lora`: one training run, or a sweep, from the command line.

Settings are layered: preset, then --config file, then --SECTION.FIELD options, and checked once.
Source: Ruiz et al., "DreamBooth" (arXiv:2208.12242), with LoRA (Hu et al., arXiv:2106.09685) in
place of full fine-tuning.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic_settings import CliSettingsSource, SettingsError

from lora_diffusion.errors import InputError, printable
from trainers.argv import take_json
from trainers.importing import read_config
from trainers.jobs import SWEEP_FILE, RunDir
from trainers.layering import build_spec, preset_names, read_preset, read_toml, suggest
from trainers.spec import JobSpec
from trainers.stopping import StopSignal
from trainers.sweep.members import Member, members, members_in

PROGRAM = "python -m trainers.dreambooth_lora"
_OWN_OPTIONS = (
    "preset", "config", "output_dir", "run", "resume", "fork", "sweep", "sweep_on", "plan",
    "probe", "help",
)  # fmt: skip


@dataclass(frozen=True)
class Invocation:
    """What the command line asks for.

    Attributes:
        runs: one, or those of a sweep.
        folder: of the run, or of the sweep.
        sweep_on: where a sweep's runs are trained; None where there is no sweep.
        notes: what a foreign --config could not say.
    """

    runs: tuple[Member, ...]
    folder: Path
    resume: bool
    fork: bool
    plan: bool
    probe: bool
    sweep_on: str | None = None
    notes: tuple[str, ...] = ()


def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit code (see `commands` in the README)."""
    try:
        invocation = parse(sys.argv[1:] if argv is None else argv)
        for note in invocation.notes:
            print(f"note: {note}", file=sys.stderr)
        if invocation.plan:
            return _plan(invocation)
        with StopSignal() as stop:
            return _train(invocation, stop)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _plan(invocation: Invocation) -> int:
    from trainers.planner.plan import plan

    for member in invocation.runs:
        if invocation.sweep_on:
            print(f"run {member.name}")
        print(plan(member.spec))
        if invocation.probe:
            from trainers.planner.probe import probe

            measured = probe(member.spec, on_progress=lambda text: print(text, file=sys.stderr))
            print("\n".join(measured.lines()))
    return 0


def _train(invocation: Invocation, stop: StopSignal) -> int:
    # seconds of imports, during which a signal may come
    adapters: Mapping[str, Path | None]
    if invocation.sweep_on:
        from trainers.sweep.run import sweep

        ended = sweep(
            invocation.runs, invocation.folder, stop, on=invocation.sweep_on,
            resuming=invocation.resume, fork=invocation.fork,
        )  # fmt: skip
        adapters, exit_code = ended.adapters, ended.exit_code
        for name, problem in ended.problems.items():
            print(f"error: run {name}: {problem}", file=sys.stderr)
    else:
        from trainers.run import run

        [only] = invocation.runs
        outcome = run(
            only.spec, only.run_dir, stop, resuming=invocation.resume, fork=invocation.fork
        )
        adapters, exit_code = {only.name: outcome.adapter}, outcome.exit_code
    for member in invocation.runs:
        if adapter := adapters.get(member.name):
            print(f"adapter: {adapter}")
            if member.run_dir.contact_sheet.exists():
                print(f"contact sheet: {member.run_dir.contact_sheet}")
    return exit_code


def parse(argv: list[str]) -> Invocation:
    """Command line -> settings.

    Raises:
        InputError: an unknown option (with a suggestion), or a bad value.
    """
    argv, whole = take_json(argv)
    parser = _parser()
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(
            JobSpec,  # type: ignore[arg-type]  # any pydantic model works as the schema
            root_parser=parser,
            cli_parse_args=argv,
            cli_hide_none_type=True,
            parse_args_method=lambda p, args: p.parse_args(args),
        )
        options = source()
    except SettingsError as error:
        raise InputError(f"{printable(error)}. Write lists and tables as JSON.") from None
    own = parser.parse_args(argv)
    layers: list[dict[str, Any]] = []
    notes: tuple[str, ...] = ()
    if own.probe and not own.plan:
        raise InputError("--probe measures what --plan estimates: give both.")
    if own.run is not None:
        if own.preset or own.config or own.sweep:
            raise InputError(
                "--run takes its settings from the run folder: leave out --preset, --config and "
                "--sweep."
            )
        run_dir = RunDir(Path(own.run))
        layers.append(read_toml(run_dir.spec_file))
    elif own.plan and not own.output_dir:
        run_dir = RunDir(Path("run"))
    elif not own.output_dir:
        raise InputError("--output_dir is missing: say where the run's files go.")
    else:
        run_dir = RunDir(Path(own.output_dir))
        if own.resume and not own.preset and not own.config and run_dir.spec_file.is_file():
            layers.append(read_toml(run_dir.spec_file))
    if own.preset:
        layers.append(read_preset(own.preset))
    if own.config:
        imported = read_config(Path(own.config).expanduser())
        layers.append(imported.layer)
        notes = imported.notes
    given = {
        section: {**options.get(section, {}), **whole.get(section, {})}
        for section in JobSpec.model_fields
        if section in options or section in whole
    }
    layers.append(given)
    goes_on = own.resume and not own.sweep and (run_dir.path / SWEEP_FILE).is_file()
    if goes_on:
        if given or own.preset or own.config:
            raise InputError(
                f"{printable(run_dir.path)}: holds a sweep, whose runs have their own settings. To "
                "change them, give the --sweep options again."
            )
        runs = members_in(run_dir.path)
    elif own.sweep:
        runs = members(own.sweep, layers, run_dir.path)
    else:
        runs = [Member("run", build_spec(layers), run_dir)]
    sweep_on = own.sweep_on if own.sweep or goes_on else None
    return Invocation(
        tuple(runs), run_dir.path, own.resume, own.fork, own.plan, own.probe, sweep_on, notes
    )


_NO_VALUE = ": expected one argument"


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line with a suggestion."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            name = unknown.split()[0]
            raise InputError(f"There is no option {printable(name)}.{_suggest_option(name)}")
        option = message.removeprefix("argument ").removesuffix(_NO_VALUE)
        if message.endswith(_NO_VALUE):
            raise InputError(
                f"{option} has no value. Give it one, and a negative number as {option}=-1."
            )
        raise InputError(f"{message}. See --help.")


def _suggest_option(name: str) -> str:
    wanted = name.lstrip("-").replace("-", "_")
    near = difflib.get_close_matches(wanted, _OWN_OPTIONS, n=1, cutoff=0.75)
    if near:
        return f" Did you mean '--{near[0]}'?"
    return suggest(wanted).replace("'", "'--", 1)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} --output_dir DIR [--preset NAME] [--config FILE] "
        "[--SECTION.FIELD VALUE ...] [--resume]",
        description="Train a LoRA: DreamBooth with prior preservation, or captioned pictures.",
        epilog=f"Presets: {', '.join(preset_names())}.",
        allow_abbrev=False,
    )
    where = parser.add_argument_group("run")
    where.add_argument("--preset", metavar="NAME", help="settings that come with the project")
    where.add_argument(
        "--config",
        metavar="FILE",
        help="TOML file of settings, over the preset; also kohya_ss' JSON or sd-scripts' TOML",
    )
    where.add_argument("--output_dir", metavar="DIR", help="folder of this run; made if missing")
    where.add_argument("--run", metavar="DIR", help="start a prepared run folder (its spec.toml)")
    where.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    where.add_argument("--fork", action="store_true", help="let a resumed run change course")
    where.add_argument(
        "--sweep",
        metavar="SECTION.FIELD=A,B|FILE",
        action="append",
        default=[],
        help="one run for each value, on one base and in one process; several are a grid; "
        "or a TOML file with a [[run]] for each",
    )
    where.add_argument(
        "--sweep_on",
        choices=["process", "ray"],
        default="process",
        help="where a sweep's runs train: by turns in this process, or as tasks of a Ray cluster",
    )
    where.add_argument("--plan", action="store_true", help="print what would be done, and stop")
    where.add_argument(
        "--probe", action="store_true", help="with --plan: also do two steps and measure them"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
