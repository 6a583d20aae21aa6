"""What a node knows of itself before it meets the others, which compare it with theirs."""

import hashlib
import os
from dataclasses import dataclass

from msgspec import structs

from launcher.data.sources import check_named
from launcher.lifecycle.fallbacks import describe_layout
from launcher.lifecycle.preflight import fitted_to, require_software
from launcher.nodes.node_identity import Node
from launcher.run.read_plan import plan_text
from launcher.run.versions import package_versions, python_version
from planner.base.errors import UserError
from planner.hardware.cluster import Cluster
from planner.hardware.detect import detect, read_cpu
from planner.plan.schema import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """One node of a run: its place in the network, its equipment and software, and its plan."""

    name: str
    address: str
    interface: str
    """Name of the network interface that has the address."""
    leads: bool
    """Whether the endpoint is an address of this node."""
    cards: str
    """Number and name of its GPUs, or number of its cores, in words."""
    driver: str | None
    """Version of the NVIDIA driver; None without one."""
    versions: dict[str, str | None]
    """Versions of Python and of the packages that train, by name."""
    plan: str
    """Digest of the plan."""
    layout: str
    """Description of the plan's layout that fits this node's memory."""
    notes: list[str]
    """Sentences on differences between this machine and the planned one."""
    refusal: str | None
    """Reason why this node cannot run its part, if there is one."""

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"


def facts_of(plan: Plan, node: Node, *, resumes: bool, refusal: str | None = None) -> NodeFacts:
    """Return the facts of this node; ``refusal`` is one that is known already.

    ``resumes`` is whether the run is resumed, which needs no data to be named.
    """
    cluster = read_cpu() if plan.hardware.device == "cpu" else detect(os.environ)
    fitting, notes = plan, list[str]()
    try:
        require_software(plan)
        if not resumes:
            check_named(plan.data)
        fitting, notes = fitted_to(plan, cluster)
    except UserError as error:
        refusal = refusal or str(error)
    return NodeFacts(
        name=node.name,
        address=node.address,
        interface=node.interface,
        leads=node.leads,
        cards=_cards(cluster),
        driver=cluster.driver_version,
        versions={"python": python_version(), **package_versions()},
        plan=plan_key(plan),
        layout=describe_layout(fitting),
        notes=notes,
        refusal=refusal,
    )


def plan_key(plan: Plan) -> str:
    """Return a digest of the plan without its run directory, which nodes may mount elsewhere."""
    output = structs.replace(plan.output, directory=".")
    text = plan_text(structs.replace(plan, output=output))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _cards(cluster: Cluster) -> str:
    if cluster.device == "cpu":
        return f"{cluster.cores} cores"
    return f"{cluster.gpus_per_node} x {cluster.accelerator.device_name}"
