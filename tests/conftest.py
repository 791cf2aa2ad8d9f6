"""Tests run side by side, so each keeps to one thread; that also fixes the bits."""

import torch

torch.set_num_threads(1)
