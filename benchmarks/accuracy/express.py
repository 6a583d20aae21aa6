"""Published rows in the words of their source, as training loops, allocation by allocation."""

from dataclasses import replace
from typing import TypeVar, get_args

from msgspec import structs

from benchmarks.accuracy.decoders import Gptq4, Gptq8, TrainedOutside, gptq_sizes
from benchmarks.accuracy.expert_loop import ExpertLoop
from benchmarks.accuracy.fsdp import fully_sharded
from benchmarks.accuracy.loop import DtypeGroup, Training, one_device
from benchmarks.accuracy.reentrant import FrozenUnitsTape, ReentrantTape
from benchmarks.accuracy.sources import Parallel, SourceConventions, sources
from benchmarks.accuracy.timeline import Timeline
from benchmarks.accuracy.triton_pass import ChunkedTritonPass, TritonPass
from benchmarks.accuracy.zero2 import partitioned_gradients
from benchmarks.rows import Row
from planner.forward.decoder import Decoder
from planner.forward.model_pass import ModelPass
from planner.plan.schema import AdapterSection, QuantizationSection
from planner.plan.vocabulary import Method, Precision
from planner.recipes.load_recipe import load_recipe
from planner.tape.tape import Tape
from planner.workload.dtypes import Numerics
from planner.workload.quantization import with_experts
from planner.workload.settings import settings_of
from planner.workload.trained_tensors import TrainedTensor, trained_tensors
from planner.workload.workload import Batch, Workload

Choice = TypeVar("Choice")

MODULES = {
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "o_proj",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
}
GPTQ: dict[str, type[Decoder]] = {"gptq-int4": Gptq4, "gptq-int8": Gptq8}
PASSES: dict[str, type[ModelPass]] = {
    "foak's kernels": TritonPass,
    "liger's kernels": ChunkedTritonPass,
}
"""Code of a model by a row's word for its loss, where a source has its own."""
ORIGINAL_BYTES = 2
"""Bytes per element of a weight that is kept beside its trained copy."""
DOUBLE_QUANT = {"nf4": False, "nf4-double": True}


def timeline(row: Row) -> Timeline:
    """Return the row's training loop, allocation by allocation."""
    source = sources()[row.source]
    training = training_of(row, source)
    if row.quantization in GPTQ and source.reduce_bucket_size is not None:
        return partitioned_gradients(
            training, ranks=row.ranks, bucket_elements=source.reduce_bucket_size
        )
    parallel = parallel_of(row, source)
    if parallel not in ("fsdp", "fsdp no_shard"):
        return one_device(training)
    shards = parallel == "fsdp"
    sharding = structs.replace(
        source.sharding[training.workload.method],
        on_host=row.offload not in ("none", ""),
        shards=shards,
    )
    gathered = sharding.gathered_in
    numerics = structs.replace(training.numerics, trainable=gathered, gradient=gathered)
    return fully_sharded(replace(training, numerics=numerics), sharding, row.ranks if shards else 1)


def parallel_of(row: Row, source: SourceConventions) -> Parallel | str:
    return source.parallel.get(row.parallel, row.parallel)


def precision_of(row: Row, source: SourceConventions) -> Precision | str:
    return source.precision.get(row.precision, row.precision)


def training_of(row: Row, source: SourceConventions) -> Training:
    workload, decoder = _workload(row, source), _decoder(row, source)
    numerics = source.numerics(workload.method, row.model, gptq=row.quantization in GPTQ)
    return Training(
        workload=workload,
        batch=Batch(
            micro_batch_size=row.micro_batch_size,
            sequence_length=row.sequence_length,
        ),
        numerics=numerics,
        checkpointing=row.checkpointing == "yes",
        micro_batches=row.gradient_accumulation_steps,
        buckets=parallel_of(row, source) == "ddp",
        decoder=decoder,
        held_beside=tuple(_held_beside(workload, decoder)),
        trained=_trained(workload, decoder, numerics),
        denominator_apart=source.denominator_apart,
        holds_output=source.holds_output,
        steps_in_backward=source.steps_in_backward,
        model_pass=PASSES.get(row.loss, ModelPass),
        tape=_tape(row, source),
    )


