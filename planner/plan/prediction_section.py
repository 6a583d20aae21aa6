"""The prediction that a plan makes and its run is held against."""

from msgspec import field

from planner.base.strict_yaml import Spec


class PredictionSection(Spec):
    """Bytes per device, of the most loaded rank, and seconds per step."""

    peak_phase: str
    """Phase that has the peak."""
    peak_allocated_bytes: int
    """Bytes of tensors at the peak."""
    low_bytes: int
    """Lower end of the range of what a run needs of a device."""
    high_bytes: int
    """Upper end of the range of what a run needs of a device; the plan fits if this does."""
    host_ram_bytes: int
    """Bytes of host memory that one node needs."""
    disk_bytes: int
    """Bytes on disk of the result, the checkpoints that are kept, and one that is being written."""
    checkpoint_bytes: int
    """Bytes on disk of one checkpoint; a run shorter than ``save_steps`` writes none."""
    step_time_s: float | None
    """Seconds of an optimizer step; None on a card without published rates."""
    step_time_low_s: float | None = None
    """Lower end of the range, by how published runs compared with their predictions."""
    step_time_high_s: float | None = None
    """Upper end of the range, by how published runs compared with their predictions."""
    tokens_per_second: float | None
    """Tokens per second of all devices together."""
    backward_over_forward: float | None = None
    """Predicted seconds of a backward pass, recomputation included, over those of a forward
    pass."""
    communication_share: float = 0.0
    """Predicted share of a step in communication that nothing hides."""
    launch_share: float = 0.0
    """Predicted share of a step in which the host is late with launching kernels."""
    mfu: float | None = None
    """Model FLOPs utilisation: a share of the dense 16-bit rate."""
    phases: dict[str, dict[str, int]]
    """Bytes of every part at the largest moment of every phase."""
    unshared: dict[str, dict[str, int]] = field(default_factory=dict)
    """Bytes of activations, loss and workspace under DeepSpeed, at their own largest moment, which
    one process can show. Gathered weights and buckets may be largest at another."""
    cublas_bytes: int = 0
    """Bytes of cuBLAS in the workspace of every phase but the load; no trace has them."""
    load_without_files: dict[str, int] = field(default_factory=dict)
    """Bytes of a rehearsal's load, whose weights are random; where the experts of a checkpoint are
    stacked, the plan's own load takes more."""
