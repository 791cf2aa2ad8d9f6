"""The fast loop: one compiled step, evaluation at checkpoints, resume bit for bit. Start at `loop.py`.

Nothing is imported here: the command line reads `training.spec` and must not wait for PyTorch.
"""
