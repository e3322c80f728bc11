"""The Dataset tab: one page element that asks, and the same questions as named endpoints."""

from __future__ import annotations

import gradio as gr

from ui.context import Context
from ui.dataset import endpoints
from ui.dataset.functions import functions
from ui.dataset.opening import Opening


def build(context: Context) -> gr.HTML:
    """The tab's only element, and a named endpoint for each of its questions."""
    opening = Opening(context.datasets, context.tasks, context.uploads)
    asked = functions(context, opening)
    endpoints.build(asked)
    return gr.HTML(
        html_template='<div class="st st-data"></div>',
        js_on_load="Studio.mountDataset(element, server)",
        server_functions=asked,
        apply_default_css=False,
        elem_id="st-data",
    )
