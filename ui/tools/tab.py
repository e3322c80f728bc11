"""The Tools and Settings tabs: a page element each, and their questions as named endpoints."""

from __future__ import annotations

import gradio as gr

from ui.context import Context
from ui.tools.functions import functions


def build_tools(context: Context) -> gr.HTML:
    """The Tools tab's only element."""
    asked = functions(context)
    for function in asked:
        gr.api(function, api_name=function.__name__, queue=False)
    return gr.HTML(
        html_template='<div class="st st-tools-tab"></div>',
        js_on_load="Studio.mountTools(element, server)",
        server_functions=asked,
        apply_default_css=False,
        elem_id="st-tools",
    )


def build_settings(context: Context) -> gr.HTML:
    """The Settings tab's only element."""
    return gr.HTML(
        html_template='<div class="st st-settings"></div>',
        js_on_load="Studio.mountSettings(element, server)",
        server_functions=functions(context),
        apply_default_css=False,
        elem_id="st-settings",
    )
