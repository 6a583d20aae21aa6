"""The options ``--gpus`` and ``--save-machine``: the machine to plan for, and its file."""

import json
import os
import shlex
from pathlib import Path

from rich.console import Console
from rich.text import Text

from planner.base.console import print_unpadded
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.hardware.cluster import Cluster
from planner.hardware.detect import cluster_from, detect, parse_gpus
from planner.hardware.saved_machine import is_machine_file, load_machine, save_machine
from planner.report.machine_report import machine_section
from planner.report.tables import facts


def find_cluster(spec: str, command: str, save_to: Path | None, *, force: bool) -> Cluster:
    """Return the machine of ``--gpus``: this one, a saved one, or a named one.

    ``command`` is the command line typed, for remedies that repeat it. This machine is saved if
    ``save_to`` is given. Raises InvalidRequestError if another machine is to be saved.
    """
    if save_to is not None and spec != "auto":
        raise InvalidRequestError(
            Phrase(
                "--save-machine {save_to} cannot be combined with --gpus {spec}: it saves "
                "this machine, so leave --gpus out",
                save_to=save_to,
                spec=spec,
            )
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
    """Print the machine alone, as a report or as a JSON document."""
    if as_json:
        from planner.report.json_document import machine_document  # only --json needs it

        print(json.dumps(machine_document(cluster), indent=2))
        return
    print_unpadded(console, machine_section(cluster))
    if saved_to is not None:
        command = f"plan --model MODEL --gpus {shlex.quote(str(saved_to))}"
        console.print()
        print_unpadded(console, facts([(Phrase("Next"), Text(command, style="bold"))]))
