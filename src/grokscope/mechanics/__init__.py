"""What happens inside: lens, traces, rates with intervals, phases, diagnosis.

Read `lens.py` first. Nothing is imported here: the command line reads `mechanics.spec` and must not wait for
PyTorch.
"""
