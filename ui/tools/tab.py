"""The Tools and Settings tabs: a page element each, and their questions as named endpoints."""

from __future__ import annotations

import gradio as gr

from ui.context import Context
from ui.element import element
from ui.tools.functions import functions


def build_tools(context: Context) -> gr.HTML:
    """The Tools tab's only element."""
    asked = functions(context)
    for function in asked:
        gr.api(function, api_name=function.__name__, queue=False)
    return element("tools-tab", "mountTools", asked)


def build_settings(context: Context) -> gr.HTML:
    """The Settings tab's only element."""
    return element("settings", "mountSettings", functions(context))
