"""What is shared of a run's settings: names, and none of the folders of this machine."""

from __future__ import annotations

from trainers.export import without_paths
from trainers.layering import build_spec, to_toml

HOME = "/home/somebody"


def test_no_local_folder_is_shared():
    subset = {
        "folder": f"{HOME}/a", "mask_folder": f"{HOME}/b", "caption_table": f"{HOME}/c.jsonl",
    }  # fmt: skip
    spec = build_spec(
        [
            {
                "model": {"base": f"{HOME}/base.safetensors", "tokenizer": f"{HOME}/clip"},
                "data": {
                    "folder": f"{HOME}/pictures",
                    "class_folder": f"{HOME}/d",
                    "wildcards": True,
                    "wildcard_folder": f"{HOME}/e",
                    "cache": "disk",
                    "cache_folder": f"{HOME}/f",
                    "caption_table": f"{HOME}/g.jsonl",
                    "masked_loss": True,
                    "subsets": [subset],
                },
                "adapter": {"start_from": f"{HOME}/h.safetensors"},
                "preview": {"prompts_file": f"{HOME}/i.txt"},
                "validation": {"every_steps": 1, "folder": f"{HOME}/j"},
            }
        ]
    )
    text = to_toml(without_paths(spec))
    assert to_toml(spec).count(HOME) == 13
    assert HOME not in text
    for name in ("base.safetensors", "g.jsonl", "h.safetensors", "i.txt"):
        assert name in text
