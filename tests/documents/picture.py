"""The picture of a report in the README: the command's own output, as SVG by rich."""

import io
from itertools import takewhile

from rich.console import RenderableType
from rich.segment import Segment, Segments
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from planner.base.console import PrintableConsole
from planner.base.phrases import Language, Phrase, speak, spoken
from planner.base.preset_files import translations
from planner.decision.choose import decide
from planner.decision.request import Request
from planner.hardware.detect import parse_gpus
from planner.models.model_presets import load_model
from planner.report.terminal_report import report

MODEL, GPUS = "chatglm3-6b-base", "rtx-4090"
COMMAND = f"plan --model {MODEL} --gpus {GPUS}"
COLUMNS = 96
FIRST_LINE_LEFT_OUT = Phrase("Other ways")
NEXT_STEPS = ["launch plan.yaml --data FILE"]
LIGHT = TerminalTheme(
    (255, 255, 255),
    (0, 0, 0),
    [
        (0, 0, 0),
        (185, 28, 28),
        (21, 128, 61),
        (161, 98, 7),
        (29, 78, 216),
        (126, 34, 206),
        (14, 116, 144),
        (107, 114, 128),
    ],
)
DARK = TerminalTheme(
    (13, 17, 23),
    (230, 237, 243),
    [
        (110, 118, 129),
        (255, 123, 114),
        (63, 185, 80),
        (210, 153, 34),
        (88, 166, 255),
        (188, 140, 255),
        (57, 197, 207),
        (177, 186, 196),
    ],
)
"""Both have colours of at least 4.5 to 1 against the background (WCAG 2.2, 1.4.3)."""
THEMES = {"light": LIGHT, "dark": DARK}
PREFIXES: dict[str, Language] = {"": "en", "zh-": "zh"}
"""How the pictures of each language are called."""
FRAME = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" \
role="img" aria-label="LABEL">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width;
}}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
<rect fill="BACKGROUND" x="0" y="0" width="{width}" height="{height}" rx="8"/>
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""rich's own frame without the fonts that it loads from outside, and without a window's buttons."""


def recording_console() -> PrintableConsole:
    """Return a console that keeps what is drawn on it, in all colours, wherever it runs."""
    return PrintableConsole(
        record=True,
        file=io.StringIO(),
        width=COLUMNS,
        height=100,
        force_terminal=True,
        color_system="truecolor",
        no_color=False,
        legacy_windows=False,
        highlight=False,
    )


def pictures() -> dict[str, str]:
    """Return the SVG of each language and theme, by their names."""
    content = _report()
    made: dict[str, str] = {}
    for prefix, language in PREFIXES.items():
        speak(translations(language))
        made |= {f"{prefix}{name}": _picture(content, theme) for name, theme in THEMES.items()}
    speak({})
    return made


def printed() -> str:
    """Return the command and the whole of what it prints, as a block of Markdown."""
    console = PrintableConsole(width=COLUMNS, file=io.StringIO())
    with console.capture() as captured:
        console.print(_report())
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join(["```console", f"$ {COMMAND}", *lines, "```"])


def _report() -> RenderableType:
    decision = decide(Request(model=load_model(MODEL), cluster=parse_gpus(GPUS)))
    return report(decision, width=COLUMNS, next_steps=NEXT_STEPS)


def _picture(content: RenderableType, theme: TerminalTheme) -> str:
    console = recording_console()
    console.print(Text(f"$ {COMMAND}\n", style="bold"))
    lines = console.render_lines(content, pad=False)
    end = spoken(FIRST_LINE_LEFT_OUT)
    shown = takewhile(lambda line: not _text(line).startswith(end), lines)
    console.print(Segments([part for line in shown for part in (*line, Segment.line())]))
    frame = FRAME.replace("LABEL", f"What {COMMAND} prints").replace(
        "BACKGROUND", theme.background_color.hex
    )
    svg = console.export_svg(theme=theme, code_format=frame, unique_id="report")
    return "\n".join(line.rstrip() for line in svg.splitlines() if line.strip()) + "\n"


def _text(line: list[Segment]) -> str:
    return "".join(segment.text for segment in line)
