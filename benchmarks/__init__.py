"""Measurements: `python -m benchmarks`, or `make bench`. README.md says what they mean."""
