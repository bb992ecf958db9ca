"""The bar is shown where it is wanted, on standard error, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from unimodal.progress import progress_bar

PROGRAM = """
from unimodal.progress import progress_bar
with progress_bar("embedding", 1200) as advance:
    advance(600)
    advance(1200, "writing")
"""


def run(show: bool | None) -> None:
    with progress_bar("embedding", 1200, show) as advance:
        advance(600)
        advance(1200, "writing")


@pytest.mark.parametrize("show", [None, False])
def test_nothing_is_written_where_no_bar_is_wanted(show: bool | None, capfd: pytest.CaptureFixture[str]) -> None:
    run(show)
    assert capfd.readouterr() == ("", "")


def test_a_bar_that_is_asked_for_leaves_one_line_in_a_log(capfd: pytest.CaptureFixture[str]) -> None:
    run(True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert [line.split()[0] for line in shown.err.splitlines() if line.strip()] == ["writing"]
    assert "1200/1200" in shown.err


def test_a_total_that_is_not_known_is_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar("reading", None, True) as advance:
        advance(7)
    assert "7/?" in capfd.readouterr().err


def test_an_error_goes_through_the_bar() -> None:
    with pytest.raises(KeyError, match="inside"), progress_bar("reading", 3, True):
        raise KeyError("inside")


def test_on_a_terminal_the_bar_shows_by_itself_and_goes_away() -> None:
    ours, theirs = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", PROGRAM], stderr=theirs, env=environment, check=True)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "1200/1200" in shown
    assert shown.endswith("\x1b[2K")  # the line is erased
