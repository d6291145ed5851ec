import io

import pytest
from rich.console import Console

from xinfer.cli.screen import Grid, err, out

NAME = "deepseek-r1-distill-llama-of-a-team"


def shown(width: int, *, terminal: bool) -> str:
    table = Grid("model", "type", "what it is", title="Models")
    table.add_row(NAME, "embedding", "Reads long texts in more than a hundred languages, and images beside them")
    table.add_row("m", "LLM", "short")
    screen = io.StringIO()
    console = Console(file=screen, width=width, force_terminal=terminal, color_system=None, soft_wrap=not terminal)
    console.print(table)
    return screen.getvalue()


def column(text: str, number: int) -> str:
    """The cells of a column below its head, put together."""
    return "".join(line.split("│")[number].strip() for line in text.splitlines() if line.startswith("│"))


@pytest.mark.parametrize("width", [200, 100, 80])
def test_names_that_are_typed_stay_on_one_line(width: int) -> None:
    assert f"│ {NAME} │" in shown(width, terminal=True)
    assert max(map(len, shown(width, terminal=True).splitlines())) <= width


@pytest.mark.parametrize("width", [200, 80, 60, 40, 30])
def test_nothing_is_lost_on_a_narrow_terminal(width: int) -> None:
    text = shown(width, terminal=True)
    assert "…" not in text
    assert column(text, 1) == f"{NAME}m"
    assert column(text, 2) == "embeddingLLM"
    assert max(map(len, text.splitlines())) <= width


def test_a_pipe_gets_one_line_for_each_row() -> None:
    rows = [line for line in shown(80, terminal=False).splitlines() if line.startswith("│")]
    assert len(rows) == 2
    assert "languages, and images beside them" in rows[0]


def test_messages_that_nobody_watches_are_not_broken_into_lines() -> None:
    assert [console.soft_wrap for console in (out, err)] == [not console.is_terminal for console in (out, err)]
