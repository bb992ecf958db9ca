"""A bar on a terminal, a line every 30 seconds elsewhere; on standard error, and only where it is
wanted.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time

import pytest
from rich.table import Table

import unimodal.progress
from unimodal.progress import (
    PlainProgress,
    describe_rate,
    describe_seconds,
    open_console,
    progress_bar,
)

PROGRAM = """
from unimodal.progress import progress_bar
with progress_bar("embedding", 1200) as advance:
    advance(600)
    advance(1200, "writing")
"""
NESTED = """
import time
from unimodal.progress import progress_bar
with progress_bar("outer", 2) as advance:
    with progress_bar("inner", 7) as inner:
        inner(7)
        time.sleep(0.3)
    advance(2)
    time.sleep(0.3)
"""


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(show: bool | None) -> None:
    with progress_bar("embedding", 1200, show) as advance:
        advance(600)
        advance(1200, "writing")


@pytest.mark.parametrize("show", [None, False])
def test_nothing_is_written_of_what_is_short(
    show: bool | None, capfd: pytest.CaptureFixture[str]
) -> None:
    run(show)
    assert capfd.readouterr() == ("", "")


def test_a_bar_that_is_asked_for_leaves_one_line_in_a_log(
    capfd: pytest.CaptureFixture[str],
) -> None:
    run(True)
    assert capfd.readouterr() == ("", "embedding 1,200/1,200, 0:00 (writing)\n")


def test_lines_come_while_one_item_takes_long(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(unimodal.progress, "EVERY", 0.05)
    with progress_bar("embedding", 1200) as advance:
        advance(600)
        time.sleep(0.5)  # within one item
        advance(1200)
    shown = capfd.readouterr()
    first, *_, last = shown.err.splitlines()
    assert shown.out == ""
    assert len(shown.err.splitlines()) >= 3
    assert first.startswith("embedding 600/1,200, ")
    assert last.startswith("embedding 1,200/1,200, 0:0")


def test_no_line_comes_where_nothing_is_to_be_shown(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(unimodal.progress, "EVERY", 0.02)
    with progress_bar("embedding", 1200, False) as advance:
        advance(600)
        time.sleep(0.2)
    assert capfd.readouterr() == ("", "")


def test_a_line_says_what_how_far_how_fast_and_how_long_still() -> None:
    clock = Clock()
    progress = PlainProgress("embedding", 1200, clock=clock)
    clock.now = 24
    progress.advance(600)
    clock.now = 30
    assert progress.line() == "embedding 600/1,200, 25.0/s, 0:18 left"
    clock.now = 48
    progress.advance(1200)
    clock.now = 49
    assert progress.last_line() == "embedding 1,200/1,200, 0:49"


def test_a_rate_is_that_of_the_last_lines() -> None:
    clock = Clock()
    progress = PlainProgress("embedding", 100_000, clock=clock)
    rates = []
    for number in range(1, 9):  # ten times as fast in the first 30 s
        clock.now = 30.0 * number
        progress.advance(3000 + 300 * (number - 1))
        rates.append(progress.line().split(", ")[1])
    assert rates == [
        "100/s",
        "55.0/s",
        "40.0/s",
        "32.5/s",
        "10.0/s",
        "10.0/s",
        "10.0/s",
        "10.0/s",
    ]


def test_what_an_earlier_run_did_is_not_in_the_rate() -> None:
    clock = Clock()
    progress = PlainProgress("training", 1000, 400, clock=clock)
    clock.now = 30
    progress.advance(430, "pairs 0.512")
    assert progress.line() == "training 430/1,000, 1.0/s, 9:30 left (pairs 0.512)"


def test_before_anything_is_done_the_line_says_how_long_it_has_taken() -> None:
    clock = Clock()
    progress = PlainProgress("scoring captions", None, clock=clock)
    clock.now = 30
    assert progress.line() == "scoring captions, 0:30 so far, nothing new for 0:30"
    clock.now = 50
    progress.advance(7)
    clock.now = 60
    assert progress.line() == "scoring captions 7, 7.1 s each, 1:00 so far"


def test_what_stands_still_is_said() -> None:
    clock = Clock()
    progress = PlainProgress("fetching", 100, clock=clock)
    clock.now = 10
    progress.advance(50)
    lines = []
    for number in range(1, 7):
        clock.now = 30.0 * number
        lines.append(progress.line())
    assert lines[0] == "fetching 50/100, 5.0/s, 0:30 so far"
    assert lines[1] == "fetching 50/100, 5.0/s, 1:00 so far, nothing new for 0:50"
    assert lines[-1] == "fetching 50/100, 3:00 so far, nothing new for 2:50"


def test_a_description_that_begins_with_the_name_takes_its_place() -> None:
    clock = Clock()
    progress = PlainProgress("bench loss", 40, clock=clock)
    clock.now = 30
    progress.advance(10, "bench loss: tiled")
    assert progress.line() == "bench loss: tiled 10/40, 3.0 s each, 1:30 left"


@pytest.mark.parametrize(
    ("rate", "said"),
    [(0.04, "25.0 s each"), (1.0, "1.0/s"), (99.96, "100.0/s"), (1234.5, "1,234/s")],
)
def test_a_rate_below_one_is_said_as_its_inverse(rate: float, said: str) -> None:
    assert describe_rate(rate) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0:00"), (59.6, "1:00"), (754, "12:34"), (10_800, "3:00:00")],
)
def test_seconds_are_read_off_as_on_a_clock(seconds: float, said: str) -> None:
    assert describe_seconds(seconds) == said


def test_an_error_goes_through_and_no_last_line_says_that_all_is_done(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(KeyError, match="inside"), progress_bar("reading", 3, True):
        raise KeyError("inside")
    assert capfd.readouterr() == ("", "")


def test_a_table_is_whole_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    file = io.StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    name = "a name of a task that is longer than a terminal is wide, " * 4
    table = Table("task", "value")
    table.add_row(name, "0.970")
    open_console().print(table)
    assert name.strip() in file.getvalue()
    assert (
        max(map(len, file.getvalue().splitlines())) < len(name) + 20
    )  # no line is filled up


def test_a_width_that_is_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    assert open_console().width == 90


def on_a_terminal(program: str) -> str:
    ours, theirs = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run(
        [sys.executable, "-c", program], stderr=theirs, env=environment, check=True
    )
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    return shown


def test_on_a_terminal_the_bar_shows_by_itself_and_goes_away() -> None:
    shown = on_a_terminal(PROGRAM)
    assert "1200/1200" in shown
    assert shown.endswith("\x1b[2K")  # the line is erased


def test_a_bar_within_a_bar_takes_its_place_for_a_while() -> None:
    shown = on_a_terminal(NESTED)
    inner = shown.index("7/7")
    assert "outer" not in shown[inner : shown.rindex("7/7")]
    assert "2/2" in shown[inner:]
