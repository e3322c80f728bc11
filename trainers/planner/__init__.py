"""What a run will take: `estimate` and `savings` without torch, `probe` by trial."""
