"""The benchmark of the search decides what it says it decides."""

import json
import subprocess
import sys

from benchmarks.search.__main__ import REQUESTS


def test_ten_thousand_candidates_are_decided_by_a_few_prices() -> None:
    command = [sys.executable, "-m", "benchmarks.search.ask", *REQUESTS["10,080 candidates"]]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert answer["candidates"] == 14_400
    assert 0 < answer["priced_exactly"] < 100
    assert answer["choice_cpu_s"] < 5
