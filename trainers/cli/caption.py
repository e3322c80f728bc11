"""`lora-diffusion caption FOLDER --with NAME`: captions beside the pictures."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_diffusion.errors import InputError, printable
from trainers.cli.settings_flags import add_flags, read_flags
from trainers.cli.verb import Verb
from trainers.data.caption_files import SIDECAR_ENDINGS
from trainers.data.captioners import registry
from trainers.data.captioners.plugin import Context, Plugin
from trainers.spec import Section

if TYPE_CHECKING:
    from trainers.data.captioners.folder import Plan
    from trainers.data.captioners.keeping import Outcome

EXIT_INPUT = 2
_CHOOSE = "--with"
_MAX_NAMED = 20


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.allow_abbrev = False
    parser.epilog = (
        "'caption --with NAME --help' lists the settings of a captioner. Captions that a person "
        "wrote or edited are kept unless --overwrite is given; what a machine wrote is noted in "
        ".captions.jsonl. The same command goes on where a stopped one ended."
    )
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help="folder of pictures")
    parser.add_argument(
        _CHOOSE,
        dest="captioner",
        metavar="NAME",
        help="the captioner: blip, florence2, llava, template, wd14, or one of a plug-in",
    )
    parser.add_argument(
        "--list", action="store_true", help="name every captioner and its settings instead"
    )
    parser.add_argument(
        "--drafts",
        metavar="FILE",
        help="write the captions to FILE, a JSON line each, in place of beside the pictures",
    )
    parser.add_argument("--trigger", default="", help="word put before captions that lack it")
    parser.add_argument("--prefix", default="", help="text put before every caption, as it is")
    parser.add_argument("--suffix", default="", help="text put after every caption, as it is")
    parser.add_argument(
        "--overwrite", action="store_true", help="also replace captions that a person wrote"
    )
    parser.add_argument(
        "--redo", action="store_true", help="also replace captions that a machine wrote"
    )
    parser.add_argument(
        "--ending", choices=SIDECAR_ENDINGS, default=SIDECAR_ENDINGS[0], help="of new caption files"
    )
    parser.add_argument("--batch", type=int, metavar="N", help="pictures at a time")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "fp32", "bf16", "fp16"],
        help="of the model; auto is fp32 on the CPU, and 16 bits on a GPU",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def _extend(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    name = _chosen(words)
    if name is None:
        return
    plugin = registry.find(name)
    parser.description = f"{parser.description} {name}: {plugin.summary}"
    add_flags(parser, plugin.settings, f"settings of {name}")


def _chosen(words: Sequence[str]) -> str | None:
    """The captioner that the command line names, before the command line is parsed."""
    name = None
    for word, after in zip(words, [*words[1:], None], strict=True):
        if word == _CHOOSE:
            name = after
        elif word.startswith(f"{_CHOOSE}="):
            name = word.partition("=")[2]
    return name


def _run(arguments: argparse.Namespace) -> int:
    from trainers.stopping import StopSignal

    if arguments.list:
        return _list(arguments)
    if not arguments.folder or not arguments.captioner:
        raise InputError("Name the folder and the captioner: caption FOLDER --with NAME.")
    began = time.monotonic()
    plugin = registry.find(arguments.captioner)
    settings = read_flags(arguments, plugin.settings)
    if arguments.batch is not None and arguments.batch < 1:
        raise InputError("--batch must be at least 1.")
    with StopSignal() as stop:
        plan, outcome = _caption(arguments, plugin, settings, lambda: stop.requested is not None)
    done = outcome.written + len(outcome.failed)
    summary = {
        "folder": printable(arguments.folder, 4_096),
        "with": arguments.captioner,
        "pictures": plan.pictures,
        "written": outcome.written,
        "kept_human": plan.kept_human,
        "kept_machine": plan.kept_machine,
        "failed": [{"file": printable(name), "cause": cause} for name, cause in outcome.failed],
        "left": len(plan.tasks) - done,
        **({"drafts": printable(arguments.drafts, 4_096)} if arguments.drafts else {}),
        "seconds": round(time.monotonic() - began, 3),
    }
    if arguments.json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        _tell(plan, outcome)
    if stop.requested is not None:
        return stop.exit_code
    return EXIT_INPUT if outcome.failed and not outcome.written else 0


def _caption(
    arguments: argparse.Namespace,
    plugin: Plugin[Any],
    settings: Section,
    cancelled: Callable[[], bool],
) -> tuple[Plan, Outcome]:
    from trainers.data.captioners import folder
    from trainers.data.captioners.drafts import Finish
    from trainers.data.captioners.journal import Journal
    from trainers.data.captioners.keeping import Author, Beside, DraftFile, Keeper, Outcome
    from trainers.progress import Reporter

    reporter = Reporter()
    at = Path(arguments.folder).expanduser()
    with folder.locked(at):
        journal = Journal(at)
        plan = folder.plan(
            at,
            journal,
            overwrite=arguments.overwrite,
            redo=arguments.redo,
            ending=arguments.ending,
        )
        if not plan.tasks:
            return plan, Outcome()
        context = Context(arguments.trigger, arguments.device, arguments.precision, reporter.say)
        author = Author(
            arguments.captioner, settings.model_dump(mode="json"), plugin.open(settings, context)
        )
        keeper: Keeper = Beside(journal, author)
        if arguments.drafts:
            keeper = DraftFile(Path(arguments.drafts).expanduser(), author, len(plan.tasks))
        outcome = folder.caption_folder(
            keeper,
            plan.tasks,
            author.captioner,
            Finish(arguments.prefix, arguments.suffix, arguments.trigger),
            batch=arguments.batch or plugin.batch,
            cancelled=cancelled,
            on_progress=lambda done, total: reporter.count("captioned", done, total),
        )
    return plan, outcome


def _list(arguments: argparse.Namespace) -> int:
    """Every captioner: its summary and settings, or why its plug-in can't be loaded."""
    found: list[dict[str, Any]] = []
    for name in registry.names():
        try:
            plugin = registry.find(name)
            settings = plugin.settings.model_json_schema()
            found.append({"name": name, "summary": plugin.summary, "settings": settings})
        except InputError as error:
            found.append({"name": printable(name), "error": printable(error, 400)})
    if arguments.json:
        print(json.dumps({"captioners": found}, indent=2, ensure_ascii=False))
    else:
        for each in found:
            print(f"{each['name']:<12} {printable(each.get('summary') or each['error'], 400)}")
    return 0


def _tell(plan: Plan, outcome: Outcome) -> None:
    for _, cause in outcome.failed[:_MAX_NAMED]:
        print(f"not captioned: {cause}", file=sys.stderr)
    if len(outcome.failed) > _MAX_NAMED:
        print(f"… and {len(outcome.failed) - _MAX_NAMED} more.", file=sys.stderr)
    kept = []
    if plan.kept_human:
        kept.append(f"{plan.kept_human} written by people (--overwrite replaces them)")
    if plan.kept_machine:
        kept.append(f"{plan.kept_machine} written by a machine (--redo replaces them)")
    print(
        f"{plan.pictures} pictures: {outcome.written} captions written, "
        f"{len(outcome.failed)} failed" + (f"; kept: {', '.join(kept)}." if kept else ".")
    )


VERB = Verb("caption", "Write captions beside the pictures.", _configure, _run, _extend)
