"""What an optimizer step allocates beside gradients and states, tensor by tensor.

Each function mirrors the one that its docstring names: a variable that is still held is memory, and
a list of tensors is as large as all of them.
"""

from collections.abc import Callable, Sequence

from planner.base.units import FP32_BYTES, ceil_div
from planner.hardware.cluster import Device
from planner.memory.micro_batch import largest_moment
from planner.plan.optimizer_presets import OptimizerSpec, optimizers
from planner.tape.tensors import Storage, StorageEvent, allocated
from planner.workload.optimizers import QUANTIZED_BLOCK, has_even_blocks, projected_elements
from planner.workload.settings_cache import TRAINED, cached_by_settings
from planner.workload.trained_tensors import TrainedTensor, trained_tensors
from planner.workload.workload import Workload

NORM_CHUNK_ELEMENTS = 65536
"""Elements of a chunk whose norm is taken at once; read:
aten/src/ATen/native/cuda/MultiTensorApply.cuh, kChunkSize."""

INT64_BYTES = 8
MOMENTS = ("mean", "variance")


class OptimizerStep:
    """The log of one optimizer step, and the widths of what it works on."""

    def __init__(
        self,
        optimizer: OptimizerSpec,
        tensors: Sequence[TrainedTensor],
        *,
        width: int,
        weight_decay: float,
        device: Device,
        clips: bool = True,
    ) -> None:
        """Run the step. ``clips`` is false if the gradients' norms are taken elsewhere."""
        self.log: list[StorageEvent] = []
        self.tensors = tensors
        self.width = width
        self.weight_decay = weight_decay
        self.device = device
        _norm = self._clip() if clips else None
        _UPDATES[optimizer.step](self)

    @property
    def num_bytes(self) -> int:
        """Bytes at the largest moment."""
        return sum(num_bytes for num_bytes, *_ in self.largest_moment)

    @property
    def largest_moment(self) -> list[StorageEvent]:
        """The log up to its largest moment."""
        return self.log[: largest_moment(self.log)]

    def new(self, elements: int, width: int, name: str) -> Storage:
        """Return a storage in the step's log."""
        return allocated(self.log, elements * width, "workspace", name)

    @property
    def groups(self) -> tuple[list[TrainedTensor], list[TrainedTensor]]:
        """Trained tensors in the two groups of transformers' trainer; only the first decays."""
        decaying = [tensor for tensor in self.tensors if tensor.decays]
        return decaying, [tensor for tensor in self.tensors if not tensor.decays]

    def decay_of(self, group: int) -> float:
        """Return the weight decay of the group with this number."""
        return 0.0 if group else self.weight_decay

    def _clip(self) -> Storage:
        """Mirror torch/nn/utils/clip_grad.py, clip_grad_norm_; gradients are scaled in place.

        On CUDA the norms of chunks come first: aten/src/ATen/native/cuda/ForeachReduceOp.cu.
        """
        count = len(self.tensors)
        chunk_norms = []
        if self.device == "cuda":
            largest = max(tensor.elements for tensor in self.tensors)
            chunks = count * ceil_div(largest, NORM_CHUNK_ELEMENTS)
            chunk_norms = [self.new(chunks, FP32_BYTES, "norms of chunks")]
        norms = [self.new(1, self.width, "norm of a gradient") for _ in range(count)]
        del chunk_norms
        _stacked = self.new(count, self.width, "norms of all gradients")
        total = self.new(1, self.width, "norm of all gradients")
        del norms, _stacked
        return total


def _fused(_step: OptimizerStep) -> None:
    """Mirror torch's _fused_adamw_ and bitsandbytes' kernels, which read and write in place."""


def _adamw(step: OptimizerStep) -> None:
    """Mirror torch/optim/adam.py: _multi_tensor_adam where the device has foreach kernels."""
    if step.device == "cuda":
        for group in step.groups:
            roots = [step.new(x.elements, step.width, "root of the variance") for x in group]
            del roots
        return
    for group in step.groups:
        _denominator = None
        for tensor in group:
            root = step.new(tensor.elements, step.width, "root of the variance")
            divided = step.new(tensor.elements, step.width, "denominator")
            del root
            _denominator = divided
            del divided


def _schedule_free(step: OptimizerStep) -> None:
    """Mirror schedulefree/adamw_schedulefree.py and radam_schedulefree.py, which update many
    tensors at once on any device, and hold a group's denominators until there are the next one's.
    """
    _denominators: list[Storage] = []
    for group in step.groups:
        if group:
            made = [step.new(x.elements, step.width, "denominator") for x in group]
            _denominators = made
            del made


