"""Tiny tensors need one thread; a team that waits for a busy core takes many times longer."""

import pytest

torch = pytest.importorskip("torch")
torch.set_num_threads(1)
