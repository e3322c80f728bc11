"""The Train tab: the form of settings, what a run will take, and its start."""
