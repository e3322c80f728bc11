"""The studio's colours and type as a Gradio theme; `static/studio.css` holds the rest."""

from __future__ import annotations

import gradio as gr

FONT = ("IBM Plex Sans", "system-ui", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Consolas", "monospace")


def studio_theme() -> gr.themes.Base:
    """Neutral surfaces, one accent. Every colour comes from a variable of `studio.css`."""
    theme = gr.themes.Base(
        font=[gr.themes.Font(name) for name in FONT],
        font_mono=[gr.themes.Font(name) for name in MONO],
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
    )
    both = {
        "body_background_fill": "var(--st-page)",
        "body_text_color": "var(--st-text)",
        "body_text_color_subdued": "var(--st-muted)",
        "background_fill_primary": "var(--st-card)",
        "background_fill_secondary": "var(--st-page)",
        "border_color_primary": "var(--st-line)",
        "border_color_accent": "var(--st-accent)",
        "color_accent_soft": "var(--st-soft)",
        "link_text_color": "var(--st-accent)",
        "block_background_fill": "transparent",
        "block_border_color": "var(--st-line)",
        "block_border_width": "0px",
        "block_info_text_color": "var(--st-muted)",
        "block_label_background_fill": "transparent",
        "block_label_text_color": "var(--st-text)",
        "block_title_text_color": "var(--st-text)",
        "block_title_background_fill": "transparent",
        "block_title_border_width": "0px",
        "block_shadow": "none",
        "input_background_fill": "var(--st-field)",
        "input_background_fill_focus": "var(--st-field)",
        "input_border_color": "var(--st-edge)",
        "input_border_color_focus": "var(--st-accent)",
        "input_border_width": "1px",
        "input_placeholder_color": "var(--st-muted)",
        "input_shadow": "none",
        "input_shadow_focus": "0 0 0 2px var(--st-ring)",
        "slider_color": "var(--st-accent)",
        "loader_color": "var(--st-accent)",
        "error_text_color": "var(--st-bad)",
        "error_border_color": "var(--st-bad)",
        "error_background_fill": "var(--st-card)",
        "error_icon_color": "var(--st-bad)",
        "button_primary_background_fill": "var(--st-accent)",
        "button_primary_background_fill_hover": "var(--st-accent-hover)",
        "button_primary_text_color": "var(--st-on)",
        "button_primary_border_color": "var(--st-accent)",
        "button_secondary_background_fill": "var(--st-card)",
        "button_secondary_background_fill_hover": "var(--st-hover)",
        "button_secondary_text_color": "var(--st-text)",
        "button_secondary_border_color": "var(--st-edge)",
        "checkbox_label_background_fill": "var(--st-card)",
        "checkbox_label_background_fill_hover": "var(--st-hover)",
        "checkbox_label_background_fill_selected": "var(--st-soft)",
        "checkbox_label_border_color": "var(--st-edge)",
        "checkbox_label_border_color_selected": "var(--st-accent)",
        "checkbox_label_text_color": "var(--st-text)",
        "checkbox_label_text_color_selected": "var(--st-text)",
        "checkbox_background_color": "var(--st-field)",
        "checkbox_background_color_selected": "var(--st-accent)",
        "checkbox_border_color": "var(--st-edge)",
        "checkbox_border_color_selected": "var(--st-accent)",
    }
    dark = {f"{name}_dark": value for name, value in both.items()}
    return theme.set(
        **both,
        **dark,
        block_title_text_size="13px",
        block_title_text_weight="700",
        block_label_text_size="13px",
        block_info_text_size="12px",
        block_padding="0px",
        block_radius="0px",
        input_radius="8px",
        input_text_size="14px",
        input_padding="8px 12px",
        button_large_radius="8px",
        button_large_text_size="14px",
        button_large_text_weight="700",
        button_large_padding="8px 16px",
        button_border_width="1px",
        layout_gap="16px",
        form_gap_width="0px",
        container_radius="12px",
        checkbox_label_text_size="14px",
        checkbox_label_padding="8px 12px",
        button_transition="none",
    )
