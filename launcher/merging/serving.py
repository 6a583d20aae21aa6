"""The commands that run a model of a folder in other people's programs."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

QUANTIZED = "Q4_K_M"
"""Format of 4-bit weights that llama.cpp and Ollama quantize to: about a third of 16 bit."""


def serving_commands(folder: Path, name: str) -> dict[str, list[str]]:
    """Return the commands of each program that serves a model's folder under a name.

    read: docs/import.md of Ollama, docs of vLLM (``vllm serve``), and tools/quantize/README.md of
    llama.cpp, whose ``convert_hf_to_gguf.py`` is in its repository.
    """
    name = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.") or "model"
    here, file = shlex.quote(str(folder)), f"{name}.gguf"
    small = f"{name}-{QUANTIZED.lower()}.gguf"
    source = shlex.quote(f"FROM {folder.absolute()}")
    return {
        "vLLM": [f"vllm serve {here} --served-model-name {name}"],
        "Ollama": [
            f"echo {source} >Modelfile",
            f"ollama create {name} --quantize {QUANTIZED.lower()} --file Modelfile",
            f"ollama run {name}",
        ],
        "llama.cpp": [
            f"python convert_hf_to_gguf.py {here} --outfile {file}",
            f"llama-quantize {file} {small} {QUANTIZED}",
            f"llama-server --model {small}",
        ],
    }


def serving_lines(folder: Path, name: str) -> Iterator[str]:
    """Yield the same as lines for a terminal."""
    for program, commands in serving_commands(folder, name).items():
        yield f"{program}:"
        yield from (f"  {command}" for command in commands)
