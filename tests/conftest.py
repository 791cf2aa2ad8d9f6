"""Tests run side by side, so each keeps to one thread; that also fixes the bits.

Hostile files, 10,000 of each kind: pytest tests/test_hostile.py --hypothesis-profile hostile
"""

import torch
from hypothesis import settings

settings.register_profile("hostile", max_examples=10_000)

torch.set_num_threads(1)
