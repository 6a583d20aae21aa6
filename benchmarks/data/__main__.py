"""Time and memory of preparing a JSON Lines file of a given size as a launch prepares it.

python -m benchmarks.data --tokenizer DIR [--megabytes 2000] [--packing] [--write]

The file is made in a folder that is removed at the end. The preparation runs in a separate process,
whose memory the system reports. The text is made of words drawn at random from a module's source:
it is meaningless and tokenizes at the speed of prose.
"""

import argparse
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.measure.environment import host_environment

RESULTS = Path(__file__).parents[1] / "results"
PACKAGES = ("tuneplan", "datasets", "pyarrow", "tokenizers", "transformers", "trl")
WORDS = (40, 300)
"""Number of words of a question and of an answer; a record has two of each, about 4 kB."""


def write_records(path: Path, num_bytes: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for record in _records():
            file.write(json.dumps(record) + "\n")
            if file.tell() >= num_bytes:
                return


def _records() -> Iterator[dict[str, Any]]:
    words = sorted(set(re.findall(r"[a-z]{2,10}", inspect.getsource(textwrap))))
    chance = Random(0)
    while True:
        turns = [" ".join(chance.choices(words, k=count)) for count in (*WORDS, *WORDS)]
        roles = ("user", "assistant") * 2
        yield {
            "messages": [
                {"role": role, "content": content}
                for role, content in zip(roles, turns, strict=True)
            ]
        }


def measure(tokenizer: str, megabytes: int, *, packing: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "data.jsonl"
        write_records(path, megabytes * 10**6)
        command = [sys.executable, "-m", "benchmarks.data.child", str(path), tokenizer]
        began = time.perf_counter()
        done = subprocess.run(
            [*command, *(["--packing"] if packing else [])],
            stdout=subprocess.PIPE,
            env={**os.environ, "XDG_CACHE_HOME": scratch},
            check=True,
            text=True,
        )
        wall_time_s = time.perf_counter() - began
        prepared = json.loads(done.stdout.splitlines()[-1])
        file_bytes = path.stat().st_size
    return {
        "run": {"command": "python -m benchmarks.data", "file_bytes": file_bytes, **_run(packing)},
        "measured": {
            **prepared,
            "wall_time_s": wall_time_s,
            "records_per_second": prepared["num_records"] / prepared["prepare_s"],
            "bytes_per_second": file_bytes / prepared["prepare_s"],
        },
        "environment": host_environment(PACKAGES),
    }


def _run(packing: bool) -> dict[str, Any]:
    return {"packing": packing, "words_a_turn": list(WORDS), "sequence_length": 2048}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", required=True, help="a folder with tokenizer.json")
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--write", action="store_true", help="keep the result in results/")
    options = parser.parse_args()
    result = measure(options.tokenizer, options.megabytes, packing=options.packing)
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if options.write:
        file = RESULTS / f"data-{options.megabytes}MB--{time.strftime('%Y-%m-%d')}.json"
        RESULTS.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
