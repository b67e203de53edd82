"""These tests check that the progress display stays on one line, however narrow the terminal is."""

from __future__ import annotations

import io
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_lab.core import progress
from rl_lab.core.progress import Progress


class Terminal(io.StringIO):
    """A terminal of so many columns, and what is on it: where a line wraps, it has more rows."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 99

    def rows(self) -> list[str]:
        """Return what is shown."""
        rows, column = [""], 0
        for letter in self.getvalue():
            if letter == "\r":
                column = 0
            elif letter == "\n":
                rows.append("")
                column = 0
            else:
                if column == self.columns:
                    rows.append("")
                    column = 0
                rows[-1] = rows[-1][:column].ljust(column) + letter + rows[-1][column + 1 :]
                column += 1
        return rows


@given(st.integers(8, 200), st.lists(st.tuples(st.integers(0, 10**12), st.floats(-1e9, 1e9)), min_size=2, max_size=5))
def test_the_live_line_never_wraps(columns: int, shown: list[tuple[int, float]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "get_terminal_size", lambda descriptor: os.terminal_size((columns, 24)))
        patch.setattr(progress, "_EVERY_TERMINAL", -1.0)
        terminal = Terminal(columns)
        line = Progress(terminal)
        line.begin(0, 10**12)
        for steps, mean_return in shown:
            line.show(steps, mean_return, {"env": 1.0, "infer": 2.0, "learn": 3.0, "log": 0.1})
        assert len(terminal.rows()) == 1
        line.note("kept")
        assert [row.strip() for row in terminal.rows()] == ["kept", ""]


@pytest.mark.parametrize(("columns", "told"), [(104, "[env"), (80, "return"), (60, "left"), (40, "steps")])
def test_what_matters_most_is_shown_where_it_fits(columns: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda descriptor: os.terminal_size((columns, 24)))
    monkeypatch.setattr(progress, "_EVERY_TERMINAL", -1.0)
    terminal = Terminal(columns)
    line = Progress(terminal)
    now = time.perf_counter()
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    line.begin(0, 100_000)
    monkeypatch.setattr(time, "perf_counter", lambda: now + 10)
    line.show(50_000, 123.4, {"env": 1.0, "infer": 2.0, "learn": 3.0, "log": 0.1})
    assert told in terminal.rows()[0] and "50,000" in terminal.rows()[0]


def test_before_the_first_timed_step_no_rate_and_no_time_left_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_EVERY_TERMINAL", -1.0)
    terminal = Terminal(100)
    line = Progress(terminal)
    line.begin(512, 2000)
    line.show(512, 3.8, {"env": 1.0})
    (shown,) = terminal.rows()
    assert "512 / 2,000 steps" in shown and "0/s" not in shown and "left" not in shown
    line.show(1024, 3.8, {"env": 1.0})
    (shown,) = terminal.rows()
    assert "/s" in shown and "left" in shown