def _sgd(step: OptimizerStep) -> None:
    """Mirror torch/optim/sgd.py."""
    for number, group in enumerate(step.groups):
        for tensors in [group] if step.device == "cuda" else ([tensor] for tensor in group):
            _grads = _decayed(step, number, tensors)
            del _grads


def _decayed(step: OptimizerStep, number: int, tensors: Sequence[TrainedTensor]) -> list[Storage]:
    """Return gradients with their decay added, which are new tensors."""
    if not step.decay_of(number):
        return []
    return [step.new(x.elements, step.width, "decayed gradient") for x in tensors]


def _rmsprop(step: OptimizerStep) -> None:
    """Mirror torch/optim/rmsprop.py, without momentum."""
    _divide_by_roots(step, scales=False)


def _adagrad(step: OptimizerStep) -> None:
    """Mirror torch/optim/adagrad.py: many tensors at once scale gradients that are not new into
    others."""
    _divide_by_roots(step, scales=step.device == "cuda")


def _divide_by_roots(step: OptimizerStep, *, scales: bool) -> None:
    """Divide gradients by roots: all of a group where the device has foreach kernels, else one by
    one, where a root lives until there is the next."""
    for number, group in enumerate(step.groups):
        if step.device == "cuda":
            grads = _decayed(step, number, group)
            roots = [step.new(x.elements, step.width, "root of the squares") for x in group]
            if scales and not grads:
                grads = [step.new(x.elements, step.width, "scaled gradient") for x in group]
            del grads, roots
            continue
        _root = None
        for tensor in group:
            _grads = _decayed(step, number, [tensor])
            _root = step.new(tensor.elements, step.width, "root of the squares")
            del _grads


