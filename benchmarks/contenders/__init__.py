"""The contenders. Each run is a fresh process, and all of it counts.

A contender in Python is a function that takes a `Job` and does it. It runs as
`python -m benchmarks.contenders`. Each module imports what its contenders need and nothing else:
what the others need would count as their time and memory.

The contenders of the modules in `COMMANDS` are programs of their own: there, a function takes a
`Job` and returns the command.
"""

COMMANDS = ("scripts", "tools")
