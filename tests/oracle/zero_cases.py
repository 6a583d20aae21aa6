"""Small runs of DeepSpeed on two ranks, and what the memory model says of each."""

from dataclasses import dataclass

from planner.memory import Footprint, footprint_of, zero_section
from planner.numerics import numerics
from planner.plan import Method, Plan, Strategy
from planner.recipe import Batch, Workload
from planner.strategy import Layout
from tests.launcher.plans import full, parallel, plan
from tests.oracle.small_models import LLAMA, workload_of

RANKS = 2
SIXTEEN_BIT = {"compute": "bf16", "frozen": "bf16", "trainable": "bf16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroCase:
    method: Method
    strategy: Strategy
    steps: int = 1
    checkpointing: bool = False
    micro_batch_size: int = 1
    sequence_length: int = 64
    hidden_size: int = 256
    num_layers: int = 6
    vocab_size: int = 1024
    tied: bool = False

    @property
    def workload(self) -> Workload:
        shape = LLAMA.model_copy(
            update={
                "num_layers": self.num_layers,
                "hidden_size": self.hidden_size,
                "intermediate_size": 3 * self.hidden_size,
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "head_dim": self.hidden_size // 8,
                "vocab_size": self.vocab_size,
                "tied_embeddings": self.tied,
            }
        )
        work = workload_of(shape, self.method, "bf16", 0.0, "all-linear")
        recipe = work.recipe.model_copy(
            update={"sequence_length": self.sequence_length, "loss": "standard"}
        )
        return work.model_copy(update={"recipe": recipe})

    @property
    def layout(self) -> Layout:
        return Layout(
            strategy=self.strategy,
            world_size=RANKS,
            micro_batch_size=self.micro_batch_size,
            gradient_accumulation_steps=self.steps,
            activation_checkpointing=self.checkpointing,
        )

    @property
    def plan(self) -> Plan:
        changes = {} if self.method != "full" else full()
        if self.method == "qlora":
            changes |= {"method": "qlora", "quantization": {"quant_type": "nf4", "double_quant": True}}
        zero = zero_section(self.workload, self.layout)
        assert zero is not None
        changes |= {
            "precision": SIXTEEN_BIT,
            "parallel": {**parallel(self.strategy), "zero": zero.model_dump()},
            "batch__micro_batch_size": self.micro_batch_size,
            "batch__gradient_accumulation_steps": self.steps,
            "batch__global_batch_size": self.micro_batch_size * self.steps * RANKS,
        }
        return plan(**changes)

    @property
    def predicted(self) -> Footprint:
        kinds = numerics(method=self.method, compute="bf16", zero_stage=self.layout.zero_stage)
        batch = Batch(
            micro_batch_size=self.micro_batch_size,
            sequence_length=self.sequence_length,
            masked=self.micro_batch_size > 1,
            device="cpu",
        )
        return footprint_of(self.workload, self.layout, batch, kinds)
