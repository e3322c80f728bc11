"""What a run will take: memory by estimate (`estimate`, `savings`; no torch) and by trial (`probe`)."""
