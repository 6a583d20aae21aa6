"""Which node this is, and where the nodes meet."""

from pathlib import Path

import pytest

from launcher.nodes.node_identity import Endpoint, Node, endpoint_of, network_environment, node_at
from planner.base.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("text", "host", "port", "again"),
    [
        ("node1", "node1", 29500, "node1:29500"),
        ("node1:4000", "node1", 4000, "node1:4000"),
        ("10.0.0.1:1", "10.0.0.1", 1, "10.0.0.1:1"),
        ("fd00::1", "fd00::1", 29500, "[fd00::1]:29500"),
        ("[fd00::1]:4000", "fd00::1", 4000, "[fd00::1]:4000"),
    ],
)
def test_an_endpoint(text: str, host: str, port: int, again: str) -> None:
    endpoint = endpoint_of(text)
    assert endpoint == Endpoint(host=host, port=port)
    assert str(endpoint) == again


@pytest.mark.parametrize("text", ["", ":29500", "node1:", "node1:http", "node1:0", "node1:65536"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="write HOST or HOST:PORT"):
        endpoint_of(text)


def test_each_attempt_has_a_port_of_its_own() -> None:
    assert str(endpoint_of("node1").after(2)) == "node1:29502"


def test_an_address_that_no_other_node_reaches() -> None:
    """What Debian's own /etc/hosts makes of a machine's name."""
    with pytest.raises(InvalidRequestError, match=r"is 127\.0\.0\.1 here, which no other node"):
        node_at(endpoint_of("127.0.0.1"))


def test_a_name_that_nobody_knows() -> None:
    with pytest.raises(InvalidRequestError, match=r"no-such-host\.invalid cannot be resolved"):
        node_at(endpoint_of("no-such-host.invalid"))


@pytest.mark.parametrize("adapters", [0, 1])
def test_the_libraries_are_told_of_the_network(adapters: int, tmp_path: Path) -> None:
    infiniband = tmp_path / "infiniband"
    infiniband.mkdir()
    for number in range(adapters):
        (infiniband / f"mlx5_{number}").mkdir()
    node = Node(name="a", address="10.0.0.1", interface="eth7", leads=True)
    told = network_environment(node, infiniband)
    assert told["NCCL_SOCKET_IFNAME"] == told["GLOO_SOCKET_IFNAME"] == "eth7"
    assert ("NCCL_IB_DISABLE" in told) == (adapters == 0)
