"""The log of ranks other than 0."""

from __future__ import annotations

import warnings

import pytest

from training.run.log import NoLog


def test_a_rank_other_than_0_warns_of_its_own_failures_only() -> None:
    log = NoLog()
    with pytest.warns(UserWarning, match="disk 3 is full"):
        log.note_failure("disk 3 is full")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log.note_failure("")
        log.warn("rank 0 warns of this")


def test_a_rank_other_than_0_has_no_line_no_state_and_no_validation() -> None:
    log = NoLog()
    log.append({"step": 1})
    assert log.line() == ""
    assert not log.has_validated(1)
    assert vars(log) == {}
