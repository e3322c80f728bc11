"""Serve the studio: the page, its own few files, and the gate around all of it."""

from __future__ import annotations

import socket
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from lora_diffusion.errors import InputError, printable
from ui.answers import disk_refused
from ui.context import Context
from ui.gate.security import Access, Gate
from ui.gate.uploads import PATH as UPLOAD_PATH
from ui.studio import HEAD, build
from ui.theme import studio_theme

_STATIC = Path(__file__).resolve().parent / "static"
_KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_PORTS_TRIED = 50
_YEAR = "private, max-age=31536000, immutable"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket on `port`, or on the next free one.

    Raises:
        InputError: the address is not this computer's, or no port is free.
    """
    try:
        family, _, _, _, _ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise InputError(f"--host {printable(host)} is no address of this computer.") from None
    reason = ""
    for number in range(port, min(port + _PORTS_TRIED, 65_536)):
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, number))
            listening.listen(128)
        except OSError as error:
            listening.close()
            reason = error.strerror or "taken"
            continue
        return listening
    raise InputError(
        f"--port {port}: neither it nor the next {_PORTS_TRIED - 1} can be used ({reason}). "
        "Give another --port or --host."
    )


def make_app(context: Context) -> FastAPI:
    """The page and its routes, without the gate. For `secured`, and for tests."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    static = {
        file.name: (file.read_bytes(), _KINDS[file.suffix])
        for file in sorted(_STATIC.iterdir())
        if file.suffix in _KINDS
    }

    @app.get("/studio/static/{name}")
    def static_file(name: str) -> Response:
        if name not in static:
            return _nothing()
        content, kind = static[name]
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    @app.get("/studio/picture/{picked}")
    def picture(picked: str) -> Response:
        content = context.shelf.picture_bytes(picked)
        if content is None:
            return _nothing()
        kind = "image/jpeg" if content.startswith(b"\xff\xd8") else "image/png"
        return Response(content, media_type=kind, headers={"cache-control": _YEAR})

    @app.get("/studio/adapter/{picked}")
    def adapter(picked: str) -> Response:
        path = context.shelf.adapter_path(picked)
        if path is None or not path.is_file():
            return _nothing()
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)

    @app.post(UPLOAD_PATH)
    async def upload(request: Request) -> Response:
        """The body is the file; its name is in the query. Answers `{id}` or `{error}`."""
        name = request.query_params.get("name", "file")
        try:
            return JSONResponse({"id": await context.uploads.take(name, request.stream())})
        except InputError as error:
            return JSONResponse({"error": printable(error, 500)}, status_code=413)
        except OSError as error:
            return JSONResponse({"error": disk_refused(error)}, status_code=507)

    gr.mount_gradio_app(
        app,
        build(context),
        path="/",
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        theme=studio_theme(),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        show_error=True,
        max_file_size="1kb",
    )
    return app


def secured(context: Context, access: Access) -> Gate:
    """The whole studio behind its gate."""
    return Gate(make_app(context), access, HEAD)


def serve(gate: Gate, listening: socket.socket) -> None:
    """Answer requests until interrupted."""
    config = uvicorn.Config(
        gate,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=32_768,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _nothing() -> Response:
    return PlainTextResponse("There is nothing at this address.\n", status_code=404)
