"""Benchmarks: ratios within one run, printed; nothing here asserts a time."""
