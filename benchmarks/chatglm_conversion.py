"""Memory and time of converting a checkpoint of ChatGLM3-6B's size whose weights are all zero.

python -m benchmarks.chatglm_conversion DIRECTORY [--kind bin] [--layers 28] [--write]

DIRECTORY needs room for the converted model, and with ``--kind bin`` twice that.
"""

import argparse
import json
import re
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measure.environment import host_environment
from launcher.chatglm.config import read_shape
from launcher.chatglm.layout import tensors

RESULTS = Path(__file__).parent / "results"
NUM_SHARDS = 7
CONVERSION = """
import re, sys, time
from pathlib import Path
from launcher.chatglm.command import convert
began = time.perf_counter()
convert(Path(sys.argv[1]), Path(sys.argv[2]), "native", sys.stderr)
took = time.perf_counter() - began
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1], took)
"""


def config(num_layers: int) -> dict[str, Any]:
    """Return the configuration of THUDM/chatglm3-6b: its shape, and the keys that must not be left
    out."""
    return {
        "model_type": "chatglm",
        "num_layers": num_layers,
        "padded_vocab_size": 65_024,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "add_qkv_bias": True,
        "seq_length": 8192,
    }


def write_zeros(folder: Path, kind: str, num_layers: int) -> None:
    shape = read_shape(config(num_layers), folder / "config.json")
    (folder / "config.json").write_text(json.dumps(config(num_layers)), encoding="utf-8")
    all_shapes = [(each.original, each.shape) for each in tensors(shape)]
    places: dict[str, str] = {}
    for shard in range(NUM_SHARDS):
        file = f"shard-{shard}.{kind}"
        held = dict(all_shapes[shard::NUM_SHARDS])
        places |= dict.fromkeys(held, file)
        (write_pickled if kind == "bin" else write_sparse)(folder / file, held)
    stem = "pytorch_model.bin" if kind == "bin" else "model.safetensors"
    index = json.dumps({"weight_map": places})
    (folder / f"{stem}.index.json").write_text(index, encoding="utf-8")


def write_sparse(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write a sparse file, whose zeros take no space."""
    table, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * product(shape)
        table[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    header = json.dumps(table).encode()
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(header)) + header)
        opened.truncate(8 + len(header) + end)


def write_pickled(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    import torch

    torch.save({name: torch.zeros(shape).half() for name, shape in shapes.items()}, file)


def product(shape: tuple[int, ...]) -> int:
    number = 1
    for length in shape:
        number *= length
    return number


def measure(directory: Path, kind: str, num_layers: int) -> dict[str, Any]:
    source, target = directory / "chatglm-source", directory / "chatglm-native"
    source.mkdir()
    try:
        write_zeros(source, kind, num_layers)
        done = subprocess.run(
            [sys.executable, "-c", CONVERSION, str(source), str(target)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        size = sum(file.stat().st_size for file in target.glob("*.safetensors"))
    finally:
        shutil.rmtree(source)
        shutil.rmtree(target, ignore_errors=True)
    [(resident, seconds)] = re.findall(r"(\d+) ([\d.]+)", done.stdout)
    return {
        "run": {"benchmark": "chatglm_conversion", "kind": kind, "num_layers": num_layers},
        "measured": {
            "converted_bytes": size,
            "largest_resident_bytes": int(resident) * 1024,
            "run_time_s": round(float(seconds), 1),
        },
        "environment": host_environment(("tuneplan", "torch")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kind", choices=("safetensors", "bin"), default="safetensors")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--write", action="store_true", help="keep the result in results/")
    options = parser.parse_args()
    text = json.dumps(measure(options.directory, options.kind, options.layers), indent=2) + "\n"
    print(text, end="")
    if options.write:
        file = RESULTS / f"chatglm-conversion-{options.kind}--{time.strftime('%Y-%m-%d')}.json"
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
