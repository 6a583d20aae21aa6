"""What NCCL and gloo are told of a node's network."""

from pathlib import Path

from launcher.nodes.node_identity import Node

INFINIBAND = Path("/sys/class/infiniband")


def network_environment(node: Node, infiniband: Path = INFINIBAND) -> dict[str, str]:
    """The interface on the way to the endpoint: either library's own guess may be a bridge of
    containers. NCCL looks for InfiniBand adapters itself where there are any."""
    settings = {"NCCL_SOCKET_IFNAME": node.interface, "GLOO_SOCKET_IFNAME": node.interface}
    if not infiniband.is_dir() or not any(infiniband.iterdir()):
        settings["NCCL_IB_DISABLE"] = "1"
    return settings
