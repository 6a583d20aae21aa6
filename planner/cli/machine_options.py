"""``--gpus`` and ``--save-machine``: the machine of a request, and where it is kept."""

import json
import os
import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from planner.base.errors import InvalidRequestError
from planner.hardware.cluster import Cluster
from planner.hardware.detect import cluster_from, detect, parse_gpus
from planner.hardware.saved_machine import is_machine_file, load_machine, save_machine
from planner.report.machine_report import machine_section
from planner.report.tables import facts


def find_cluster(spec: str, save_to: Path | None = None, *, force: bool = False) -> Cluster:
    """The machine found here, saved in a file, or named; saved if ``save_to`` is given."""
    command = shlex.join(["plan", *sys.argv[1:]])
    if save_to is not None and spec != "auto":
        raise InvalidRequestError(
            f"--save-machine {save_to} saves the machine that --gpus auto finds: "
            f"leave --gpus {spec} out"
        )
    if spec == "auto":
        cluster = detect(os.environ, command)
        if save_to is not None and cluster.machine is not None:
            save_machine(cluster.machine, save_to, force=force)
        return cluster
    if is_machine_file(spec):
        return cluster_from(load_machine(Path(spec.strip()), os.environ), command)
    return parse_gpus(spec)


def show_machine(
    console: Console, cluster: Cluster, saved_to: Path | None, *, as_json: bool
) -> None:
    """The machine alone, as a report or as a document shows it."""
    if as_json:
        from planner.report.json_document import machine_document  # for who asks for it

        print(json.dumps(machine_document(cluster), indent=2))
        return
    console.print(machine_section(cluster))
    if saved_to is not None:
        command = f"plan --model MODEL --gpus {shlex.quote(str(saved_to))}"
        console.print()
        console.print(facts([("Next", Text(command, style="bold"))]))
