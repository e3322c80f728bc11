"""What is in adapters, and what they do to each other.

| file | tells |
| --- | --- |
| `svd` | the singular values and directions of one layer's update, from its factors |
| `subspace` | how far two updates use the same directions; the LoRA paper's phi |
| `amplification` | how much louder an update makes what the base already has |
| `study` | all of it, layer by layer, over several adapters |
| `results` | what came out, as JSON and back (no torch) |
| `places` | the blocks of a model, and rows and columns for its layers (no torch) |
| `pictures` | the same as pictures (no torch) |
"""
