"""``launch --dry-run``, whole."""

from pathlib import Path

from launcher.lifecycle.dry_run import dry_run_text
from launcher.nodes.node_identity import Endpoint, Node, network_environment
from launcher.nodes.peers import rendezvous_of
from launcher.run.run_directory import RunDirectory
from planner.base.preset_files import translations
from tests.launcher.golden import assert_golden
from tests.launcher.plans import full, parallel, plan


def test_one_process(tmp_path: Path) -> None:
    text = dry_run_text(plan(), RunDirectory(Path("runs/tiny-lora")), python="python", cores=2)
    assert_golden("dry-run-single.txt", text, tmp_path)


def test_one_of_two_nodes(tmp_path: Path) -> None:
    two = plan(
        parallel=parallel("ddp") | {"num_nodes": 2, "gpus_per_node": 1},
        batch__gradient_accumulation_steps=1,
    )
    node = Node(name="n2", address="10.0.0.2", interface="eth1", leads=False)
    endpoint = Endpoint(host="n1", port=29500)
    text = dry_run_text(
        two,
        RunDirectory(Path("runs/tiny"), node.address),
        python="python",
        cores=2,
        rendezvous=rendezvous_of(node, endpoint, 1, 2),
        network=network_environment(node, tmp_path),
        max_restarts=1,
    )
    assert_golden("dry-run-node.txt", text, tmp_path)


def test_zero3_on_four_gpus(tmp_path: Path) -> None:
    eight = plan(
        **full(
            hardware__device="cuda",
            precision={"compute": "bf16", "frozen": "bf16", "trainable": "bf16", "master": "fp32"},
            parallel=parallel("zero3", 4),
            batch__global_batch_size=16,
        )
    )
    text = dry_run_text(eight, RunDirectory(Path("runs/tiny full")), python="python", cores=64)
    assert_golden("dry-run-zero3.txt", text, tmp_path)


def test_headings_are_in_the_language_of_the_process() -> None:
    text = dry_run_text(plan(), RunDirectory(Path("runs/a")), python="python", cores=2)
    headings = [line for line in text.translated(translations("zh")).splitlines() if line[0] != " "]
    assert [line for line in headings if line.isascii()] == []
