"""The Dataset tab: one page element that asks, and the same questions as named endpoints."""

from __future__ import annotations

import gradio as gr

from ui.context import Context
from ui.dataset import endpoints
from ui.dataset.functions import functions
from ui.dataset.opening import Opening
from ui.element import element


def build(context: Context) -> gr.HTML:
    """The tab's only element, and a named endpoint for each of its questions."""
    opening = Opening(context.datasets, context.tasks, context.uploads)
    asked = functions(context, opening)
    endpoints.build(asked)
    return element("data", "mountDataset", asked)
