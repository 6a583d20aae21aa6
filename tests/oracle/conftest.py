"""What the tests of this folder share. Tiny tensors need one thread; a team that waits for a busy
core takes many times longer."""

import pytest

from planner.memory.micro_batch import stretches_of, tape_pass

torch = pytest.importorskip("torch")
torch.set_num_threads(1)


@pytest.fixture
def loss_as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predict the fused loss of a CPU as that of a CUDA device, whose kernels copy no tile."""
    tape_pass.cache_clear()
    stretches_of.cache_clear()
    monkeypatch.setattr("planner.forward.loss.TORCH_TILE_BYTES", {"forward": 0, "backward": 0})
