"""What a run will take: `plan`, `estimate` and `savings` without torch, `probe` by trial."""
