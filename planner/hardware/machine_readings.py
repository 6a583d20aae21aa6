"""What a machine says of itself: the types of a reading, and of a machine saved in a file.

Nothing stands for what was not told. A file holds no process ids, host name or path.
"""

from typing import Annotated, Literal, get_args

from msgspec import Meta, field

from planner.base.strict_yaml import NonNegativeInt, PositiveInt, Spec
from planner.base.units import GIB

CudaVariable = Literal["CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"]
CudaEnvironment = dict[CudaVariable, str]
CUDA_VARIABLES: tuple[CudaVariable, ...] = get_args(CudaVariable)
ENOUGH_SHM_BYTES = GIB
"""read: NCCL's documentation, "Troubleshooting", shared memory: containers get --shm-size=1g."""


class Holder(Spec):
    """Another process that has memory of a device."""

    pid: int | None = None
    """Nothing in a file: it means nothing elsewhere."""
    name: str | None = None
    """Of the program, without its directory and arguments."""
    used_bytes: int | None
    """Nothing where the driver does not tell."""


class PcieReading(Spec):
    """A device's link to the host. A link at rest slows down, so its best generation counts."""

    generation: int | None
    """The best that card and slot can do together."""
    card_generation: int | None = None
    """The best that the card can do."""
    generation_now: int | None = None
    lanes: int | None
    """In use now."""
    card_lanes: int | None = None


class DeviceReading(Spec):
    """What NVML says of a GPU or of one MIG slice."""

    index: NonNegativeInt
    """Of the GPU, in the order of the PCI bus, as nvidia-smi counts."""
    uuid: str
    name: str
    card_name: str
    """Of the GPU, also for a slice."""
    total_bytes: NonNegativeInt | None = None
    reserved_bytes: NonNegativeInt = 0
    """Kept by the driver, part of the total."""
    free_bytes: NonNegativeInt | None = None
    holders: tuple[Holder, ...] | None = ()
    compute_capability: Annotated[str, Meta(pattern=r"^\d+\.\d\Z")] | None = None
    fp32_flops_per_s: int | None = None
    """Cores by the largest clock, two operations each: by what CUDA's order is guessed."""
    memory_bandwidth_bytes_per_s: int | None = None
    """Bus width by the largest clock, twice a clock, as CUDA's deviceQuery counts."""
    pcie: PcieReading | None = None
    numa_node: int | None = None
    """Of the host's memory that is nearest."""
    power_limit_watts: int | None = None
    default_power_limit_watts: int | None = None
    throttling: tuple[str, ...] = ()
    """Why clocks are held down now."""
    ecc_enabled: bool | None = None
    uncorrected_errors: int | None = None
    """Of memory, since the driver was loaded."""
    nvlinks: NonNegativeInt = 0
    """Active ones."""
    card_nvlinks: NonNegativeInt = 0
    """All that the card has."""
    nvlink_bytes_per_s: int | None = None
    """One link's line rate, one direction."""
    is_slice: bool = False
    mig_enabled: bool = False
    slices: tuple["DeviceReading", ...] = ()


class PairReading(Spec):
    """What is between two GPUs, the one with the lower index first."""

    one: NonNegativeInt
    other: NonNegativeInt
    nvlinks: int | None
    """That join the two, directly or through a switch; nothing where NVML does not tell."""
    through_switch: bool = False
    p2p: bool | None
    """Whether one can read the other's memory."""


class NvmlReading(Spec):
    """All GPUs, or the reason why there are none."""

    devices: tuple[DeviceReading, ...] = ()
    pairs: tuple[PairReading, ...] = ()
    driver_version: str | None = None
    cuda_version: str | None = None
    """The newest that the driver can run."""
    problem: str | None = None
    lost: tuple[str, ...] = ()
    """GPUs that are there and do not answer, a sentence each."""
    failed: tuple[str, ...] = ()
    """Calls that broke off, other than by not being supported."""
    unsupported: tuple[str, ...] = ()
    """Calls that this driver or these devices do not have."""

    def __post_init__(self) -> None:
        indices = [device.index for device in self.devices]
        if len(set(indices)) < len(indices):
            raise ValueError("two devices have the same index")
        for pair in self.pairs:
            if not {pair.one, pair.other} <= set(indices):
                raise ValueError(f"the pair {pair.one}, {pair.other} is not of these devices")


class HostReading(Spec):
    cpu_name: str
    cores: PositiveInt
    """That this process may use."""
    machine_cores: int | None = None
    total_bytes: NonNegativeInt
    """Of the machine, or of the control group around this process where that is less."""
    available_bytes: NonNegativeInt
    machine_bytes: int | None = None
    shm_bytes: int | None = None
    """Size of /dev/shm."""
    disk_free_bytes: int | None = None
    """Where the run's directory will be."""
    multiplies_bf16: bool = False
    """Whether the processor has instructions for it; without them it is emulated, slowly."""


class TorchReading(Spec):
    """The torch that a launch would import, as its files say."""

    version: str
    cuda: str | None = None
    """That it was built with."""
    hip: str | None = None


class Machine(Spec):
    """A machine as it was read, with what decides on the GPUs that CUDA shows."""

    schema_version: Literal[1] = 1
    saved_on: str | None = None
    """The day, in a file."""
    nvml: NvmlReading
    host: HostReading
    torch: TorchReading | None = None
    environment: CudaEnvironment = field(default_factory=dict)
