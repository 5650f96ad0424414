"""Faults: real copies, and what happens to them.

`matrix` says what can happen to which copy, `world` makes it happen (a real daemon, a real
qemu-nbd, a proxy between), `job` is the program that copies, and `judge` says whether its end was
right, with tools that are not tapestream.
"""
