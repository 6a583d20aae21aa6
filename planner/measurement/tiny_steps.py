"""Steps of tiny models, whose kernels take no time: the host, which launches them, does."""

from msgspec import Struct, structs

from planner.decision.assemble import plan_of
from planner.decision.choose import decide
from planner.decision.request import Request
from planner.hardware.cluster import Cluster
from planner.models.model_presets import ModelPreset, load_model
from planner.plan.schema import Plan
from planner.plan.vocabulary import Method
from planner.speed.card_rates import NOMINAL
from planner.speed.pass_time import pass_time
from planner.workload.dtypes import numerics_of

METHODS: tuple[Method, ...] = ("lora", "full")
"""Methods whose Python differs most, in equal parts."""
TOKENS = 32


class TinyStep(Struct, frozen=True):
    """A plan, and the number of kernels that one micro-batch of it launches."""

    plan: Plan
    kernels: int


def tiny_steps(cluster: Cluster) -> list[TinyStep]:
    """Return the steps for one device of a cluster."""
    single = structs.replace(cluster, gpus_per_node=1, num_nodes=1, link="none", network=None)
    return [_step(single, method) for method in METHODS]


def _step(cluster: Cluster, method: Method) -> TinyStep:
    decision = decide(
        Request(
            model=_tiny_model(),
            cluster=cluster,
            method=method,
            sequence_length=TOKENS,
            global_batch_size=1,
            activation_checkpointing=False,
            loss="standard",
        )
    )
    chosen = decision.chosen
    passed = pass_time(
        chosen.workload,
        numerics_of(chosen.workload, chosen.layout),
        1,
        checkpointing=0,
        device=cluster.device,
        speed=NOMINAL,
    )
    return TinyStep(plan_of(decision), passed.kernels)


def _tiny_model() -> ModelPreset:
    """Return a Llama of four layers with 16 rows of 64 columns."""
    preset = load_model("smollm2-135m")
    spec = structs.replace(
        preset.spec,
        num_layers=4,
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=512,
    )
    return structs.replace(preset, name="tiny", spec=spec)
