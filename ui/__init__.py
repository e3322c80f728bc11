"""The studio: sees runs, never trains. Nothing here may import torch."""

import os

# Gradio reads this when it is first imported; the studio reports nothing to anyone.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
