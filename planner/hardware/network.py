"""Links between devices and between nodes, and how long collectives take over them.

R  ranks     N  nodes     n  bytes of the whole tensor

A ring over all ranks moves n (R - 1) / R past every GPU, and n (N - 1) / N past every node;
the slower of the two decides, and R - 1 steps have their latency. An all-reduce is two of them;
beyond one node NCCL's tree takes 2 log2(N) steps over the network in their place.

Source: Thakur, Rabenseifner, Gropp, doi:10.1177/1094342005051521, section 3; NVIDIA/nccl,
src/graph/tuning.cc.
"""

import re
from functools import cache
from math import ceil, log2
from typing import Literal

from msgspec import Struct, structs

from planner.base.errors import InvalidRequestError, UnknownNameError
from planner.base.phrases import Phrase
from planner.base.preset_files import ROOT
from planner.base.strict_yaml import Spec, read_spec
from planner.hardware.cluster import Cluster
from planner.hardware.measured.measurement import LinkRates, Measurement, rate_at


class Network(Spec):
    """A network between nodes: an entry of presets/networks.yaml, or a rate that was given."""

    bytes_per_s: int
    adapters: int | Literal["per_gpu"]
    source: str

    def node_bytes_per_s(self, gpus_per_node: int) -> int:
        """Return bytes per second of all adapters of a node in one direction."""
        count = gpus_per_node if self.adapters == "per_gpu" else self.adapters
        return count * self.bytes_per_s


class Collectives(Spec):
    """Shares of a link that NCCL reaches, and seconds that its steps take."""

    nvlink_share: float
    pcie_share: float
    network_share: float
    start_s: float
    nvlink_step_s: float
    pcie_step_s: float
    network_step_s: float
    between_sockets_bytes_per_s: float
    between_sockets_source: str
    nvlink_busy_share: float
    pcie_busy_share: float
    busy_source: str
    source: str


class Networks(Spec):
    """The content of presets/networks.yaml."""

    networks: dict[str, Network]
    reference: str
    meaning: str
    collectives: Collectives


@cache
def networks() -> Networks:
    """Return the networks that are known, and how NCCL uses them."""
    return read_spec(Networks, ROOT / "networks.yaml")


GIGA = 1_000_000_000
UNITS = {"GB/s": 1, "Gbit/s": 8, "Gb/s": 8, "Gbps": 8}
"""How many of a unit are one gigabyte per second, by its spelling."""
RATE = re.compile(rf"(\d{{1,6}}(?:\.\d{{1,6}})?)({'|'.join(UNITS)})")
"""The rate of one adapter in one direction."""
MOST_ADAPTERS = 64
SPELLINGS = "plan --list networks"


def network_name(text: str) -> str:
    """Return the name of the network that is spelt like this: one of presets/networks.yaml or a
    rate, and after a colon how many adapters each node has.

    Raises UnknownNameError, which suggests the nearest name, and InvalidRequestError for a rate or
    a number of adapters that no node has.

    >>> network_name("InfiniBand 400G"), network_name("400gbe:2"), network_name("25 GB/s")
    ('infiniband-400g', '400gbe:2', '25GB/s')
    """
    written, colon, adapters = (part.strip() for part in text.partition(":"))
    name = "".join(written.split())
    rate = RATE.fullmatch(name)
    if rate is not None and float(rate[1]) == 0:
        raise InvalidRequestError(
            Phrase("{text!r} is no network: its rate must be above 0", text=text)
        )
    if rate is None:
        name = written.lower().replace("_", "-").replace(" ", "-")
        if name not in networks().networks:
            raise UnknownNameError(
                Phrase("network"), text, tuple(networks().networks), see=SPELLINGS
            )
    if not colon:
        return name
    count = int(adapters) if re.fullmatch(r"\d{1,3}", adapters) else 0
    if not 1 <= count <= MOST_ADAPTERS:
        raise InvalidRequestError(
            Phrase(
                "{text!r} is no network: after the colon stands the number of adapters of a "
                "node, 1 to {most}, such as 400gbe:2",
                text=text,
                most=MOST_ADAPTERS,
            )
        )
    return f"{name}:{count}"


