"""The types of a reading: what a machine reports of itself, as it is or saved in a file.

None stands for what was not reported. A file holds no process ids, host name or path.
"""

from typing import Annotated, Literal, get_args

from msgspec import Meta, field

from planner.base.phrases import Phrase
from planner.base.strict_yaml import NonNegativeInt, PositiveFloat, PositiveInt, Spec
from planner.base.units import GIB
from planner.hardware.measured.measurement import Measurement

CudaVariable = Literal["CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"]
CudaEnvironment = dict[CudaVariable, str]
CUDA_VARIABLES: tuple[CudaVariable, ...] = get_args(CudaVariable)
ENOUGH_SHM_BYTES = GIB
"""read: NCCL's documentation, "Troubleshooting", shared memory: containers get --shm-size=1g."""


class Holder(Spec):
    """Another process that holds memory of a device."""

    pid: int | None = None
    """The process id; None in a file, where it would mean nothing."""
    name: str | None = None
    """Name of the program, without its directory and arguments."""
    used_bytes: int | None
    """Bytes that it holds; None if the driver does not report it."""


class PcieReading(Spec):
    """A device's link to the host. A link at rest slows down, so its best generation counts."""

    generation: int | None
    """The best generation that card and slot can do together."""
    card_generation: int | None = None
    """The best generation that the card can do."""
    generation_now: int | None = None
    """The generation of the link now."""
    lanes: int | None
    """Lanes in use now."""
    card_lanes: int | None = None
    """Lanes that the card has."""


class DeviceReading(Spec):
    """What NVML reports of a GPU or of one MIG slice."""

    index: NonNegativeInt
    """Index of the GPU in the order of the PCI bus, as nvidia-smi counts."""
    uuid: str
    """Identifier of the GPU or slice."""
    name: str
    """Name of the GPU, or of the slice."""
    card_name: str
    """Name of the GPU, also for a slice."""
    total_bytes: NonNegativeInt | None = None
    """Bytes of memory."""
    reserved_bytes: NonNegativeInt = 0
    """Bytes that the driver keeps, part of the total."""
    free_bytes: NonNegativeInt | None = None
    """Bytes of memory that nobody uses."""
    holders: tuple[Holder, ...] | None = ()
    compute_capability: Annotated[str, Meta(pattern=r"^\d+\.\d\Z")] | None = None
    """CUDA's compute capability, such as ``8.9``."""
    fp32_flops_per_s: int | None = None
    """Cores times the largest clock, two operations each; CUDA's order is guessed by it."""
    memory_bandwidth_bytes_per_s: int | None = None
    """Bus width times the largest clock, twice per clock, as CUDA's deviceQuery counts."""
    pcie: PcieReading | None = None
    numa_node: int | None = None
    """The NUMA node of the nearest host memory."""
    power_limit_watts: int | None = None
    """Power limit that is set, in watts."""
    default_power_limit_watts: int | None = None
    """Power limit of a card that nobody has changed, in watts."""
    throttling: tuple[str, ...] = ()
    """Reasons for which clocks are held down now."""
    ecc_enabled: bool | None = None
    """Whether memory errors are corrected."""
    uncorrected_errors: int | None = None
    """Uncorrected memory errors since the driver was loaded."""
    nvlinks: NonNegativeInt = 0
    """Number of active NVLinks."""
    card_nvlinks: NonNegativeInt = 0
    """Number of NVLinks that the card has."""
    nvlink_bytes_per_s: int | None = None
    """Line rate of one link in one direction."""
    is_slice: bool = False
    """Whether it is a MIG slice."""
    mig_enabled: bool = False
    """Whether the GPU is divided into MIG slices."""
    slices: tuple["DeviceReading", ...] = ()


class PairReading(Spec):
    """What is between two GPUs, the one with the lower index first."""

    one: NonNegativeInt
    """Index of the first GPU."""
    other: NonNegativeInt
    """Index of the second GPU."""
    nvlinks: int | None
    """Number of NVLinks that join the two, directly or through a switch; None if NVML does not
    report it."""
    through_switch: bool = False
    """Whether they are joined by an NVSwitch."""
    p2p: bool | None
    """Whether one GPU can read the other's memory."""


