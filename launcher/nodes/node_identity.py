"""Which of a run's nodes this is: its address on the way to the others, and whether it leads."""

import errno
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from launcher.run.rank_commands import PORT
from planner.base.errors import InvalidRequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the nodes meet: an address of one of them."""

    host: str
    port: int

    def after(self, number: int) -> "Endpoint":
        """Of a later meeting: nobody talks to a store that is closing."""
        return Endpoint(host=self.host, port=self.port + number)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    name: str
    address: str
    """Of its own that is on the way to the endpoint."""
    interface: str
    """Which has that address."""
    leads: bool
    """Whether the endpoint is its own."""

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"


def endpoint_of(text: str) -> Endpoint:
    """``HOST`` or ``HOST:PORT``; an IPv6 address in brackets where a port follows."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        host, port = text, str(PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InvalidRequestError(
            f"--rdzv-endpoint {text}: write HOST or HOST:PORT, for example node1:{PORT}"
        )
    return Endpoint(host=host, port=int(port))


def node_at(endpoint: Endpoint) -> Node:
    """This node of those that meet there; raises where the endpoint is on no network of it."""
    family, remote = _resolved(endpoint)
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((remote, endpoint.port))  # of a datagram: no packet is sent
            address = str(probe.getsockname()[0])
    except OSError as error:
        raise InvalidRequestError(
            f"--rdzv-endpoint {endpoint}: this node has no way to {remote} "
            f"({error.strerror or error})"
        ) from error
    if ip_address(address).is_loopback:
        raise InvalidRequestError(
            f"--rdzv-endpoint {endpoint}: {endpoint.host} is {remote} here, which no other node "
            "reaches. Name the address that the others see"
        )
    return Node(
        name=socket.gethostname(),
        address=address,
        interface=_interface_of(address),
        leads=_owns(family, remote),
    )


def leader_address(endpoint: Endpoint) -> str:
    return _resolved(endpoint)[1]


def _resolved(endpoint: Endpoint) -> tuple[socket.AddressFamily, str]:
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise InvalidRequestError(
            f"--rdzv-endpoint {endpoint}: {endpoint.host} is not known here ({error.strerror})"
        ) from error
    family, _, _, _, place = found[0]
    return family, str(place[0])


def _owns(family: socket.AddressFamily, address: str) -> bool:
    """Whether the address is this node's: only then can a socket be bound to it."""
    with socket.socket(family, socket.SOCK_STREAM) as one:
        try:
            one.bind((address, 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return False
            raise
    return True


def _interface_of(address: str) -> str:
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return str(name)
    raise AssertionError(f"no interface has {address}")


INFINIBAND = Path("/sys/class/infiniband")


def network_environment(node: Node, infiniband: Path = INFINIBAND) -> dict[str, str]:
    """The interface on the way to the endpoint: either library's own guess may be a bridge of
    containers. NCCL looks for InfiniBand adapters itself where there are any."""
    settings = {"NCCL_SOCKET_IFNAME": node.interface, "GLOO_SOCKET_IFNAME": node.interface}
    if not infiniband.is_dir() or not any(infiniband.iterdir()):
        settings["NCCL_IB_DISABLE"] = "1"
    return settings
