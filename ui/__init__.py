"""The studio: sees runs, never trains. Nothing here may import torch.

| folder | holds |
| --- | --- |
| `train`, `runs`, `compose`, `dataset`, `tools` | a tab each, and what its script asks |
| `gate` | who may enter, uploads, and what may be fetched |
| `static` | the page's scripts and styles |

`server` serves the page, which `studio` builds of the tabs. The other files are what several tabs
use; `context` holds what lives as long as the studio: followed runs, the queue, the processes that
draw and work.
"""

import os

# Gradio reads this when it is first imported; the studio reports nothing to anyone.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
