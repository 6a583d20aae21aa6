"""Time and peak memory of one preparation in a separate process.

Resident memory includes pages of mapped files, which the system reclaims when it needs them;
anonymous memory is what the process alone holds, read four times per second.
"""

import argparse
import json
import os
import resource
import sys
import threading
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "true"

from launcher.base_model.find_checkpoint import Checkpoint
from launcher.data.cache import data_cache, make_entry
from launcher.data.preparation import DataPreparation, Settings, shares_of
from launcher.data.sources import find_sources
from launcher.display.preparation_progress import PreparationProgress
from launcher.lifecycle.preparation_process import load_tokenizer
from planner.plan.data_section import DataSection

SECONDS = 0.25


class AnonymousMemory(threading.Thread):
    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0

    def run(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            (line,) = (x for x in status.splitlines() if x.startswith("RssAnon:"))
            self.peak_bytes = max(self.peak_bytes, int(line.split()[1]) * 1024)
            time.sleep(SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--packing", action="store_true")
    options = parser.parse_args()
    data = DataSection(source=options.data)
    tokenizer, _ = load_tokenizer(Checkpoint(options.tokenizer, options.tokenizer.name))
    settings = Settings(
        sequence_length=2048,
        packing=options.packing,
        loss_on="answers",
        errors="stop",
        shares=shares_of(data, 42),
    )
    before_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    memory = AnonymousMemory()
    memory.start()
    began = time.perf_counter()
    progress = PreparationProgress(sys.stderr, Path(options.data).stat().st_size)
    preparation = DataPreparation(settings, tokenizer, progress, checkpoint=options.tokenizer)
    entry = make_entry(
        data_cache("data") / "measured",
        lambda folder: preparation.write(find_sources(data), folder).as_dict(),
    )
    prepare_s = time.perf_counter() - began
    summary = preparation.summary
    measured = {
        "num_records": summary.num_records,
        "num_tokens": summary.num_tokens,
        "num_rows": summary.num_rows,
        "prepare_s": prepare_s,
        "cpu_s": time.process_time(),
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_anonymous_bytes": memory.peak_bytes,
        "resident_before_bytes": before_bytes,
        "table_bytes": sum(path.stat().st_size for path in entry.folder.glob("*.arrow")),
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