class NvmlReading(Spec):
    """All GPUs, or the reason why there are none."""

    devices: tuple[DeviceReading, ...] = ()
    pairs: tuple[PairReading, ...] = ()
    driver_version: str | None = None
    """Version of NVIDIA's driver."""
    cuda_version: str | None = None
    """The newest CUDA version that the driver can run."""
    problem: str | None = None
    """Reason why no GPU was read."""
    lost: tuple[str, ...] = ()
    """A sentence for each GPU that is there and does not answer."""
    failed: tuple[str, ...] = ()
    """Calls that failed, other than by not being supported."""
    unsupported: tuple[str, ...] = ()
    """Calls that this driver or these devices do not have."""

    def __post_init__(self) -> None:
        indices = [device.index for device in self.devices]
        if len(set(indices)) < len(indices):
            raise ValueError(Phrase("two devices have the same index"))
        for pair in self.pairs:
            if not {pair.one, pair.other} <= set(indices):
                raise ValueError(
                    Phrase(
                        "the pair {one}, {other} is not of these devices",
                        one=pair.one,
                        other=pair.other,
                    )
                )


class HostReading(Spec):
    """What the host reports of its processor, memory and disk."""

    cpu_name: str
    """Name of the processor."""
    cores: PositiveInt
    """Cores that this process may use."""
    machine_cores: int | None = None
    """Cores of the machine."""
    total_bytes: NonNegativeInt
    """Bytes of memory, or of the limit of the control group around this process where that is
    less."""
    available_bytes: NonNegativeInt
    """Bytes of memory that are free or can be freed."""
    machine_bytes: int | None = None
    """Bytes of memory of the whole machine."""
    shm_bytes: int | None = None
    """Size of /dev/shm."""
    disk_free_bytes: int | None = None
    """Bytes free where the run directory will be."""
    multiplies_bf16: bool = False
    """Whether the processor has instructions for bf16, which is emulated slowly without them."""


class TorchReading(Spec):
    """The torch that a launch would import, as its own files say."""

    version: str
    """Version of the package."""
    cuda: str | None = None
    """The CUDA version that it was built with."""
    hip: str | None = None
    """The version of HIP that it was built with; None for CUDA."""


class OwnRun(Spec):
    """A finished run on a machine: what was predicted of it, and what was measured."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    recorded_on: str
    """Day of the run, as 2026-11-29."""
    device_name: str
    """Name of the devices, as their driver reports it."""
    torch: str
    """Version of torch."""
    rates: str | None = None
    """The day on which the rates were measured that predicted it; None for a datasheet's."""
    model_type: str
    """Architecture of the model, by transformers' name."""
    num_params: PositiveInt
    """Parameters of the model."""
    method: str
    """Method of fine-tuning."""
    strategy: str
    """How the ranks shared the work."""
    sharded: bool
    """Whether DeepSpeed shards states."""
    world_size: PositiveInt
    """Number of ranks."""
    micro_batch_size: PositiveInt
    """Samples per forward pass on one device."""
    tokens: PositiveInt
    """Tokens of a sample in a typical step, padding included: the time is predicted for these."""
    steps: PositiveInt
    """Optimizer steps of the run."""
    probe: bool = False
    """Whether the run was a probe of a few steps."""
    predicted_step_s: PositiveFloat | None
    """Predicted seconds of a typical step; None where the device's rates were unknown."""
    measured_step_s: PositiveFloat
    """Measured seconds of a typical step."""
    predicted_bytes: PositiveInt
    """Peak of the tensors on a device, predicted for the longest batch."""
    measured_bytes: PositiveInt | None
    """The measured one; None on the CPU, which has no counter of it."""


class Machine(Spec):
    """A machine as it was read, with the variables that decide which GPUs CUDA shows."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    saved_on: str | None = None
    """The day it was saved; None outside a file."""
    nvml: NvmlReading
    host: HostReading
    torch: TorchReading | None = None
    environment: CudaEnvironment = field(default_factory=dict)
    """CUDA's environment variables that choose among the GPUs."""
    measurements: tuple[Measurement, ...] = ()
    """What was measured on its devices with this torch."""
    runs: tuple[OwnRun, ...] = ()
    """Finished runs on it with this torch."""

    def __hash__(self) -> int:
        """A mapping of variables has no hash; machines that differ differ in their hosts."""
        return hash(self.host)
