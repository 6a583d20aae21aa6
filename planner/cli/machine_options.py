"""The options ``--gpus`` and ``--save-machine``: the machine to plan for, and its file."""

import json
import os
import re
import shlex
from pathlib import Path

from rich.console import Console
from rich.text import Text

from planner.base.console import print_unpadded
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.base.strict_yaml import read_spec
from planner.hardware.cards import named_cluster
from planner.hardware.cluster import Cluster, GpuSpec
from planner.hardware.detect import cluster_from, detect, parse_gpus
from planner.hardware.saved_machine import is_machine_file, load_machine, save_machine
from planner.report.machine_report import machine_section
from planner.report.tables import facts

_CARD_FILE = re.compile(r"(?:(?P<count>[1-9][0-9]{0,3}) ?[x*\u00d7] ?)?(?P<path>.+\.ya?ml)")
"""``card.yaml`` or ``4xcard.yaml``: no name of a card ends so."""


def find_cluster(spec: str, command: str, save_to: Path | None, *, force: bool) -> Cluster:
    """Return the machine of ``--gpus``: this one, a saved one, one of cards in a file, or
    a named one.

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
    if _CARD_FILE.fullmatch(spec.strip()):
        return card_file_cluster(spec.strip())
    return parse_gpus(spec)


def card_file_cluster(named: str) -> Cluster:
    """Return the cluster of so many cards as a file describes.

    Raises InvalidFileError for a file that is not there or describes no card.
    """
    match = _CARD_FILE.fullmatch(named)
    assert match is not None
    if match["count"] is None or Path(named).is_file():
        return named_cluster(read_spec(GpuSpec, Path(named)), 1)
    return named_cluster(read_spec(GpuSpec, Path(match["path"])), int(match["count"]))


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
