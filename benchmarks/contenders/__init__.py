"""The contenders. Each is run in a fresh process, `python -m benchmarks.contenders`.

A contender is a function that takes a `Job` and does it. It returns the peak memory of the tool
that it ran, if it ran one. Each module imports what its contenders need and nothing else: what the
others need would count as their memory.
"""
