"""Captioners: what writes a caption from a picture, one small file a backend."""
