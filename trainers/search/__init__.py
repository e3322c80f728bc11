"""Weights of several adapters, found by trying: what is maximised, and what tries."""
