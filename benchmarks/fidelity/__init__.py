"""What a LoRA does to the demo base's pictures, scored from pixels alone.

    python -m benchmarks.fidelity validate             the scores against drawn truth
    python -m benchmarks.fidelity base                 the base by itself
    python -m benchmarks.fidelity character FILE…      likeness, leak, forgetting
    python -m benchmarks.fidelity style FILE…          the same for the ink style
    python -m benchmarks.fidelity second FILE…         likeness of the second character
    python -m benchmarks.fidelity compose CHARACTER STYLE --weights 1/0.6 1/0.5,text=1
    python -m benchmarks.fidelity pair CHARACTER SECOND            side by side, by masks

All thresholds were fixed on drawn pictures and their VAE reconstructions, before any adapter was
scored, and `validate` prints how well they tell right from wrong.
"""
