"""What one node knows of itself before it meets the others; they compare it with their own."""

import hashlib
import os
from dataclasses import dataclass

from msgspec import structs

from launcher.data.sources import check_named
from launcher.lifecycle.fallbacks import describe_layout
from launcher.lifecycle.preflight import fitted_to, require_packages
from launcher.nodes.node_identity import Node
from launcher.run.read_plan import plan_text
from launcher.run.versions import package_versions, python_version
from planner.base.errors import UserError
from planner.hardware.cluster import Cluster
from planner.hardware.detect import detect, read_cpu
from planner.plan.schema import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    name: str
    address: str
    interface: str
    leads: bool
    cards: str
    driver: str | None
    versions: dict[str, str | None]
    """Of Python and what trains, by name."""
    plan: str
    """The same for the same plan."""
    layout: str
    """Of the plan, as this node's memory allows it."""
    notes: list[str]
    refusal: str | None
    """Why this node cannot run its part."""

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"


def facts_of(plan: Plan, node: Node, *, resumes: bool, refusal: str | None = None) -> Facts:
    """``refusal`` is one that was found already."""
    cluster = read_cpu() if plan.hardware.device == "cpu" else detect(os.environ)
    suited, notes = plan, list[str]()
    try:
        require_packages(plan)
        if not resumes:
            check_named(plan.data)
        suited, notes = fitted_to(plan, cluster)
    except UserError as error:
        refusal = refusal or str(error)
    return Facts(
        name=node.name,
        address=node.address,
        interface=node.interface,
        leads=node.leads,
        cards=_cards(cluster),
        driver=cluster.driver_version,
        versions={"python": python_version(), **package_versions()},
        plan=plan_key(plan),
        layout=describe_layout(suited),
        notes=notes,
        refusal=refusal,
    )


def plan_key(plan: Plan) -> str:
    """Without the run directory: whether that is the same is asked of the storage itself."""
    placed = structs.replace(plan.output, directory=".")
    text = plan_text(structs.replace(plan, output=placed))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _cards(cluster: Cluster) -> str:
    if cluster.device == "cpu":
        return f"{cluster.cores} cores"
    return f"{cluster.gpus_per_node} x {cluster.accelerator.device_name}"
