"""Architectures of Transformers: which are tested, what all must pass."""
