"""`python -m trainers.dreambooth_lora`: one training run from the command line.

Settings are layered: preset, then --config file, then --SECTION.FIELD options, and checked once.
Source: Ruiz et al., "DreamBooth" (arXiv:2208.12242), with LoRA (Hu et al., arXiv:2106.09685) in
place of full fine-tuning.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic_settings import CliSettingsSource, SettingsError

from lora_diffusion.errors import InputError, printable
from trainers.argv import take_json
from trainers.importing import read_config
from trainers.jobs import RunDir
from trainers.layering import build_spec, preset_names, read_preset, read_toml, suggest
from trainers.spec import JobSpec
from trainers.stopping import StopSignal

PROGRAM = "python -m trainers.dreambooth_lora"
_OWN_OPTIONS = ("preset", "config", "output_dir", "run", "resume", "fork", "plan", "probe", "help")


@dataclass(frozen=True)
class Invocation:
    """What the command line asks for; `notes` name what a foreign --config could not say."""

    spec: JobSpec
    run_dir: RunDir
    resume: bool
    fork: bool
    plan: bool
    probe: bool
    notes: tuple[str, ...] = ()


def main(argv: list[str] | None = None) -> int:
    """Run one training; returns the exit code (see `commands` in the README)."""
    try:
        invocation = parse(sys.argv[1:] if argv is None else argv)
        for note in invocation.notes:
            print(f"note: {note}", file=sys.stderr)
        if invocation.plan:
            from trainers.plan import plan

            print(plan(invocation.spec))
            if invocation.probe:
                from trainers.planner.probe import probe

                measured = probe(
                    invocation.spec, on_progress=lambda text: print(text, file=sys.stderr)
                )
                print("\n".join(measured.lines()))
            return 0
        with StopSignal() as stop:
            from trainers.run import run  # seconds of imports, during which a signal may come

            outcome = run(
                invocation.spec,
                invocation.run_dir,
                stop,
                resuming=invocation.resume,
                fork=invocation.fork,
            )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    if outcome.adapter is not None:
        print(f"adapter: {outcome.adapter}")
        if invocation.run_dir.contact_sheet.exists():
            print(f"contact sheet: {invocation.run_dir.contact_sheet}")
    return outcome.exit_code


def parse(argv: list[str]) -> Invocation:
    """Command line -> settings.

    Raises:
        InputError: an unknown option (with a suggestion), or a bad value.
    """
    argv, whole = take_json(argv)
    parser = _parser()
    source: CliSettingsSource[Any] = CliSettingsSource(
        JobSpec,  # type: ignore[arg-type]  # any pydantic model works as the schema
        root_parser=parser,
        cli_parse_args=argv,
        cli_hide_none_type=True,
        parse_args_method=lambda p, args: p.parse_args(args),
    )
    try:
        options = source()
    except SettingsError as error:
        raise InputError(str(error)) from None
    own = parser.parse_args(argv)
    layers: list[dict[str, Any]] = []
    notes: tuple[str, ...] = ()
    if own.probe and not own.plan:
        raise InputError("--probe measures what --plan estimates: give both.")
    if own.run is not None:
        if own.preset or own.config:
            raise InputError("--run takes its settings from the run folder: leave out --preset.")
        run_dir = RunDir(Path(own.run))
        layers.append(read_toml(run_dir.spec_file))
    elif own.plan and own.output_dir is None:
        run_dir = RunDir(Path("run"))
    elif own.output_dir is None:
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
    layers.append({name: options[name] for name in options if name in JobSpec.model_fields})
    layers.append(whole)
    return Invocation(build_spec(layers), run_dir, own.resume, own.fork, own.plan, own.probe, notes)


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line with a suggestion."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            name = unknown.split()[0]
            raise InputError(f"There is no option {printable(name)}.{_suggest_option(name)}")
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
    where.add_argument("--plan", action="store_true", help="print what would be done, and stop")
    where.add_argument(
        "--probe", action="store_true", help="with --plan: also do two steps and measure them"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
