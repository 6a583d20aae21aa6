"""``--nodes`` and ``--network``: a cluster of several equal machines."""

from msgspec import structs

from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
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
            Phrase(
                "--network {network} joins nodes, and there is one: add --nodes, or leave it out",
                network=network,
            )
        )
    if num_nodes is None or num_nodes == 1:
        return cluster
    if cluster.device == "cpu":
        raise InvalidRequestError(
            Phrase(
                "--nodes {num_nodes} needs GPUs: name those of one node with --gpus, such as "
                "8xh100",
                num_nodes=num_nodes,
            )
        )
    if cluster.accelerator.is_slice:
        raise InvalidRequestError(
            Phrase(
                "--nodes {num_nodes} needs whole GPUs, and {device_name} is a MIG slice, "
                "which cannot train with others: leave --nodes out",
                num_nodes=num_nodes,
                device_name=cluster.accelerator.device_name,
            )
        )
    count = num_nodes * cluster.gpus_per_node
    if count > MOST_GPUS:
        raise InvalidRequestError(
            Phrase(
                "--nodes {num_nodes} with {gpus} {gpus[GPU|GPUs]} each are {count:,} GPUs: "
                "plans go up to {most:,}",
                num_nodes=num_nodes,
                gpus=cluster.gpus_per_node,
                count=count,
                most=MOST_GPUS,
            )
        )
    name = None if network is None else network_name(network)
    reference = networks().reference
    notes = cluster.notes
    if name is None:
        notes += (
            Phrase(
                "The network is unknown: {reference} is assumed (--network names another).",
                reference=reference,
            ),
        )
    link = cluster.link if cluster.gpus_per_node > 1 else "none"
    return structs.replace(cluster, num_nodes=num_nodes, network=name, link=link, notes=notes)
