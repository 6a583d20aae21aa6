"""What a plan predicts: the run is held against it."""

from msgspec import field

from planner.base.strict_yaml import Spec


class PredictionSection(Spec):
    """Per device, bytes; the most loaded rank."""

    peak_phase: str
    peak_allocated_bytes: int
    low_bytes: int
    high_bytes: int
    host_ram_bytes: int
    disk_bytes: int
    """For the result and the checkpoints that are kept, and one that is being written."""
    checkpoint_bytes: int
    """On disk, of one checkpoint; no run that is shorter than ``save_steps`` writes one."""
    step_time_s: float | None
    step_time_low_s: float | None = None
    step_time_high_s: float | None = None
    """The range that published runs had of theirs."""
    tokens_per_second: float | None
    mfu: float | None = None
    """Model FLOPs utilisation, a share of the dense 16-bit rate."""
    phases: dict[str, dict[str, int]]
    """Bytes of every part at the largest moment of every phase."""
    unshared: dict[str, dict[str, int]] = field(default_factory=dict)
    """Under DeepSpeed: activations, loss and workspace at their own largest moment, which one
    process can show. Gathered weights and buckets may be largest at another."""
    cublas_bytes: int = 0
    """Of the workspace of every phase but the load; no trace has it."""
    load_without_files: dict[str, int] = field(default_factory=dict)
    """Parts of a rehearsal's load, whose weights are random: where the experts of a checkpoint are
    stacked, the plan's own takes more."""
