"""What scripts may call by name: the functions of the Train and Runs tabs, through `gradio_client`.

Each takes and gives plain JSON values; what goes wrong is Gradio's error with one sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from ui.context import Context
from ui.runs import tab as runs_tab
from ui.train import form
from ui.train import tab as train_tab

Json = dict[str, Any]
Ask = Callable[[str, Json], Json]


def build(context: Context) -> None:
    """Add the endpoints to the page that is being built."""
    functions = {
        function.__name__: function
        for function in (
            *runs_tab.server_functions(context), *train_tab.server_functions(context)
        )
    }  # fmt: skip

    def ask(name: str, request: Json) -> Json:
        answer = functions[name](request)
        if answer.get("error"):
            raise gr.Error(answer["error"], print_exception=False)
        return answer

    for endpoint in (*_train(ask), *_runs(ask)):
        gr.api(endpoint, api_name=endpoint.__name__, queue=False)


def _train(ask: Ask) -> tuple[Callable[..., Any], ...]:
    def load_settings(preset: str = "", run: str = "", path: str = "") -> Json:
        """Settings of a preset, a run, or a file on the studio's computer: `{values, notes}`."""
        asked = {"preset": preset, "run": run, "path": path}
        return ask("studio_load", {name: value for name, value in asked.items() if value})

    def check_settings(values: dict[str, str]) -> Json:
        """What is wrong by setting, and what the run would take."""
        return ask("studio_check", {"values": values})

    def measure(values: dict[str, str]) -> Json:
        """Begin to measure two steps with these settings."""
        return ask("studio_measure", {"values": values})

    def measured() -> Json:
        """How the measuring stands: `state`, `text`, `seconds` of the whole run."""
        return ask("studio_measured", {})

    def start_training(values: dict[str, str]) -> Json:
        """Put a run with these settings in line: `{run}`, or `{problems}`."""
        return ask("studio_submit", {"values": values})

    def edit_waiting(run: str, values: dict[str, str]) -> Json:
        """Give a run that has not begun other settings: `{run}`, or `{problems}`."""
        return ask("studio_submit", {"values": values, "edit": run})

    def settings_as_toml(values: dict[str, str]) -> str:
        """The settings as a TOML file's text."""
        return str(ask("studio_toml", {"values": values})["text"])

    def settings_as_command(values: dict[str, str], preset: str = "") -> str:
        """The same run as a command line, short by what the preset says."""
        return str(ask("studio_command", {"values": values, "preset": preset})["text"])

    def list_settings() -> list[dict[str, Any]]:
        """Every setting: `name`, `label`, `kind`, `help`, `default`, `choices`."""
        names = ("name", "label", "kind", "help", "default", "choices")
        return [{name: getattr(field, name) for name in names} for field in form.fields()]

    return (
        list_settings, load_settings, check_settings, measure, measured, start_training,
        edit_waiting, settings_as_toml, settings_as_command,
    )  # fmt: skip


def _runs(ask: Ask) -> tuple[Callable[..., Any], ...]:
    def list_runs() -> list[dict[str, Any]]:
        """Every run: `id`, `title`, `status`, `line`, `share` in 0..1, `left`."""
        return list(ask("studio_poll", {})["cards"])

    def show_run(run: str) -> Json:
        """All that the Runs tab shows of a run: figures, curve, previews, exports, note."""
        ask("studio_log", {"run": run})  # refuses a run that there is not
        return dict(ask("studio_poll", {"run": run})["run"])

    def run_log(run: str) -> str:
        """The end of a run's log."""
        return str(ask("studio_log", {"run": run})["text"])

    def run_settings(run: str) -> str:
        """A run's settings as TOML."""
        return str(ask("studio_settings", {"run": run})["text"])

    def compare_runs(runs: list[str]) -> Json:
        """Two to four runs: their curves, newest previews, and the settings that differ."""
        return ask("studio_compare", {"runs": runs})

    def explain_run(run: str) -> Json:
        """What a run tells: `headline`, `says`, `advice` on what to change next."""
        return ask("studio_explain", {"run": run})

    def run_the_demo() -> Json:
        """Put the demo run in line: `{run}`."""
        return ask("studio_demo", {})

    def pause_run(run: str) -> Json:
        """Hold a run after its current step."""
        return ask("studio_pause", {"run": run})

    def unpause_run(run: str) -> Json:
        """Let a paused run go on."""
        return ask("studio_unpause", {"run": run})

    def stop_run(run: str) -> Json:
        """Let a run save and stop."""
        return ask("studio_stop", {"run": run})

    def resume_run(run: str, less_memory: bool = False) -> Json:
        """Put a run that ended early back in line, from its last checkpoint."""
        return ask("studio_resume", {"run": run, "less_memory": less_memory})

    def save_run_now(run: str) -> Json:
        """Save a checkpoint and an adapter after the current step."""
        return ask("studio_save", {"run": run})

    def sample_run_now(run: str) -> Json:
        """Draw previews after the current step."""
        return ask("studio_sample", {"run": run})

    def move_waiting(run: str, place: int) -> Json:
        """Put a waiting run elsewhere in line, 0 being the next: `{waiting}`."""
        return ask("studio_move", {"run": run, "place": place})

    def take_out_of_line(run: str) -> Json:
        """Take a waiting run out of the line; its settings stay: `{waiting}`."""
        return ask("studio_unqueue", {"run": run})

    return (
        list_runs, show_run, run_log, run_settings, compare_runs, explain_run, run_the_demo,
        pause_run, unpause_run, stop_run, resume_run, save_run_now, sample_run_now, move_waiting,
        take_out_of_line,
    )  # fmt: skip
