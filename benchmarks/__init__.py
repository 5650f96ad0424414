"""Benchmarks: us and our peers, in turn, against the real daemon. Run `python -m benchmarks`."""
