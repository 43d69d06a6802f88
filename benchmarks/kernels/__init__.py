"""Kernels against named peers, by operation; `python -m benchmarks.kernels` runs all."""
