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
from launcher.nodes.agreement import Verdict, judge
from launcher.nodes.meeting_result import Met, read_met
from launcher.nodes.node_facts import Facts
from launcher.nodes.node_identity import network_environment
from launcher.nodes.peers import Here, rendezvous_of
from launcher.nodes.table import nodes_table
from launcher.run.process import ENDED, run_to_end
from launcher.run.rank_commands import elastic_command, merged_environment
from launcher.storage.json_files import write_json
from planner.base.errors import InvalidRequestError
from planner.plan.schema import Plan


def convene(plan: Plan, here: Here, facts: Facts) -> Met:
    """Meet the others and see whether the run may begin; raises what speaks against it."""
    met_file = meeting_file(here)
    met_file.unlink(missing_ok=True)
    own = met_file.with_name("facts.json")
    write_json(own, asdict(facts))
    log = here.run.node_log("meeting")
    code = run_to_end(meeting_command(plan, here, own), meeting_environment(here), log)
    if code == 0:
        met = read_met(met_file)
        show(met, judge(met, plan), leads=here.node.leads)
        return met
    what = f"the meeting of {plan.parallel.num_nodes} nodes ended with exit code {code}"
    for line in failure_lines(log, what):
        say(line)
    raise SystemExit(code if code > 0 else ENDED)


def show(met: Met, verdict: Verdict, *, leads: bool) -> None:
    """The table on the node that leads; a refusal on every node."""
    if leads:
        console_on(sys.stderr).print(nodes_table(met))
        tell(verdict.notes)
    if verdict.refusals:
        raise InvalidRequestError("; ".join(verdict.refusals))


def meeting_command(plan: Plan, here: Here, own: Path) -> list[str]:
    on_gpus = plan.hardware.device == "cuda"
    rendezvous = rendezvous_of(here.node, here.endpoint, 0, plan.parallel.num_nodes)
    ranks = plan.parallel.gpus_per_node if on_gpus else 1
    return [
        *elastic_command(rendezvous, python=sys.executable, ranks=ranks),
        *("-m", "launcher.nodes.meeting", str(own), str(meeting_file(here)), str(here.run.path)),
        *(["--on-gpus"] if on_gpus else []),
    ]


def meeting_environment(here: Here) -> Mapping[str, str]:
    return merged_environment(os.environ, network_environment(here.node))


def meeting_file(here: Here) -> Path:
    assert here.run.node is not None
    return here.run.nodes / here.run.node / "met.json"
