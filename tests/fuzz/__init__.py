"""Fuzzing of all that comes from outside: tars, lists of extents, a server's replies.

`targets` has the functions that take any bytes, `python -m tests.fuzz` looks for bytes that break
them, and what it found stays in `seeds`, as tests.
"""
