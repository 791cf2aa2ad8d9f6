"""Models that reason in passes, behind start / step / read. See `protocol.py`.

Nothing is imported here: the command line reads `models.spec` and must not wait for PyTorch.
"""
