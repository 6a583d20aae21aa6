"""The first meeting of a run's nodes, as the launching process of one of them holds it."""

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from launcher.display.closing_summary import failure_lines
from launcher.display.console import console_on
from launcher.faults.outcome import say
from launcher.lifecycle.begin import tell
from launcher.nodes.agreement import Agreement, agreement_on
from launcher.nodes.meeting_result import MeetingResult, read_result
from launcher.nodes.node_facts import NodeFacts
from launcher.nodes.node_identity import network_environment
from launcher.nodes.peers import ThisNode, rendezvous_of
from launcher.nodes.table import nodes_table
from launcher.run.process import ENDED, run_to_end
from launcher.run.rank_commands import elastic_command, merged_environment
from launcher.storage.json_files import write_json
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.plan.schema import Plan


def hold_first_meeting(plan: Plan, here: ThisNode, facts: NodeFacts) -> MeetingResult:
    """Meet the other nodes and return the result, which is the same on all of them.

    Raise ``InvalidRequestError`` if the run cannot begin, and ``SystemExit`` if the meeting fails.
    """
    result_file = meeting_file(here)
    result_file.unlink(missing_ok=True)
    facts_file = result_file.with_name("facts.json")
    write_json(facts_file, asdict(facts))
    log = here.run.node_log("meeting")
    code = run_to_end(meeting_command(plan, here, facts_file), meeting_environment(here), log)
    if code == 0:
        result = read_result(result_file)
        show(result, agreement_on(result, plan), leads=here.node.leads)
        return result
    what = Phrase(
        "the meeting of {num_nodes} nodes ended with exit code {code}",
        num_nodes=plan.parallel.num_nodes,
        code=code,
    )
    for line in failure_lines(log, what):
        say(line)
    raise SystemExit(code if code > 0 else ENDED)


def show(result: MeetingResult, agreement: Agreement, *, leads: bool) -> None:
    """Print table and notes on the node that leads; raise a refusal on every node."""
    if leads:
        console_on(sys.stderr).print(nodes_table(result))
        tell(agreement.notes)
    if agreement.refusals:
        raise InvalidRequestError("; ".join(agreement.refusals))


def meeting_command(plan: Plan, here: ThisNode, facts_file: Path) -> list[str]:
    """Return torch elastic's command for the meeting, with a rank per GPU, or one on the CPU."""
    on_gpus = plan.hardware.device == "cuda"
    rendezvous = rendezvous_of(here.node, here.endpoint, 0, plan.parallel.num_nodes)
    ranks = plan.parallel.gpus_per_node if on_gpus else 1
    paths = (facts_file, meeting_file(here), here.run.path)
    return [
        *elastic_command(rendezvous, python=sys.executable, ranks=ranks),
        *("-m", "launcher.nodes.meeting", *map(str, paths)),
        *(["--on-gpus"] if on_gpus else []),
    ]


def meeting_environment(here: ThisNode) -> Mapping[str, str]:
    """Return the environment of the meeting's ranks."""
    return merged_environment(os.environ, network_environment(here.node))


def meeting_file(here: ThisNode) -> Path:
    """Return the file in which this node keeps the meeting's result."""
    assert here.run.node is not None
    return here.run.nodes / here.run.node / "meeting.json"
