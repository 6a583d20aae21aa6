"""A model whose generation settings do not know the end mark of its chat template stops at it."""

import json
import subprocess
import sys
from pathlib import Path

from tests.launcher.launching import environment, launch, write_plan, write_samples
from tests.launcher.tiny_model import CHAT_TEMPLATE, END, ROLE, byte_tokenizer, write_tiny_model


def stops(folder: Path) -> list[int]:
    content = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    ids: list[int] = content["eos_token_id"]
    return ids


def test_adapter_and_merged_model_stop_where_answers_end(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "model")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace(END, ROLE)
    tokenizer.save_pretrained(tmp_path / "model")
    write_samples(tmp_path)
    write_plan(tmp_path, model__source=str(tmp_path / "model"))
    done = launch(tmp_path, "--data", "data.jsonl")
    assert done.code == 0, done.output + done.errors
    said = done.output + done.errors
    assert "answers end with <|role|>, at which the model's generation settings do not" in said
    assert "eos_token_id=[1]" in said
    assert ">>>Fact 0<|role|><<<" in said
    ids = byte_tokenizer().convert_tokens_to_ids([END, ROLE])
    assert stops(done.run / "adapter") == ids
    subprocess.run(
        [sys.executable, "-m", "launcher", "--merge", "run", "--output", "merged"],
        cwd=tmp_path,
        env=environment(),
        check=True,
        capture_output=True,
    )
    assert stops(tmp_path / "merged") == ids