def _adafactor(step: OptimizerStep) -> None:
    """Mirror transformers/optimization.py, Adafactor.step: its variables are held to the next
    tensor."""
    _update: Storage | None = None
    for tensor in (x for group in step.groups for x in group):
        elements = tensor.elements
        _casts: list[Storage] = []
        if step.width < FP32_BYTES:
            _casts = [
                step.new(elements, FP32_BYTES, f"{name} in fp32") for name in ("gradient", "weight")
            ]
        square = step.new(elements, FP32_BYTES, "squared gradient")
        _update = step.new(elements, FP32_BYTES, "squared gradient and epsilon")
        del square
        factors: list[Storage] = []
        if len(tensor.shape) > 1:
            factors = [
                step.new(elements // size, FP32_BYTES, "factor of the update")
                for size in (tensor.shape[-1], tensor.shape[-2])
            ]
        _update = step.new(elements, FP32_BYTES, "update")
        del factors
        _negative = step.new(elements, FP32_BYTES, "negative update")
        del _negative


def _stable_adamw(step: OptimizerStep) -> None:
    """Mirror optimi/stableadamw.py: on CUDA _triton_stableadamw, which works in place, else
    _single_param_stableadamw."""
    if step.device == "cuda":
        return
    for tensor in (x for group in step.groups for x in group):
        square = step.new(tensor.elements, step.width, "squared gradient")
        largest = step.new(tensor.elements, step.width, "variance, at least epsilon")
        del largest
        mean = step.new(1, step.width, "mean of the squares")
        _rms = step.new(1, step.width, "root of the mean")
        del mean, square
        _root = step.new(tensor.elements, step.width, "root of the variance")
        del _root, _rms


def _apollo(step: OptimizerStep) -> None:
    """Mirror apollo_torch/apollo.py, AdamW.step, in a step that renews projections: its variables
    are held to the next tensor.

    read: transformers/trainer_optimizer.py at 5.23.0, _setup_low_rank_optimizer, for the order.
    """
    _low = _denominator = _update = _scaled = _factor = _norm = _limiter = None
    projected = [tensor for tensor in step.tensors if tensor.role == "matrix"]
    for tensor in (x for x in step.tensors if x.role != "matrix"):
        _low = None
        _denominator = step.new(tensor.elements, step.width, "denominator")
        _update = step.new(tensor.elements, step.width, "update")
    for tensor in projected:
        _low = None
        projection, low, _ = projected_elements(tensor)
        _project(step, tensor.elements, projection)
        _low = step.new(low, step.width, "projected gradient")
        _denominator = step.new(low, step.width, "denominator")
        _update = step.new(low, step.width, "projected update")
        _factor = _scaling_factor(step, max(tensor.shape))
        _scaled = step.new(tensor.elements, step.width, "scaled gradient")
        _norm = step.new(1, step.width, "norm of the scaled gradient")
        _limiter = step.new(1, step.width, "limiter")
        _scaled = step.new(tensor.elements, step.width, "limited gradient")
        _update = _scaled


def _project(step: OptimizerStep, elements: int, projection: int) -> None:
    """Mirror apollo_torch/random_projector.py, get_orthogonal_matrix."""
    narrow = step.width < FP32_BYTES
    _matrix = step.new(elements, FP32_BYTES, "gradient in fp32") if narrow else None
    random = step.new(projection, FP32_BYTES, "random numbers")
    divided = step.new(projection, FP32_BYTES, "projection in fp32")
    del random
    if narrow:
        _cast = step.new(projection, step.width, "projection")
    del divided


def _scaling_factor(step: OptimizerStep, longer: int) -> Storage:
    _norm = step.new(longer, step.width, "norms of the update")
    before = step.new(longer, step.width, "norms of the gradient")
    _after = step.new(longer, step.width, "norms and epsilon")
    del before
    return step.new(longer, step.width, "scaling factor")


def _compiled_8bit(step: OptimizerStep) -> None:
    """Mirror torchao/optim/adam.py at 0.18.0, single_param_adam, as PyTorch 2.13 compiles it with
    8-bit states: one kernel on CUDA where a row of the tensor is a block of these."""
    for tensor in (x for group in step.groups for x in group):
        if has_even_blocks(tensor) and not (step.device == "cuda" and _rows_are_blocks(tensor)):
            _buffers = _new_moments(step, tensor)
            del _buffers


def _compiled_4bit(step: OptimizerStep) -> None:
    """Mirror the same with 4-bit states, whose codes it makes 8 bytes wide (torch.where of Python's
    numbers in torchao/optim/quant_utils.py, quantize_4bit_with_qmap), and unpacks on the CPU."""
    for tensor in (x for group in step.groups for x in group):
        if has_even_blocks(tensor):
            _buffers = _new_moments(step, tensor)
            _buffers += [step.new(tensor.elements, INT64_BYTES, "codes") for _ in MOMENTS]
            if step.device == "cpu":
                _buffers += [step.new(tensor.elements, 1, "unpacked codes") for _ in MOMENTS]
            del _buffers


def _rows_are_blocks(tensor: TrainedTensor) -> bool:
    """Return whether the tensor's last dimension is a block, or all of it one row of blocks."""
    return tensor.shape[-1] == QUANTIZED_BLOCK or tensor.elements in tensor.shape[-2:]


def _new_moments(step: OptimizerStep, tensor: TrainedTensor) -> list[Storage]:
    scales = [step.new(tensor.elements // QUANTIZED_BLOCK, FP32_BYTES, "scales") for _ in MOMENTS]
    return scales + [step.new(tensor.elements, FP32_BYTES, "scaled moment") for _ in MOMENTS]


_UPDATES: dict[str, Callable[[OptimizerStep], None]] = {
    "fused": _fused,
    "adamw": _adamw,
    "adagrad": _adagrad,
    "apollo": _apollo,
    "compiled_4bit": _compiled_4bit,
    "compiled_8bit": _compiled_8bit,
    "rmsprop": _rmsprop,
    "schedule_free": _schedule_free,
    "sgd": _sgd,
    "stable_adamw": _stable_adamw,
    "adafactor": _adafactor,
}


def step_of(
    workload: Workload, tensors: Sequence[TrainedTensor], *, width: int, device: Device
) -> OptimizerStep:
    """Return a step of a workload's optimizer over ``tensors`` of ``width`` bytes per element: all
    that it trains, or a rank's parts of them."""
    settings = workload.settings.optimizer
    return OptimizerStep(
        optimizers()[settings.name],
        tensors,
        width=width,
        weight_decay=settings.weight_decay,
        device=device,
    )


@cached_by_settings(*TRAINED, "optimizer")
def step_bytes(workload: Workload, *, width: int, device: Device) -> int:
    """Return the most bytes that a step allocates beside gradients and states."""
    return step_of(workload, trained_tensors(workload), width=width, device=device).num_bytes


def update_of(
    optimizer: OptimizerSpec,
    tensor: TrainedTensor,
    *,
    width: int,
    weight_decay: float,
    device: Device,
) -> OptimizerStep:
    """Return the update of one tensor, without the norms."""
    return OptimizerStep(
        optimizer, [tensor], width=width, weight_decay=weight_decay, device=device, clips=False
    )
