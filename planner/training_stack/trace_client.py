"""Traced models: their shape and the memory of their steps, from the launcher's trace service."""

import atexit
import json
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from msgspec import to_builtins

from planner.base.bounded_cache import MOST_KEPT
from planner.base.errors import InvalidRequestError, UntraceableError, reason_of
from planner.base.phrases import Joined, Phrase, from_data
from planner.base.printable import print_text
from planner.models.traced_model import Phases, TracedSpec, traced_spec
from planner.plan.prediction_section import PredictionSection
from planner.plan.schema import HardwareSection, ModelSection, OutputSection, Plan
from planner.plan.training_section import TrainingSection
from planner.plan.vocabulary import SCHEMA_VERSION
from planner.training_stack.stack_process import StackProcess, StackProcessError
from planner.workload.layout import Layout
from planner.workload.plan_sections import (
    attention_of,
    batch_section,
    parallel_section,
    precision_section,
)
from planner.workload.workload import Workload

MODULE = "launcher.rehearsal.trace_service"


class TracingService:
    """Traces in one process, which the first question starts; every micro-batch is traced once,
    one that cannot be traced too."""

    def __init__(self) -> None:
        self._process: StackProcess | None = None
        self._traced: dict[str, Phases | UntraceableError] = {}
        self._count = 0

    def shape(self, content: Mapping[str, Any], why: str) -> TracedSpec:
        """Return the model that a ``config.json`` describes.

        ``why`` says why it is traced, and begins the message of the ``InvalidRequestError`` that
        is raised if it cannot be.
        """
        model_type = content["model_type"]
        answer = self._ask(
            {"shape": content}, Phrase("{why}, and the model cannot be traced", why=why)
        )
        _say(Phrase("{why}. The real model is traced instead, which takes longer.", why=why))
        return traced_spec(answer["shape"], model_type, json.dumps(content)).traced_by(self.trace)

    def trace(self, workload: Workload, layout: Layout) -> Phases:
        """Return the bytes of one micro-batch of one rank, in forward and in backward, by part.

        Raise ``UntraceableError`` if the step cannot be traced.
        """
        model = workload.model
        assert isinstance(model, TracedSpec)
        failure = Phrase(
            "a step of {method} on {model_type} cannot be traced",
            method=workload.method,
            model_type=model.model_type,
        )
        if workload.method == "full" and model.towers:
            raise UntraceableError(
                Phrase(
                    "{failure}: texts alone give {towers} no gradients, so it is not trained. "
                    "Choose --method lora or qlora, or a checkpoint of the text model",
                    failure=failure,
                    towers=", ".join(model.towers),
                )
            )
        plan = to_builtins(plan_to_trace(workload, layout))
        key = json.dumps(plan)
        if key not in self._traced:
            recomputed = layout.activation_checkpointing
            self._count += 1
            _say(
                Phrase(
                    "trace {count}: {method}, micro-batch {size}, {length:,} tokens, {activations}",
                    count=self._count,
                    method=workload.method,
                    size=layout.micro_batch_size,
                    length=workload.settings.sequence_length,
                    activations=Phrase("activations recomputed")
                    if recomputed
                    else Phrase("activations kept"),
                )
            )
            if len(self._traced) == MOST_KEPT:
                del self._traced[next(iter(self._traced))]
            try:
                found = self._ask({"trace": plan}, failure, UntraceableError)["phases"]
            except UntraceableError as error:
                found = error
            self._traced[key] = found
        traced = self._traced[key]
        if isinstance(traced, UntraceableError):
            raise traced
        return traced

    def _ask(
        self,
        request: Mapping[str, Any],
        failure: str,
        kind: type[InvalidRequestError] = InvalidRequestError,
    ) -> dict[str, Any]:
        if self._process is None:
            self._process = StackProcess(MODULE)
            atexit.register(self._process.close)
        try:
            answer = self._process.ask(request)
        except StackProcessError as failed:
            raise kind(Joined(": ", [failure, reason_of(failed)])) from failed
        if "error" in answer:
            raise kind(Joined(": ", [failure, from_data(answer["error"])]))
        return answer


@cache
def tracing_service() -> TracingService:
    """Return the service that all models of this process share."""
    return TracingService()


def _say(text: str) -> None:
    print_text(text, file=sys.stderr)


def plan_to_trace(workload: Workload, layout: Layout) -> Plan:
    """Return a plan with all that decides the tensors of a step; its other fields are empty."""
    model = workload.model
    assert isinstance(model, TracedSpec)
    settings = workload.settings
    no_prediction = PredictionSection(
        peak_phase="",
        peak_allocated_bytes=0,
        low_bytes=0,
        high_bytes=0,
        host_ram_bytes=0,
        disk_bytes=0,
        checkpoint_bytes=0,
        step_time_s=None,
        tokens_per_second=None,
        phases={},
    )
    return Plan(
        schema_version=SCHEMA_VERSION,
        model=ModelSection(
            name=model.model_type,
            source=model.model_type,
            model_type=model.model_type,
            num_params=model.num_params,
            trainable_params=workload.trainable_params,
            config=json.loads(model.config),
        ),
        hardware=HardwareSection(
            device="cpu" if workload.compute == "fp32" else "cuda",
            gpu="",
            device_name="",
            capacity_bytes=0,
            budget_bytes=0,
        ),
        method=workload.method,
        adapter=settings.adapter,
        quantization=settings.quantization,
        precision=precision_section(workload, layout),
        batch=batch_section(workload, layout),
        parallel=parallel_section(workload, layout),
        activation_checkpointing=layout.activation_checkpointing,
        checkpoint_every=layout.checkpoint_every,
        attention=attention_of(workload),
        loss=workload.loss,
        optimizer=settings.optimizer,
        schedule=settings.schedule,
        data=settings.data,
        training=TrainingSection(max_steps=1),
        output=OutputSection(directory=""),
        prediction=no_prediction,
        fallbacks=(),
    )
