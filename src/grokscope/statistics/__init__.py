"""Statistics over runs: exact tests and intervals for few runs, times with censoring, rates over runs.

The unit is a run. What is known of one run from its probes is in `statistics.clustered`; here is what several
runs say together. Which method covers what, measured on simulated studies: docs/statistics.md.
"""
