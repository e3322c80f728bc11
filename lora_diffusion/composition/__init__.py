"""Several adapters on one base: weighed, placed in the picture, folded into one file.

| module | does |
| --- | --- |
| `weights`, `blocks` | how strongly an adapter acts: by model, block and step; no torch |
| `prompt_tags` | `<lora:name:0.8>` in a prompt; no torch |
| `live` | `compose`: adapters on a loaded base, whose weights change without loading anything |
| `regions` | masks: an adapter that acts in one part of the picture |

W = W0 + sum of w_i * delta_i(W0), each delta against the untouched W0: the order never matters.
"""
