"""`lora-diffusion library` and `lora-diffusion again`."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.trainers.library.conftest import folder  # noqa: F401
from trainers.cli.main import main


def test_a_folder_is_listed_searched_and_given_sidecars(folder, tmp_path, capsys):  # noqa: F811
    argv = ["library", str(folder), "--index", str(tmp_path / "i.sqlite")]
    assert main([*argv, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["read"] == told["total"] == 4
    assert [a["file"] for a in told["adapters"] if a["broken"]] == [
        "cut.safetensors", "other.safetensors"
    ]  # fmt: skip
    assert main([*argv, "--search", "winter", "--write", "json", "--write", "preview.png",
                 "--write", "civitai.info", "--json"]) == 0  # fmt: skip
    told = json.loads(capsys.readouterr().out)
    assert (told["read"], len(told["written"])) == (0, 3)
    assert json.loads((folder / "snow.json").read_text())["activation text"] == "snwfx"
    assert (folder / "snow.preview.png").exists()
    digest = told["adapters"][0]["autov3"]
    assert main([*argv, "--hash", digest]) == 0
    out = capsys.readouterr().out
    assert "snow.safetensors" in out and "ink.safetensors" not in out


def test_settings_are_written_as_a_toml(folder, tmp_path, capsys):  # noqa: F811
    argv = ["again", str(folder / "sub" / "ink.safetensors"), "--out", str(tmp_path / "a.toml")]
    assert main([*argv, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"]["adapter"]["rank"] == 16
    assert told["notes"]
    assert main(["again", str(folder / "cut.safetensors"), "--out", str(tmp_path / "b.toml")]) == 2
    assert "cut.safetensors" in capsys.readouterr().err


def test_the_library_is_torch_free(folder, tmp_path):  # noqa: F811
    code = (
        "import sys; from trainers.cli.main import main; "
        f"main(['library', {str(folder)!r}, '--index', {str(tmp_path / 'i.sqlite')!r}, '--json']); "
        f"main(['again', {str(folder / 'snow.safetensors')!r}, '--out', "
        f"{str(tmp_path / 'a.toml')!r}, '--json']); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