def network_named(name: str) -> Network:
    """Return the network of a name as ``network_name`` returns it.

    >>> network_named("200Gbit/s:2").node_bytes_per_s(8)
    50000000000
    """
    first, _, adapters = name.partition(":")
    rate = RATE.fullmatch(first)
    if rate is None:
        found = networks().networks[first]
    else:
        each = round(float(rate[1]) * GIGA / UNITS[rate[2]])
        found = Network(bytes_per_s=each, adapters=1, source="given")
    return structs.replace(found, adapters=int(adapters)) if adapters else found


class Links(Struct, frozen=True):
    """Bytes per second in one direction that a cluster's devices reach, and seconds per step."""

    device_bytes_per_s: float
    slowest_device_bytes_per_s: float
    """Bytes per second between two devices on the slowest way that such a machine may have."""
    node_bytes_per_s: float
    """Bytes per second of all adapters of a node together."""
    host_bytes_per_s: float
    """Bytes per second between one card and its host."""
    device_step_s: float
    network_step_s: float
    start_s: float
    busy_share: float
    """Share of a card that communication takes from the kernels beside it."""
    measured: LinkRates | None = None
    """Rates of collectives between the devices of one node, where they were measured."""

    @property
    def slowest(self) -> "Links":
        """The links of such a machine whose devices are as far apart as they may be; links that
        were measured are as they are."""
        if self.measured is not None:
            return self
        return structs.replace(self, device_bytes_per_s=self.slowest_device_bytes_per_s)


