"""Measurements: `python -m benchmarks.nets`, `.kernels`, `.cold`. Ratios of one run count."""
