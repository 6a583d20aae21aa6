"""Measured rates in a plan: where they are kept, what they change, and what is said of them."""

from pathlib import Path

import pytest
from msgspec import structs

from planner.decision.choose import decide
from planner.hardware.cards import load_gpu, named_cluster
from planner.hardware.cluster import Cluster
from planner.hardware.detect import cluster_from
from planner.hardware.machine import cpu_cluster
from planner.hardware.machine_readings import HostReading, Machine, NvmlReading, TorchReading
from planner.hardware.measured.data_folder import VARIABLE
from planner.hardware.measured.kept_measurements import (
    keep,
    kept_measurements,
    measurement_for,
    measurements_here,
)
from planner.hardware.saved_machine import load_machine, save_machine
from planner.report.speed_rows import speed_rows
from planner.search.candidate import Candidate
from planner.speed.card_rates import rates
from tests.planner.builders import request
from tests.planner.measured import curve, measurement, own_run

HOST = HostReading(
    cpu_name="A processor", cores=2, total_bytes=2**35, available_bytes=2**35, multiplies_bf16=True
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


def planned(cluster: Cluster) -> Candidate:
    pinned = {"method": "lora", "sequence_length": 256, "global_batch_size": 8}
    return decide(request(cluster, model="smollm2-135m", **pinned)).chosen


def measured_cpu(**changes: object) -> Cluster:
    return cpu_cluster(HOST, measurements=[measurement(**changes)])


def text_of(candidate: Candidate) -> str:
    return "\n".join(text for _, text in speed_rows(candidate, None))


def test_a_processor_has_a_step_time_once_it_is_measured() -> None:
    assert planned(cpu_cluster(HOST)).step_time_s is None
    chosen = planned(measured_cpu())
    assert chosen.step_time_s is not None
    assert "rates measured here on 2026-11-29 with torch 2.13.0" in text_of(chosen)


def test_ranks_share_the_cores_so_that_both_have_to_be_the_same() -> None:
    for changes in ({"cores": 4}, {"ranks": 2}, {"device_name": "Another"}):
        assert measured_cpu(**changes).accelerator.measured is None


def test_what_was_measured_of_a_card_counts_before_its_datasheet() -> None:
    cluster = named_cluster(load_gpu("rtx-4090"), 1)
    known = rates(cluster)
    name = cluster.accelerator.device_name
    seen = measurement(device="cuda", device_name=name)
    measured = rates(
        structs.replace(cluster, accelerator=structs.replace(cluster.accelerator, measured=seen))
    )
    assert known is not None
    assert measured is not None
    assert (known.products_16_per_s, measured.products_16_per_s) == (162_391_600_000_000.0, 1e12)
    assert measured.flops_per_s == known.flops_per_s, "utilisation is a share of the datasheet"


def test_kernels_of_a_processor_wait_for_their_launches() -> None:
    slow = measurement()
    kernels = structs.replace(slow.kernels, host_s_per_kernel=2e-3)
    slower = cpu_cluster(HOST, measurements=[structs.replace(slow, kernels=kernels)])
    before, after = planned(measured_cpu()).throughput, planned(slower).throughput
    assert before is not None
    assert after is not None
    assert after.step.launch_s > 20 * before.step.launch_s


def test_collectives_that_were_measured_are_as_they_are() -> None:
    links = {"ranks": 2, "all_reduce": curve(1e9), "all_gather": curve(2e9), "reduce": curve(5e8)}
    single = measured_cpu(ranks=1, links=links)
    cluster = structs.replace(single, gpus_per_node=2)
    step = planned(cluster).throughput
    assert step is not None
    assert step.step.exposed_communication_s > 0
    assert step.slowest_s == step.step.total_s, "links that were measured have no slower way"


def test_a_measurement_is_kept_by_device_ranks_and_software(data: Path) -> None:
    first, second = measurement(), measurement(ranks=2)
    files = {keep(first), keep(second), keep(structs.replace(first, measured_on="2026-11-30"))}
    assert len(files) == 2
    kept = [each for _, each in kept_measurements()]
    assert sorted(each.measured_on for each in kept) == ["2026-11-29", "2026-11-30"]
    assert len(measurements_here(TorchReading(version="2.13.0"))) == 2
    assert measurements_here(TorchReading(version="2.14.0")) == ()
    assert measurements_here(None) == ()


def test_a_file_of_another_version_is_left_out(data: Path) -> None:
    keep(measurement())
    (data / "measurements" / "other.json").write_text('{"schema_version": 9}', encoding="utf-8")
    (data / "measurements" / "torn.json").write_text('{"schema_ver', encoding="utf-8")
    assert len(kept_measurements()) == 1


def test_nothing_is_kept_or_read_on_request(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(measurement())
    monkeypatch.setenv(VARIABLE, "none")
    assert keep(measurement()) is None
    assert kept_measurements() == []


def test_of_several_measurements_of_a_card_that_over_as_many_counts() -> None:
    one, two = (measurement(device="cuda", ranks=ranks) for ranks in (1, 2))
    for ranks, expected in ((1, one), (2, two)):
        found = measurement_for([one, two], device_name="A processor", ranks=ranks)
        assert found == expected


def test_a_saved_machine_has_its_measurements(tmp_path: Path) -> None:
    file = tmp_path / "box.json"
    machine = Machine(
        nvml=NvmlReading(problem="none"),
        host=HOST,
        measurements=(measurement(),),
        runs=(own_run(1.05),),
    )
    save_machine(machine, file, force=False)
    there = cluster_from(load_machine(file, {}))
    assert there.accelerator.measured == measurement()
    assert there.runs == (own_run(1.05),)
    assert "rates measured on that machine on 2026-11-29" in text_of(planned(there))


def test_runs_here_narrow_the_range_and_both_are_shown() -> None:
    alone = planned(measured_cpu()).throughput
    runs = tuple(own_run(ratio) for ratio in (1.04, 1.07, 1.05))
    chosen = planned(structs.replace(measured_cpu(), runs=runs))
    found = chosen.throughput
    assert alone is not None
    assert found is not None
    assert alone.ratio.low < found.ratio.low < 1.04
    assert 1.07 < found.ratio.high < alone.ratio.high
    text = text_of(chosen)
    assert "3 runs here: 1.04 to 1.07 of predicted" in text
    assert f"without them {alone.ratio.low:.2f} to {alone.ratio.high:.2f}" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"device_name": "Another"},
        {"method": "full"},
        {"rates": None},
        {"rates": "2026-11-28"},
        {"world_size": 2},
        {"sharded": True},
        {"predicted_step_s": None},
    ],
)
def test_runs_of_another_kind_narrow_nothing(changes: dict[str, object]) -> None:
    found = planned(
        structs.replace(measured_cpu(), runs=(own_run(1.05, **changes),) * 3)
    ).throughput
    assert found is not None
    assert found.own_ratios == ()
    assert found.ratio == found.published


def test_runs_narrow_the_memory_of_a_card_too() -> None:
    cluster = named_cluster(load_gpu("rtx-4090"), 1)
    name = cluster.accelerator.device_name
    run = own_run(1.0, device_name=name, measured_bytes=10**9)
    before, after = (
        planned(cluster).memory,
        planned(structs.replace(cluster, runs=(run,) * 9)).memory,
    )
    assert after.low_bytes > before.low_bytes
    assert after.high_bytes <= before.high_bytes
