"""The Runs tab: a run followed, its pictures and loss, its ending, runs compared."""
