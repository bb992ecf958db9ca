"""Several processes share a run, and a run that is killed continues where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.unimodal.search.index.products import (
    NUM,
    Catalogue,
    run,
    stored,
)
from tests.unimodal.search.index.runs import Run, wait_until
from unimodal.search.index.inputs import default_folder
from unimodal.search.index.processes import Ranks, alone


def num_filled(folder: Path) -> int:
    record = folder / ".filled.json"
    states = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    return sum(state != "" for state in states.values())


def test_two_runs_do_not_write_to_one_folder_at_a_time(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    folder = default_folder(str(tmp_path / "store"))
    folder.mkdir()
    with (
        alone(folder, Ranks()),
        pytest.raises(ValueError, match="another run writes embeddings to"),
    ):
        run(saved, catalogue(), tmp_path / "store")


def test_two_processes_share_the_partitions_and_one_fills_the_store(
    saved: str, catalogue: Catalogue, tmp_path: Path, world: dict[str, str]
) -> None:
    values = {"input": catalogue(), "text": "title", "image": "photo", "per_unit": 2}
    runs = [
        Run(saved, values, str(tmp_path / "store"), **world, RANK=str(rank))
        for rank in range(2)
    ]
    first, second = (one.summary() for one in runs)
    assert (first.embedded, first.reused, first.stored, first.rank) == (5, 0, 10, 0)
    assert (second.embedded, second.reused, second.stored, second.rank) == (5, 0, 0, 1)
    assert len(stored(tmp_path / "store")) == 10


def test_one_process_alone_opens_the_store(
    saved: str, catalogue: Catalogue, tmp_path: Path, world: dict[str, str]
) -> None:
    name = catalogue()
    store = tmp_path / "store"
    run(saved, name, store, fields=[])
    values = {"input": name, "text": "title", "image": "photo", "per_unit": 4}
    first = Run(saved, values, str(store), **world, RANK="0")
    second = Run(
        saved, values, str(store), **world, RANK="1", what="open_store", slow=600
    )
    assert [one.summary(60).reused for one in (first, second)] == [3, 3]


def test_a_process_ends_when_another_is_killed(
    saved: str, catalogue: Catalogue, tmp_path: Path, world: dict[str, str]
) -> None:
    values = {"input": catalogue(), "text": "title", "image": "photo", "per_unit": 2}
    first = Run(saved, values, str(tmp_path / "store"), **world, RANK="0")
    second = Run(
        saved,
        values,
        str(tmp_path / "store"),
        **world,
        RANK="1",
        what="encode",
        slow=600,
    )
    wait_until(
        lambda: (
            len(list(default_folder(str(tmp_path / "store")).glob("*.parquet"))) == 3
        )
    )
    second.kill()
    error = first.summary()
    assert "waited in vain for another rank" in str(error)


def test_a_run_killed_while_it_embeds_redoes_the_partition_in_flight_alone(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    name = catalogue()
    folder = default_folder(str(tmp_path / "store"))
    values = {
        "input": name,
        "text": "title",
        "image": "photo",
        "fields": ["price"],
        "per_unit": 1,
    }
    killed = Run(saved, values, str(tmp_path / "store"), what="encode", slow=0.1)
    wait_until(lambda: len(list(folder.glob("*.parquet"))) >= 3)
    killed.kill()
    there = len(list(folder.glob("*.parquet")))
    assert 3 <= there < NUM
    summary = run(saved, name, tmp_path / "store", per_unit=1)
    assert (summary.embedded, summary.reused) == (NUM - there, there)
    run(saved, name, tmp_path / "whole", per_unit=1)
    rows = stored(tmp_path / "store")
    whole = stored(tmp_path / "whole")
    assert rows.keys() == whole.keys()
    for one, row in rows.items():  # two processes may differ in a vector's last bit
        np.testing.assert_allclose(
            row["vector_fused"], whole[one]["vector_fused"], rtol=0, atol=1e-6
        )


def test_a_run_killed_while_it_fills_the_store_redoes_the_file_in_flight_alone(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    name = catalogue()
    folder = default_folder(str(tmp_path / "store"))
    values = {
        "input": name,
        "text": "title",
        "image": "photo",
        "fields": ["price"],
        "per_unit": 1,
    }
    killed = Run(saved, values, str(tmp_path / "store"), what="upsert", slow=0.1)
    wait_until(lambda: num_filled(folder) >= 3)
    killed.kill()
    there = num_filled(folder)
    assert 3 <= there < NUM
    summary = run(saved, name, tmp_path / "store", per_unit=1)
    assert summary.embedded == 0
    assert (
        NUM - there - 1 <= summary.stored <= NUM - there
    )  # the file in flight may have been put in
    assert len(stored(tmp_path / "store")) == NUM


def test_who_holds_the_folder_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    holder = rf"\(process {os.getpid()} on .* since 20"
    for _ in range(2):  # the second finds the file of the first
        with (
            alone(folder, Ranks()),
            pytest.raises(ValueError, match=holder),
            alone(folder, Ranks()),
        ):
            raise AssertionError
    (tmp_path / "file").touch()
    is_file = r"file is a file, and embeddings need a folder"
    with pytest.raises(ValueError, match=is_file), alone(tmp_path / "file", Ranks()):
        raise AssertionError
