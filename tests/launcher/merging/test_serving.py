"""The commands for other programs are words of a shell, whatever the folder is called."""

import shlex
from pathlib import Path

from launcher.merging.serving import serving_commands, serving_lines


def test_paths_with_spaces_stay_one_word() -> None:
    commands = serving_commands(Path("my runs/try 1/merged"), "Qwen2.5 7B|x")
    assert shlex.split(commands["vLLM"][0]) == [
        *("vllm", "serve", "my runs/try 1/merged", "--served-model-name", "qwen2.5-7b-x"),
    ]
    assert shlex.split(commands["Ollama"][0])[1] == f"FROM {Path.cwd()}/my runs/try 1/merged"


def test_what_is_converted_is_quantized_and_served() -> None:
    first, second, third = serving_commands(Path("merged"), "tiny")["llama.cpp"]
    assert first.split()[-1] == second.split()[1] == "tiny.gguf"
    assert second.split()[2] == third.split()[-1] == "tiny-q4_k_m.gguf"


def test_lines_for_a_terminal() -> None:
    lines = list(serving_lines(Path("merged"), "tiny"))
    assert lines[:2] == ["vLLM:", "  vllm serve merged --served-model-name tiny"]
