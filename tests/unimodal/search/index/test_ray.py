"""Ray's actors make the files that one process makes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from tests.unimodal.search.index.products import plan_of
from tests.unimodal.search.index.runs import Run, wait_until
from unimodal.config import parse_config
from unimodal.embedder import load
from unimodal.formats import native
from unimodal.model import DualEncoder
from unimodal.preprocess.tokenizers import Tokenizer
from unimodal.search.index.items import IndexConfig, cut_input
from unimodal.search.index.plan import make_jobs
from unimodal.search.index.ray import _embedded, embed_jobs_on_ray
from unimodal.search.index.run import index

ray = pytest.importorskip("ray")
VECTORS = ["vector_text", "vector_image", "vector_fused"]


@pytest.fixture
def cluster() -> Iterator[None]:
    """Ray on two cores of this machine."""
    ray.init(
        num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False
    )
    yield
    ray.shutdown()


def test_nothing_to_embed_starts_no_cluster(tmp_path: Path) -> None:
    embed_jobs_on_ray(plan_of(tmp_path, []), [], "model", "float32", lambda rows: None)
    assert not ray.is_initialized()


def test_a_device_of_this_machine_is_refused(tmp_path: Path) -> None:
    config = parse_config(IndexConfig, {"input": "nowhere.jsonl", "text": "title"})
    with pytest.raises(ValueError, match=r"device .cuda:1. .*Ray"):
        index("model", config, str(tmp_path / "store"), engine="ray", device="cuda:1")


def test_this_process_has_the_model_on_no_gpu(
    tmp_path: Path,
    model: DualEncoder,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    native.save(tmp_path / "model", model, tokenizer)
    config = plan_of(tmp_path, [{"id": "a", "title": "a", "tags": ["b"]}]).config
    index(str(tmp_path / "model"), config, str(tmp_path / "store"), device="cpu")
    devices = list[Any]()

    def noted(*words: Any, **named: Any) -> Any:
        devices.append(named["device"])
        return load(*words, **named)

    monkeypatch.setattr("unimodal.embedder.load", noted)
    summary = index(
        str(tmp_path / "model"), config, str(tmp_path / "store"), engine="ray"
    )
    assert (summary.items, summary.embedded, summary.reused) == (1, 0, 1)
    assert devices == ["cpu"]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_decoding_and_the_model_are_stages_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(tmp_path, [{"id": "a", "title": "a", "tags": []}])
    _embedded(
        ray, plan, make_jobs(plan, cut_input(plan.config)), "model", "float32"
    ).explain()
    _, made = capsys.readouterr().out.split("Physical Plan (Optimized)")
    assert "[MapBatches(_Encoder)]" in made


@pytest.mark.slow  # it starts in half a minute, on two cores that have nothing else to do
@pytest.mark.usefixtures("cluster")
def test_rays_files_are_those_of_one_process_and_a_kill_costs_what_was_in_flight(
    tmp_path: Path,
    model: DualEncoder,
    tokenizer: Tokenizer,
    texts: list[str],
    images: list[Image.Image],
) -> None:
    native.save(tmp_path / "model", model, tokenizer)
    rows = [
        {"id": f"p{n}", "title": text, "photo": f"{n}.png" if n < 6 else None}
        for n, text in enumerate(texts)
    ]
    rows[7]["title"] = ""
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    values = {
        "input": str(tmp_path / "rows.jsonl"),
        "text": "title",
        "image": "photo",
        "per_unit": 4,
        "batch": 3,
    }
    config = parse_config(IndexConfig, values)
    alone = index(
        str(tmp_path / "model"), config, str(tmp_path / "alone"), device="cpu"
    )
    found = index(str(tmp_path / "model"), config, str(tmp_path / "ray"), engine="ray")
    assert (found.items, found.skipped, found.embedded, found.stored) == (9, 1, 3, 9)
    assert (alone.items, alone.skipped) == (found.items, found.skipped)
    again = index(str(tmp_path / "model"), config, str(tmp_path / "ray"), engine="ray")
    assert (again.items, again.embedded, again.reused, again.stored) == (9, 0, 3, 0)
    files = sorted((tmp_path / "ray.embeddings").glob("*.parquet"))
    for file in files:
        made, wanted = (
            read(tmp_path / folder / file.name)
            for folder in ("ray.embeddings", "alone.embeddings")
        )
        assert made.drop_columns(VECTORS) == wanted.drop_columns(VECTORS)
        for name in VECTORS:
            for one, other in zip(
                made[name].to_pylist(), wanted[name].to_pylist(), strict=True
            ):
                assert (one is None) == (other is None)
                np.testing.assert_allclose(one or 0, other or 0, rtol=0, atol=1e-6)

    store = str(tmp_path / "killed")
    address = ray.get_runtime_context().gcs_address
    small = {**values, "per_unit": 1, "batch": 1}
    slowly = {"what": "write_partition", "slow": 0.5, "RAY_ADDRESS": address}
    killed = Run(str(tmp_path / "model"), small, store, engine="ray", **slowly)
    wait_until(
        lambda: len(list((tmp_path / "killed.embeddings").glob("*.parquet"))) >= 2
    )
    killed.kill()
    there = len(list((tmp_path / "killed.embeddings").glob("*.parquet")))
    assert 2 <= there < len(texts)
    config = parse_config(IndexConfig, {**values, "per_unit": 1})
    again = index(str(tmp_path / "model"), config, store, engine="ray")
    assert (again.embedded, again.reused, again.stored) == (
        len(texts) - there,
        there,
        9,
    )


def read(file: Path) -> Any:
    return parquet.read_table(file)
