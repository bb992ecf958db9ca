"""A dry run says what indexing then does, and changes nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.unimodal.search.index.days import config_of, index_day, prices_in, write_day
from unimodal.embedder import Embedder
from unimodal.search.index.inputs import default_folder
from unimodal.search.index.preview import Preview
from unimodal.search.index.run import dry_run


def look(model: str, name: str, store: str, **options: Any) -> Preview:
    kept = {key: options.pop(key) for key in ("overwrite", "replace") if key in options}
    return dry_run(model, config_of(name, **options), store, device="cpu", **kept)


def counts(found: Preview) -> tuple[int, int, int, int]:
    return found.new, found.changed, found.same, found.removed


def files_in(folder: Path) -> dict[str, int]:
    return {
        str(file): file.stat().st_mtime_ns
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_a_dry_run_says_what_indexing_does_and_writes_nothing(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(tmp_path / "shop")
    day1 = write_day(tmp_path / "day1.jsonl", {"a": 1, "b": 1, "c": 1})
    before = files_in(tmp_path)
    first = look(saved, day1, store)
    assert (counts(first), first.embedded, first.rows) == ((3, 0, 0, 0), 3, 3)
    assert files_in(tmp_path) == before

    index_day(saved, day1, store)
    day2 = write_day(tmp_path / "day2.jsonl", {"a": 1, "b": 2, "new": 2})
    Path(day2).write_text(Path(day2).read_text() + "no JSON\n")
    before = files_in(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Embedder, "encode", None)
        found = look(saved, day2, store)
        replaced = look(saved, day2, store, replace=True)
    assert files_in(tmp_path) == before
    assert (counts(found), found.embedded, found.skipped, found.rows) == (
        (1, 1, 2, 0),
        1,
        1,
        4,
    )
    assert "is not JSON" in found.first_reason
    assert counts(replaced) == (1, 1, 1, 1)

    summary = index_day(saved, day2, store)
    assert (summary.stored, summary.kept, summary.removed) == (2, 2, 0)
    again = look(saved, day2, store)
    assert (counts(again), again.embedded) == ((0, 0, 4, 0), 0)
    assert counts(look(saved, day1, store)) == (
        0,
        1,
        3,
        0,
    )  # the older export again: its price comes back


def test_a_dry_run_says_what_would_be_refused(saved: str, tmp_path: Path) -> None:
    store = str(tmp_path / "shop")
    day = write_day(
        tmp_path / "day.jsonl", {f"p{number}": number for number in range(30)}
    )
    index_day(saved, day, store)
    write_day(tmp_path / "day.jsonl", {"p0": 0, "p1": 1})
    found = look(saved, day, store)
    assert counts(found) == (0, 0, 2, 28)
    assert "28 of 30 items" in found.refused
    assert "max_removed=0.94" in found.refused
    assert not look(saved, day, store, max_removed=1).refused
    assert not look(saved, day, store, overwrite=True).refused
    assert (
        "all 2 rows"
        in look(
            saved,
            day,
            store,
            where={"id": ["p0", "p1"]},
            fields={"price": "title:int"},
            overwrite=True,
        ).refused
    )
    assert len(prices_in(store)) == 30


def test_a_dry_run_refuses_a_cut_export_for_a_store_that_was_removed_as_indexing_does(
    saved: str, tmp_path: Path
) -> None:
    store = str(tmp_path / "shop")
    day = write_day(
        tmp_path / "day.jsonl", {f"p{number}": number for number in range(30)}
    )
    index_day(saved, day, store)
    Path(store).rename(tmp_path / "gone")
    write_day(tmp_path / "day.jsonl", {"p0": 0, "p1": 1})
    refused = look(saved, day, store).refused
    assert "28 of 30 items" in refused
    with pytest.raises(ValueError, match=re.escape(refused)):
        index_day(saved, day, store)


def test_a_dry_run_of_a_store_that_was_removed_has_all_as_new(
    saved: str, tmp_path: Path
) -> None:
    store = str(tmp_path / "shop")
    day = write_day(tmp_path / "day.jsonl", {"a": 1})
    index_day(saved, day, store)
    Path(store).rename(tmp_path / "gone")
    found = look(saved, day, store)
    assert (counts(found), found.embedded) == ((1, 0, 0, 0), 0)
    assert not Path(store).exists()
    assert default_folder(store).is_dir()
