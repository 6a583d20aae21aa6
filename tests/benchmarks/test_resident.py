"""What presets say of a process on the CPU is what its runs had."""

from statistics import median

from benchmarks.measure.resident import MAPPED, readings
from benchmarks.measure.results import RESULTS
from planner.memory.device_memory import overheads, resident_bytes


def test_the_range_is_that_of_the_runs() -> None:
    libraries, held = overheads().libraries_mib, overheads().resident_over_allocated
    added = sorted(each.libraries_mib for each in readings(MAPPED))
    assert [added[0], round(median(added)), added[-1]] == [
        libraries.low,
        libraries.expected,
        libraries.high,
    ]
    ratios = sorted(each.over_allocated(libraries.expected) for each in readings(RESULTS))
    assert [round(each, 2) for each in (ratios[0], median(ratios), ratios[-1])] == [
        held.low,
        held.expected,
        held.high,
    ]
    assert (len(added), len(ratios)) == (libraries.readings, held.readings)


def test_no_run_took_more_than_its_worst_case() -> None:
    for each in readings(RESULTS):
        low, _, high = resident_bytes(each.predicted_bytes)
        assert low * 0.99 < each.resident_bytes < high * 1.01  # presets have two decimals
