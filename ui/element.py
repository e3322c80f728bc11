"""A tab's only element: an empty box that the tab's script fills and asks from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr


def element(name: str, mount: str, asked: Sequence[Callable[[Any], dict[str, Any]]]) -> gr.HTML:
    """The box, in the tab that is being built.

    Args:
        name: its id, and the class of the box in it, are `st-NAME`.
        mount: the function of `Studio` in the page's scripts that fills it.
        asked: what the script may ask, by their names.
    """
    return gr.HTML(
        html_template=f'<div class="st st-{name}"></div>',
        js_on_load=f"Studio.{mount}(element, server)",
        server_functions=list(asked),
        apply_default_css=False,
        elem_id=f"st-{name}",
    )