def _decoder(row: Row, source: SourceConventions) -> type[Decoder]:
    if row.lora_targets in source.modules_to_save:
        return TrainedOutside
    shape = source.shape(row.model)
    if source.loops_over_experts and shape is not None and shape.experts is not None:
        return ExpertLoop
    return GPTQ.get(row.quantization, Decoder)


def _tape(row: Row, source: SourceConventions) -> type[Tape]:
    if not source.reentrant:
        return Tape
    is_frozen = row.method != "full" and parallel_of(row, source) == "fsdp"
    if is_frozen and source.sharding[_method(row)].checkpoint_around_unit:
        return FrozenUnitsTape
    return ReentrantTape


def _method(row: Row) -> Method:
    return _one_of(row.method, get_args(Method))


def _trained(
    workload: Workload, decoder: type[Decoder], numerics: Numerics
) -> tuple[DtypeGroup, ...]:
    """Return the trained tensors in the order in which an optimizer meets their dtypes: the
    embedding comes first."""
    own = DtypeGroup(trained_tensors(workload), numerics.home)
    if decoder is not TrainedOutside:
        return (own,)
    table = TrainedTensor((workload.model.vocab_size, workload.model.hidden_size), "embedding")
    return DtypeGroup([table] * 2, numerics.outside), own


def _held_beside(workload: Workload, decoder: type[Decoder]) -> list[int]:
    model = workload.model
    if decoder is TrainedOutside:
        return [model.embedding_params * ORIGINAL_BYTES] * 2
    if decoder not in GPTQ.values():
        return []
    matrices = [matrix for kind in model.layers for matrix in model.linears(kind)]
    return [size for matrix in matrices for size in gptq_sizes(decoder, matrix)]


def _workload(row: Row, source: SourceConventions) -> Workload:
    method = _method(row)
    own = settings_of(load_recipe(method))
    settings = structs.replace(
        own,
        adapter=_adapter(row, source) if method != "full" else None,
        quantization=_quantization(_packing(row, source)),
        sequence_length=row.sequence_length,
        loss=source.loss,
        attention=source.attention.get(row.attention, row.attention),
        optimizer=structs.replace(own.optimizer, name=source.optimizer),
    )
    shape = source.shape(row.model)
    assert shape is not None
    if source.packs_experts and settings.quantization is not None:
        packed = with_experts(settings.quantization, shape)
        settings = structs.replace(settings, quantization=packed)
    return Workload(
        model=shape,
        settings=settings,
        compute=_one_of(precision_of(row, source), get_args(Precision)),
    )


def _one_of(word: str, known: tuple[Choice, ...]) -> Choice:
    """Return the member of ``known`` that is spelt like ``word``."""
    return next(choice for choice in known if choice == word)


def _adapter(row: Row, source: SourceConventions) -> AdapterSection:
    assert row.lora_rank is not None
    names = source.targets.get(row.lora_targets, row.lora_targets).split(",")
    targets = tuple(MODULES.get(name, name) for name in names)
    return AdapterSection(
        rank=row.lora_rank, alpha=row.lora_rank, dropout=source.dropout, target_modules=targets
    )


def _packing(row: Row, source: SourceConventions) -> str:
    return source.quantization.get(row.quantization, row.quantization)


def packing_is_known(row: Row, source: SourceConventions) -> bool:
    """Return whether it is known how the row's weights are packed."""
    if row.quantization in GPTQ:
        return source.gptq is not None
    return _packing(row, source) in ("none", *DOUBLE_QUANT)


def _quantization(packing: str) -> QuantizationSection | None:
    if packing not in DOUBLE_QUANT:
        return None
    return QuantizationSection(quant_type="nf4", double_quant=DOUBLE_QUANT[packing])
