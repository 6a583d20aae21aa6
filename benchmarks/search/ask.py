"""Run in a separate process, so that nothing is cached: one request, decided twice.

python -m benchmarks.search.ask MODEL GPUS NODES GLOBAL_BATCH_SIZE
"""

import gc
import json
import sys
import time

from msgspec import structs

from planner.decision.choose import decide
from planner.decision.method_search import search_methods
from planner.decision.preference import choose
from planner.decision.request import Request
from planner.hardware.detect import parse_gpus
from planner.models.model_presets import load_model


def main() -> None:
    """Print the CPU seconds of the choice alone, with its counts, then of all that a report
    shows."""
    gc.disable()  # as ``plan`` runs
    model, gpus, nodes, batch = sys.argv[1:]
    cluster = structs.replace(parse_gpus(gpus), num_nodes=int(nodes))
    request = Request(
        model=load_model(model),
        cluster=cluster,
        global_batch_size=int(batch) if batch != "0" else None,
    )
    began = time.process_time()
    results = search_methods(request)
    chosen, _ = choose(request, results)
    choice_s = time.process_time() - began
    searches = [search for result in results.values() for search in result.series]
    answer = {
        "candidates": sum(result.num_candidates for result in results.values()),
        "forbidden_by_rules": sum(sum(r.forbidden.values()) for r in results.values()),
        "priced_exactly": sum(search.num_priced for search in searches),
        "choice_cpu_s": round(choice_s, 4),
        "method": chosen.method,
        "strategy": chosen.layout.strategy,
        "micro_batch_size": chosen.layout.micro_batch_size,
    }
    began = time.process_time()
    decision = decide(request)
    _limits = decision.what_if
    answer["report_cpu_s"] = round(time.process_time() - began, 4)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
