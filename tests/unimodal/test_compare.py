from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from unimodal.compare import (
    BenchRow,
    Clock,
    Tick,
    in_fresh_process,
    make_row,
    peak_memory,
    timed,
    write_json,
)


def silent(_: str) -> None: ...


def test_runs_are_timed_in_turns_and_the_median_is_kept() -> None:
    order: list[str] = []
    now = iter([0.0, 1.0, 0.0, 5.0, 0.0, 9.0, 0.0, 6.0, 0.0, 2.0, 0.0, 7.0])

    def run(name: str) -> list[torch.Tensor]:
        order.append(name)
        return [torch.ones(2)]

    told: list[str] = []
    tick: Tick = told.append
    runs = {"a": partial(run, "a"), "b": partial(run, "b")}
    assert timed(runs, 3, tick, Clock(lambda: next(now), "s")) == {"a": 2.0, "b": 6.0}
    assert order == told == ["a", "b"] * 4


def test_other_results_are_not_timed() -> None:
    runs = {
        "ours": lambda: [torch.ones(2)],
        "theirs": lambda: [torch.tensor([1.0, 1.001])],
    }
    with pytest.raises(
        FloatingPointError, match=r"'theirs' and 'ours' differ by 7\.1e-04"
    ):
        timed(runs, 1, silent, Clock(float, "s"))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux")
def test_peak_memory_is_what_a_run_takes_for_a_while() -> None:
    assert in_fresh_process(memory_of_a_matrix) == pytest.approx(80, rel=0.1)


def memory_of_a_matrix() -> float:
    def run() -> list[torch.Tensor]:
        torch.ones(20_000_000)
        return []

    run()
    return peak_memory(run)


def test_the_rows_are_written_with_their_ratio(tmp_path: Path) -> None:
    rows = [
        make_row("a", "b", ">= 3", 1.0, 4.0, "s"),
        make_row("a", "b", "<= 0.5", 1.0, 4.0, "MB"),
    ]
    assert [row.ratio for row in rows] == [4.0, 0.25]
    write_json(rows, tmp_path / "deep" / "rows.json")
    assert [
        BenchRow(**row)
        for row in json.loads((tmp_path / "deep" / "rows.json").read_text())
    ] == rows
