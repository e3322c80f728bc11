"""The `lora-diffusion` command: a table of verbs, one small file each.

Exit codes: 0 done; 2 bad input or a wrong setting, told in one line on standard error; 130
stopped by Ctrl-C; 1 a defect of ours, the only case with a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from lora_diffusion import __version__
from lora_diffusion.errors import InputError, printable
from trainers.cli import (
    again,
    analyse,
    bake,
    caption,
    convert,
    doctor,
    explain,
    extract,
    generate,
    grid,
    inspect,
    library,
    merge,
    probe,
    relabel,
    resize,
    search_weights,
    verify,
)
from trainers.cli.verb import Verb

# Every subcommand. Modules listed here import torch when they run, not when they are imported.
VERBS: tuple[Verb, ...] = (
    again.VERB,
    analyse.VERB,
    bake.VERB,
    caption.VERB,
    convert.VERB,
    doctor.VERB,
    explain.VERB,
    extract.VERB,
    generate.VERB,
    grid.VERB,
    inspect.VERB,
    library.VERB,
    merge.VERB,
    probe.VERB,
    relabel.VERB,
    resize.VERB,
    search_weights.VERB,
    verify.VERB,
)

EXIT_INPUT = 2
EXIT_INTERRUPTED = 130
_MAX_MESSAGE = 2_000


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        _complain(f"{message}. See '{self.prog} --help'.")
        self.exit(EXIT_INPUT)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` without the program's name. Returns the exit code.

    Raises:
        SystemExit: from argparse, for `--help`, `--version` and unusable arguments.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _parser(words).parse_args(words)
        verb: Verb = arguments.verb
        if verb.output is not None:
            verb.output.check(arguments)
        code = verb.run(arguments)
        sys.stdout.flush()
        return code
    except InputError as error:
        _complain(str(error))
        return EXIT_INPUT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(prog="lora-diffusion", description="LoRA adapters for Stable Diffusion.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for verb in VERBS:
        child = subparsers.add_parser(verb.name, help=verb.summary, description=verb.summary)
        verb.configure(child)
        if verb.extend is not None and words[:1] == [verb.name]:
            verb.extend(child, words[1:])
        if verb.output is not None:
            verb.output.configure(child)
        child.set_defaults(verb=verb)
    return parser


def _complain(message: str) -> None:
    print(f"error: {printable(' '.join(message.split()), _MAX_MESSAGE)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
