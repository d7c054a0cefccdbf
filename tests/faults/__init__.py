"""Faults on purpose: kills, full disks, power cuts, damaged files. `python -m tests.faults` prints what was tried and what survived."""
