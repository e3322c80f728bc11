"""Settings written for other trainers, read as ours."""

from trainers.importing.config import Imported, read_config

__all__ = ["Imported", "read_config"]
