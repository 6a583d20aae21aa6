"""No code in a checkpoint runs, whoever loads it."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.compat.deepspeed import load_tensors_alone


class Code:
    """Pickled, it asks for a file to be made."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.made,)


def load(path: Path) -> Any:
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    return TorchCheckpointEngine().load(str(path), map_location="cpu")


def test_deepspeed_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, made = tmp_path / "model_states.pt", tmp_path / "made"
    torch.save({"module": Code(made)}, checkpoint)
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    load(checkpoint)
    assert made.exists(), "left alone, it runs"
    made.unlink()
    load_tensors_alone(zero=True)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        load(checkpoint)
    assert not made.exists()


def test_what_deepspeed_saves_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    content = {
        "loss_scaler": DynamicLossScaler(8.0, 3, 1.0, 2, False),
        "zero_stage": ZeroStageEnum.gradients,
        "slices": {"a": fragment_address(numel=4, start=2)},
        "ones": torch.ones(3),
    }
    torch.save(content, tmp_path / "optim_states.pt")
    load_tensors_alone(zero=True)
    loaded = load(tmp_path / "optim_states.pt")
    assert loaded["loss_scaler"].cur_scale == 8.0
    assert loaded["zero_stage"] == ZeroStageEnum.gradients
    assert loaded["slices"] == content["slices"]
    assert torch.equal(loaded["ones"], torch.ones(3))
