"""Checkpoints of the two reference codebases, read as models of this one. See `importing.py`.

Nothing is imported here: the command line reads `published.options` and must not wait for PyTorch.
"""
