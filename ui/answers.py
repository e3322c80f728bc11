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
            return {"error": disk_refused(error)}

    safe.__name__ = function.__name__
    safe.__doc__ = function.__doc__
    return safe


def disk_refused(error: OSError) -> str:
    """The sentence for a file that can't be read or written."""
    return f"The disk refused: {printable(error.strerror or error, 200)}."