class Ranks(Struct, frozen=True):
    """The ranks that take part in a collective, and their links."""

    count: int
    nodes: int
    links: Links

    def pass_s(self, num_bytes: float) -> float:
        """Return seconds of one all-gather or reduce-scatter of a tensor of ``num_bytes`` as a
        whole."""
        if self.count == 1:
            return 0.0
        measured = self._measured
        if measured is not None:
            return num_bytes / rate_at(measured.all_gather, num_bytes)
        return self.moved_s(num_bytes) + self.ring_latency_s

    def all_reduce_s(self, num_bytes: float) -> float:
        """Return seconds of one all-reduce of a tensor of ``num_bytes``."""
        if self.count == 1:
            return 0.0
        measured = self._measured
        if measured is not None:
            return num_bytes / rate_at(measured.all_reduce, num_bytes)
        steps = 2 * self.ring_latency_s
        if self.nodes > 1:
            inside = (self.count // self.nodes - 1) * self.links.device_step_s
            over_network = ceil(log2(self.nodes)) * self.links.network_step_s
            steps = min(steps, self.links.start_s + 2 * (inside + over_network))
        return 2 * self.moved_s(num_bytes) + steps

    def reduce_s(self, num_bytes: float) -> float:
        """Return seconds of one reduce-scatter of a tensor of ``num_bytes`` as a whole."""
        measured = self._measured
        if self.count > 1 and measured is not None and measured.reduce:
            return num_bytes / rate_at(measured.reduce, num_bytes)
        return self.pass_s(num_bytes)

    def exchange_s(self, num_bytes: float) -> float:
        """Return seconds of one all-to-all in which every rank has ``num_bytes``, an equal part of
        them for each: pairs exchange theirs in R - 1 steps (section 3 of the source)."""
        return self.moved_s(num_bytes) + self.ring_latency_s

    @property
    def _measured(self) -> LinkRates | None:
        """The rates that were measured over as many devices of one node."""
        measured = self.links.measured
        fits = measured is not None and self.nodes == 1 and measured.ranks == self.count
        return measured if fits else None

    @property
    def ring_latency_s(self) -> float:
        over_network = self.nodes if self.nodes > 1 else 0
        steps = (self.count - 1 - over_network) * self.links.device_step_s
        return self.links.start_s + steps + over_network * self.links.network_step_s

    def moved_s(self, num_bytes: float) -> float:
        """Return seconds that the bytes alone take, without what every step of the ring takes to
        start."""
        past_a_card = num_bytes * (self.count - 1) / self.count / self.links.device_bytes_per_s
        past_a_node = num_bytes * (self.nodes - 1) / self.nodes / self.links.node_bytes_per_s
        return max(past_a_card, past_a_node)


def split_ranks(ranks: Ranks, copies: int) -> tuple[Ranks, Ranks]:
    """Return the ranks that share one of several copies, which follow each other, and those that
    have the same part of each: as many such groups as a node has parts use its adapters at once.

    >>> links = Links(1.0, 1.0, 8.0, 1.0, 0.0, 0.0, 0.0, 0.0)
    >>> inside, between = split_ranks(Ranks(8, 2, links), 2)
    >>> inside.count, inside.nodes, between.count, between.nodes, between.links.node_bytes_per_s
    (4, 1, 2, 2, 2.0)
    """
    in_copy, in_node = ranks.count // copies, ranks.count // ranks.nodes
    firsts = range(0, ranks.count, in_copy)
    spanned = max((first + in_copy - 1) // in_node - first // in_node + 1 for first in firsts)
    shared = ranks.links.node_bytes_per_s / min(in_copy, in_node)
    links = structs.replace(ranks.links, node_bytes_per_s=shared)
    within = Ranks(in_copy, spanned, ranks.links)
    return within, Ranks(copies, min(copies, ranks.nodes), links)


NOMINAL_LINK = 25e9
"""Bytes per second of a slot that is unknown: PCIe 4.0 x16, less its packet headers."""


def links_of(cluster: Cluster, slot_bytes_per_s: int | None) -> Links:
    """Return the links of a cluster; ``slot_bytes_per_s`` is the rate of a card's slot, where
    known."""
    known, slot = networks(), slot_bytes_per_s or NOMINAL_LINK
    nccl, nvlink = known.collectives, cluster.link == "nvlink"
    between = network_named(cluster.network or known.reference)
    device = cluster.link_bytes_per_s or slot
    measured = cluster.accelerator.measured
    if cluster.device == "cpu":
        return _between_processes(cluster, measured)
    reached = device * (nccl.nvlink_share if nvlink else nccl.pcie_share)
    return Links(
        device_bytes_per_s=reached,
        slowest_device_bytes_per_s=(
            reached if nvlink else min(reached, nccl.between_sockets_bytes_per_s)
        ),
        node_bytes_per_s=between.node_bytes_per_s(cluster.gpus_per_node) * nccl.network_share,
        host_bytes_per_s=slot * nccl.pcie_share,
        device_step_s=nccl.nvlink_step_s if nvlink else nccl.pcie_step_s,
        network_step_s=nccl.network_step_s,
        start_s=nccl.start_s,
        busy_share=nccl.nvlink_busy_share if nvlink else nccl.pcie_busy_share,
        measured=None if measured is None else measured.links,
    )


def _between_processes(cluster: Cluster, measured: Measurement | None) -> Links:
    """Return the links of ranks that share a processor.

    What moves between them is copied by the cores that compute, so that nothing of it is hidden.
    """
    known = networks()
    between = network_named(cluster.network or known.reference)
    memory = NOMINAL_LINK if measured is None else measured.host.memory_bytes_per_s
    return Links(
        device_bytes_per_s=memory,
        slowest_device_bytes_per_s=memory,
        node_bytes_per_s=between.node_bytes_per_s(1) * known.collectives.network_share,
        host_bytes_per_s=memory,
        device_step_s=known.collectives.network_step_s,
        network_step_s=known.collectives.network_step_s,
        start_s=known.collectives.start_s,
        busy_share=1.0,
        measured=None if measured is None else measured.links,
    )
