"""Estimates with intervals: of one run from its probes (`clustered`), and of several runs together, where the
unit is a run (`rates`, `exact`, `times`). Which method covers what, measured on simulated studies:
docs/statistics.md.
"""
