"""Open the studio: `python app.py`. It prints the link that lets a browser in."""

from __future__ import annotations

import argparse
import sys
import tempfile
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from lora_diffusion.errors import InputError, printable

_HERE = Path(__file__).resolve().parent
DEFAULT_PORT = 7860


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace; a wrong one ends the program with code 2."""
    parser = argparse.ArgumentParser(
        prog="app.py", description="The studio: train LoRAs, watch them, try them.",
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port; the next free one where it is taken"
    )
    parser.add_argument("--password", help="ask for this password; needed beyond this computer")
    parser.add_argument("--models", type=Path, metavar="DIR", help="folder of base models to offer")
    parser.add_argument(
        "--runs", type=Path, metavar="DIR", default=_HERE / "runs", help="where runs are kept"
    )
    parser.add_argument(
        "--adapters", type=Path, metavar="DIR", help="the library: a folder of adapters to compose"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the studio until interrupted."""
    options = parse(argv)
    try:
        return _open(options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


def _open(options: argparse.Namespace) -> int:
    # Gradio takes seconds to import; a wrong option should not wait for it.
    from ui.gate.security import Access, check_host

    check_host(options.host, options.password)
    if not 0 < options.port < 65_536:
        raise InputError(f"--port {options.port}: must be between 1 and 65535.")
    if options.models is not None and not options.models.is_dir():
        raise InputError(f"--models {printable(options.models)}: there is no such folder.")
    if options.adapters is not None and not options.adapters.is_dir():
        raise InputError(f"--adapters {printable(options.adapters)}: there is no such folder.")
    try:
        options.runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--runs {printable(options.runs)}: can't be made ({error.strerror}). Choose another."
        ) from None

    from ui.context import open_context
    from ui.server import listen, secured, serve

    listening = listen(options.host, options.port)
    access = Access(options.host, listening.getsockname()[1], options.password)
    context = open_context(
        options.runs.resolve(),
        options.models and options.models.resolve(),
        options.adapters and options.adapters.resolve(),
    )
    try:
        gate = secured(context, access)
        context.open()
        print(f"Studio: {access.url}", flush=True)
        if access.outside_url:
            print(f"From other computers: {access.outside_url}", flush=True)
            print("The password travels unencrypted; use it in a network you trust.", flush=True)
        with tempfile.TemporaryDirectory(prefix="lora-studio-") as private:
            if not options.no_browser:
                _show(access.url, Path(private) / "open.html")
            serve(gate, listening)
    finally:
        context.close()
    return 0


def _show(url: str, page: Path) -> None:
    """Open the browser by a file that only we can read: no command line shows the token."""
    page.write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={url}">', "utf-8")
    webbrowser.open(page.as_uri())


if __name__ == "__main__":
    sys.exit(main())
