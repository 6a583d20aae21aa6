"""``--nodes`` and ``--network``: a cluster of several equal machines."""

from dataclasses import replace

from planner.base.errors import InvalidRequestError
from planner.hardware.cluster import Cluster
from planner.hardware.network import network_name, networks

MOST_GPUS = 4096


def over_nodes(cluster: Cluster, num_nodes: int | None, network: str | None) -> Cluster:
    """Return the cluster of ``num_nodes`` such machines, with a note where no network is named.

    Raises InvalidRequestError where nodes and machine cannot be combined, UnknownNameError for an
    unknown network.
    """
    if network is not None and (num_nodes or 1) == 1:
        raise InvalidRequestError(
            f"--network {network} joins nodes, and there is one: add --nodes, or leave it out"
        )
    if num_nodes is None or num_nodes == 1:
        return cluster
    if cluster.device == "cpu":
        raise InvalidRequestError(
            f"--nodes {num_nodes} needs GPUs: name those of one node with --gpus, such as 8xh100"
        )
    if cluster.accelerator.is_slice:
        raise InvalidRequestError(
            f"--nodes {num_nodes} needs whole GPUs, and {cluster.accelerator.device_name} is a MIG "
            "slice, which cannot train with others: leave --nodes out"
        )
    count = num_nodes * cluster.gpus_per_node
    if count > MOST_GPUS:
        raise InvalidRequestError(
            f"--nodes {num_nodes} with {cluster.gpus_per_node} GPUs each are {count:,} GPUs: "
            f"plans go up to {MOST_GPUS:,}"
        )
    name = None if network is None else network_name(network)
    reference = networks().reference
    notes = cluster.notes
    if name is None:
        notes += (f"The network is unknown: {reference} is assumed (--network names another).",)
    link = cluster.link if cluster.gpus_per_node > 1 else "none"
    return replace(cluster, num_nodes=num_nodes, network=name, link=link, notes=notes)
