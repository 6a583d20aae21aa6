"""What NCCL and gloo are told of a node's network."""

from pathlib import Path

from launcher.nodes.place import Node

INFINIBAND = Path("/sys/class/infiniband")


def network_environment(
    node: Node, *, restarts: bool = False, infiniband: Path = INFINIBAND
) -> dict[str, str]:
    """The interface on the way to the endpoint: either library's own guess may be a bridge of
    containers. NCCL looks for InfiniBand adapters itself where there are any.

    Where a node may be started again, ranks keep their store to themselves: torch elastic's own
    has a prefix by the number of restarts, which a new process does not know, and an address that
    is the first round's. read: torch/distributed/rendezvous.py and
    elastic/rendezvous/dynamic_rendezvous.py at 2.13.
    """
    settings = {"NCCL_SOCKET_IFNAME": node.interface, "GLOO_SOCKET_IFNAME": node.interface}
    if not infiniband.is_dir() or not any(infiniband.iterdir()):
        settings["NCCL_IB_DISABLE"] = "1"
    if restarts:
        settings["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    return settings
