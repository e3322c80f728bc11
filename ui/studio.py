"""The page: header and tabs. Each tab builds itself in its own file."""

from __future__ import annotations

import gradio as gr

from ui import endpoints
from ui.compose import tab as compose_tab
from ui.context import Context
from ui.dataset import tab as dataset_tab
from ui.runs import tab as runs_tab
from ui.tools import tab as tools_tab
from ui.train import tab as train_tab

_STYLES = ("studio", "train", "dataset", "compose", "tools")
_SCRIPTS = (
    "studio", "plot", "chart", "rail", "compare", "run_parts", "runs", "fields", "defaults",
    "teaching", "train", "compose", "compose_sheets", "gallery", "canvas", "dataset_side",
    "dataset_sheets", "dataset", "tools",
)  # fmt: skip
# Put into the page by the gate, before Gradio's own scripts: all tabs can rely on them.
HEAD = "".join(
    [
        *(f'<link rel="stylesheet" href="/studio/static/{name}.css">' for name in _STYLES),
        *(f'<script defer src="/studio/static/{name}.js"></script>' for name in _SCRIPTS),
    ]
)
_HEADER = """
<header class="st st-header">
  <a class="st-mark" href="/" aria-label="LoRA studio, start page">
    <svg width="28" height="28" viewBox="0 0 28 28" aria-hidden="true">
      <rect class="st-mark-b" x="11" y="11" width="14" height="14" rx="3"></rect>
      <rect class="st-mark-a" x="3" y="3" width="14" height="14" rx="4"></rect>
    </svg>
    <span>LoRA studio</span>
  </a>
  <span class="st-header-right">
    <span class="st-away" role="status" hidden></span>
    <button class="st-pill" type="button" hidden><i></i><span></span></button>
    <span class="st-pill st-machine" title="Memory in use" hidden></span>
    <button class="st-icon" type="button" data-key-list title="Keys (?)" aria-label="List of keys">
      <svg width="20" height="20" viewBox="0 0 20 20" aria-hidden="true" fill="none"
        stroke="currentColor" stroke-width="1.5" stroke-linecap="round">
        <rect x="2.5" y="5" width="15" height="10" rx="2"/>
        <path d="M5.5 8h.01M8.5 8h.01M11.5 8h.01M14.5 8h.01M6.5 12h7"/>
      </svg>
    </button>
    <button class="st-icon" type="button" data-theme-switch title="Light or dark (T)"
      aria-label="Switch between light and dark">
      <svg width="20" height="20" viewBox="0 0 20 20" aria-hidden="true">
        <circle cx="10" cy="10" r="6.5" fill="none" stroke="currentColor" stroke-width="1.5"/>
        <path d="M10 3.5a6.5 6.5 0 0 1 0 13z" fill="currentColor"/>
      </svg>
    </button>
  </span>
</header>
"""


def build(context: Context) -> gr.Blocks:
    """The whole page, ready to be mounted."""
    with gr.Blocks(title="LoRA studio", analytics_enabled=False) as page:
        gr.HTML(
            html_template=_HEADER,
            js_on_load="Studio.mountHeader(element)",
            apply_default_css=False,
            elem_id="st-top",
        )
        with gr.Tabs(selected="runs", elem_id="st-tabs"):
            with gr.Tab("Dataset", id="dataset"):
                dataset_tab.build(context)
            with gr.Tab("Train", id="train"):
                train_tab.build(context)
            with gr.Tab("Runs", id="runs"):
                runs_tab.build(context)
            with gr.Tab("Compose", id="compose"):
                compose_tab.build(context)
            with gr.Tab("Tools", id="tools"):
                tools_tab.build_tools(context)
            with gr.Tab("Settings", id="settings"):
                tools_tab.build_settings(context)
        endpoints.build(context)
    return page
