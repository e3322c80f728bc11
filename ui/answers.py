"""What a page's question gets: one JSON object; bad input becomes one sentence in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lora_diffusion.errors import InputError, printable

Json = dict[str, Any]


def answered(function: Callable[[Any], Json]) -> Callable[[Any], Json]:
    """The same function with bad input answered as `{"error": sentence}`."""

    def safe(request: Any = None) -> Json:
        try:
            return function(request)
        except InputError as error:
            return {"error": printable(error, 500)}
        except OSError as error:
            return {"error": f"The disk refused: {printable(error.strerror or error, 200)}."}

    safe.__name__ = function.__name__
    safe.__doc__ = function.__doc__
    return safe
