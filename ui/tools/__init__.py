"""The Tools and Settings tabs."""
