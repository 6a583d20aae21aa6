"""A run drawn while it goes on: every figure in its place, at any width."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

pytest.importorskip("torch")

from launcher.display.live_view import Frame, View, expected_of, memory_bar, plain_line
from launcher.display.sensors import Gauge
from planner.base.units import GIB
from tests.launcher.plans import parallel, plan

TWO_CARDS = expected_of(
    plan(
        model__name="llama-3.1-8b",
        hardware={
            "device": "cuda",
            "gpu": "rtx-4090",
            "device_name": "NVIDIA GeForce RTX 4090",
            "capacity_bytes": 24 * GIB,
            "budget_bytes": 23 * GIB,
        },
        parallel=parallel("ddp"),
        batch__gradient_accumulation_steps=1,
        prediction__low_bytes=18 * GIB,
        prediction__high_bytes=21 * GIB,
        prediction__tokens_per_second=11_900.0,
    )
)
GAUGES = [
    Gauge(
        name=f"GPU {index}",
        used_bytes=19 * GIB,
        peak_bytes=(20 + 2 * index) * GIB,
        temperature_c=71 + index,
        power_watts=402,
    )
    for index in range(2)
]
VIEW = View(
    expected=TWO_CARDS,
    step=123,
    num_steps=200,
    elapsed_s=723.0,
    left_s=440.0,
    losses=[4.0, 3.0, 2.0, 1.5, 1.25],
    first_loss=4.0,
    least_loss=1.25,
    metrics={
        "loss": 1.25,
        "learning_rate": 1.9e-4,
        "grad_norm": 0.8234,
        "tokens_per_second": 12_345.0,
        "step_time_s": 0.5,
        "data_wait_s": 0.01,
    },
    gauges=GAUGES,
)
BEFORE = replace(VIEW, losses=(), first_loss=None, least_loss=None, metrics={}, left_s=None)
FRAME = """
llama-3.1-8b, LoRA on 2 x NVIDIA GeForce RTX 4090
━━━━━━━━━━━━━━━━━━━━━━━━────────────────  step 123 of 200   62%  7 min 20 s left

loss            1.2500  █▅▃▂▁                     first 4.0000, least 1.2500
learning rate   1.90e-04                          gradient norm 0.823
tokens/s        12,345                            predicted 11,900
step time       0.50 s                            waiting for data 2%

device          in use, GiB            now   peak    predicted
GPU 0           ████████████████▒··  19.00  20.00  18.00-21.00  71 C  402 W
GPU 1           █████████████████··  19.00  22.00  18.00-21.00  72 C  402 W
"""


def drawn(view: View, width: int, encoding: str = "utf-8") -> str:
    class Screen(StringIO):
        @property
        def encoding(self) -> str:  # type: ignore[override]
            return encoding

    console = Console(width=width, file=Screen(), color_system=None)
    with console.capture() as captured:
        console.print(Frame(view))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def test_a_frame_of_80_columns() -> None:
    assert drawn(VIEW, 80) == FRAME


@pytest.mark.parametrize("width", [60, 80, 100, 140, 300])
@pytest.mark.parametrize("view", [VIEW, BEFORE])
def test_every_line_is_within_the_width(view: View, width: int) -> None:
    lines = drawn(view, width).splitlines()
    assert max(map(len, lines)) <= min(width, 110) or width < 80
    assert len(lines) == FRAME.count("\n")


def test_a_terminal_of_plain_characters() -> None:
    text = drawn(VIEW, 80, encoding="ascii")
    assert text.isascii()
    assert "@+-._" in text


def test_before_the_first_step_nothing_is_invented() -> None:
    text = drawn(replace(BEFORE, step=0, elapsed_s=3), 80)
    assert "step 0 of 200    0%  3.00 s so far" in text
    assert "tokens/s        -" in text


def test_memory_beyond_the_prediction_is_marked() -> None:
    bars = [memory_bar(gauge, TWO_CARDS, 24, ascii_only=True) for gauge in GAUGES]
    assert [bar.plain for bar in bars] == ["#" * 20 + "=...", "#" * 22 + ".."]
    assert [bar.style for bar in bars] == ["green", "yellow"]


def test_on_the_cpu_a_process_is_held_against_its_own_prediction() -> None:
    ends = {"prediction__low_bytes": 3 * GIB // 2, "prediction__high_bytes": 3 * GIB}
    expected = expected_of(plan(**ends))
    gauge = Gauge(name="process", used_bytes=GIB, peak_bytes=2 * GIB)
    text = drawn(replace(VIEW, expected=expected, gauges=[gauge]), 80)
    assert "tiny, LoRA on CPU" in text
    assert text.splitlines()[-1].split() == [
        "process",
        memory_bar_text(text),
        "1.00",
        "2.00",
        "1.50-3.00",
    ]


def memory_bar_text(text: str) -> str:
    return text.splitlines()[-1].split()[1]


def test_lines_for_pipes_are_aligned() -> None:
    earlier = replace(
        VIEW, step=9, metrics={**VIEW.metrics, "loss": 11.5, "tokens_per_second": 950.0}
    )
    lines = [plain_line(earlier), plain_line(VIEW)]
    assert lines == [
        "step   9/200  loss 11.5000  lr 1.90e-04      950 tokens/s  data   2%  22.00 GiB   72 C"
        "    804 W  7 min 20 s left",
        "step 123/200  loss  1.2500  lr 1.90e-04   12,345 tokens/s  data   2%  22.00 GiB   72 C"
        "    804 W  7 min 20 s left",
    ]
