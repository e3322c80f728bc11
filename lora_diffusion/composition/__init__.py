"""Several adapters on one base: weighed, placed in the picture, folded into one file.

| module | does |
| --- | --- |
| `weights`, `blocks` | how strongly an adapter acts: by model, block and step; no torch |
| `prompt_tags`, `folder` | `<lora:name:0.8>` in a prompt, and the file it means; no torch |
| `live` | `compose`: adapters on a loaded base, whose weights change without loading anything |
| `sources` | what an adapter comes from, checked in bounded memory before it is loaded |
| `regions` | masks: an adapter that acts in one part of the picture |
| `terms`, `methods`, `cut` | the sum of one layer's updates, other sums, fewer ranks |
| `fold`, `resize`, `bake` | into one file, into a smaller one, into a base's weights |
| `pictures` | how a folded file's pictures differ from the live ones |

W = W0 + sum of w_i * delta_i(W0), each delta against the untouched W0: the order never matters.
"""
