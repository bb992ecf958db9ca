"""What fits together, of model, input, store and folder, is decided before anything is embedded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unimodal.search.index.days import index_day, prices_in, write_day
from tests.unimodal.search.index.products import (
    Catalogue,
    one_more_input,
    run,
    skipped,
    stored,
)
from unimodal.calibration import Calibration, save_calibration
from unimodal.embedder import load
from unimodal.formats import native
from unimodal.model import DualEncoder, build_model
from unimodal.preprocess.tokenizers import Tokenizer
from unimodal.search.index.inputs import default_folder
from unimodal.search.stores.copy import copy_store
from unimodal.search.stores.open import open_store


def test_vectors_may_be_chosen(
    saved: str, catalogue: Catalogue, tmp_path: Path, forwards: list[int]
) -> None:
    run(
        saved,
        catalogue(),
        tmp_path / "store",
        per_unit=100,
        vectors=["image"],
        thumbnail=0,
    )
    assert forwards == [6]
    opened = open_store(str(tmp_path / "store"))
    assert (opened.schema.vectors, opened.schema.thumbnails, opened.count()) == (
        ("image",),
        False,
        6,
    )
    assert {one["reason"] for one in skipped(tmp_path / "store")} == {"it has no image"}


def test_the_order_of_the_fields_does_not_matter(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    run(saved, catalogue(), tmp_path / "store", fields={"price": "price", "sku": "id"})
    other = one_more_input(tmp_path)
    assert (
        run(
            saved, other, tmp_path / "store", fields={"sku": "id", "price": "price"}
        ).stored
        == 1
    )
    assert stored(tmp_path / "store")["q"]["sku"] == "q"


def test_a_folder_of_embeddings_fills_one_store(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    folder = tmp_path / "embeddings"
    run(saved, catalogue(), tmp_path / "first", embeddings=folder)
    run(saved, catalogue(), tmp_path / "second", embeddings=folder)
    with pytest.raises(
        ValueError,
        match=r"first is not the store that .*embeddings fills.*; .*--overwrite",
    ):
        run(saved, catalogue(p9=None), tmp_path / "first", embeddings=folder)
    assert (
        run(
            saved,
            catalogue(p9=None),
            tmp_path / "first",
            embeddings=folder,
            overwrite=True,
        ).stored
        == 9
    )
    assert sorted(stored(tmp_path / "first")) == [f"p{number}" for number in range(9)]


def test_a_copy_of_a_store_is_another_store(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    assert copy_store(open_store(str(tmp_path / "store")), str(tmp_path / "copy")) == 10
    with pytest.raises(ValueError, match=r"copy is not the store that .* fills"):
        run(
            saved,
            catalogue(),
            tmp_path / "copy",
            embeddings=default_folder(str(tmp_path / "store")),
        )


def test_a_store_is_filled_from_one_folder_of_embeddings(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    other = one_more_input(tmp_path)
    run(saved, catalogue(), tmp_path / "store", embeddings=tmp_path / "one")
    with pytest.raises(ValueError, match=r"is not the store that .*two fills"):
        run(saved, other, tmp_path / "store", embeddings=tmp_path / "two")
    run(saved, other, tmp_path / "store", embeddings=tmp_path / "two", overwrite=True)
    assert sorted(stored(tmp_path / "store")) == ["q"]
    with pytest.raises(ValueError, match=r"is not the store that .*one fills"):
        run(saved, catalogue(), tmp_path / "store", embeddings=tmp_path / "one")


@pytest.mark.parametrize(
    "change", [{"fields": ["price", "brand"]}, {"vectors": ["text"]}, {"weight": 0.9}]
)
def test_what_another_input_was_indexed_with_is_left_out_of_a_store_that_is_made_again(
    saved: str,
    catalogue: Catalogue,
    tmp_path: Path,
    forwards: list[int],
    change: dict[str, Any],
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    other = one_more_input(tmp_path, brand="b")
    run(saved, other, tmp_path / "store")
    forwards.clear()
    with pytest.warns(
        UserWarning,
        match=r"rows.jsonl is left out of the store",
    ):
        run(saved, other, tmp_path / "store", overwrite=True, **change)
    assert list(stored(tmp_path / "store")) == ["q"]
    files = default_folder(str(tmp_path / "store")).glob("*.parquet")
    assert ["other" in file.name for file in files] == [True]


def test_a_store_has_fused_vectors_of_one_weight(
    saved: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    with pytest.raises(
        ValueError, match=r"was made with weight 0.5, and this is 0.9; add --overwrite"
    ):
        run(saved, catalogue(), tmp_path / "store", weight=0.9)
    assert (
        run(saved, catalogue(), tmp_path / "store", weight=0.9, overwrite=True).stored
        == 10
    )


def test_a_store_of_other_fields_or_vectors_is_refused_before_anything_is_embedded(
    saved: str, catalogue: Catalogue, tmp_path: Path, forwards: list[int]
) -> None:
    run(saved, catalogue(), tmp_path / "store")
    forwards.clear()
    with pytest.raises(
        ValueError,
        match=r"was made with fields \{'price': 'int'\}, and this is \{\}; add --overwrite",
    ):
        run(saved, catalogue(), tmp_path / "store", fields=[])
    with pytest.raises(
        ValueError, match=r"was made with vectors .*; add --overwrite to make it again"
    ):
        run(saved, catalogue(), tmp_path / "store", vectors=["fused"])
    assert not forwards
    assert (
        run(
            saved, catalogue(), tmp_path / "store", vectors=["fused"], overwrite=True
        ).stored
        == 10
    )
    assert [
        name for name in stored(tmp_path / "store")["p0"] if name.startswith("vector_")
    ] == ["vector_fused"]


def test_a_calibrated_index_has_calibrated_vectors(
    saved: str, catalogue: Catalogue, tmp_path: Path, texts: list[str]
) -> None:
    means = [np.full(24, 0.02, np.float32), np.full(24, -0.03, np.float32)]
    save_calibration(Path(saved), Calibration(*means))
    run(saved, catalogue(), tmp_path / "plain", embeddings=tmp_path / "embeddings")
    run(
        saved,
        catalogue(),
        tmp_path / "store",
        embeddings=tmp_path / "calibrated",
        calibrated=True,
    )
    wanted = load(saved, device="cpu", calibrated=True).encode_document(texts[0])[0]
    np.testing.assert_allclose(
        stored(tmp_path / "store")["p0"]["vector_text"], wanted, rtol=0, atol=1e-6
    )
    opened = open_store(str(tmp_path / "store"))
    assert opened.schema.about["calibrated"] == "true"
    with pytest.raises(
        ValueError,
        match=r"was made with .* \(fingerprint .*; name another store, or add --overwrite",
    ):
        run(
            saved,
            one_more_input(tmp_path),
            tmp_path / "plain",
            embeddings=tmp_path / "embeddings",
            calibrated=True,
        )


def test_embeddings_of_another_model_are_not_mixed_in(
    saved: str, catalogue: Catalogue, tmp_path: Path, forwards: list[int]
) -> None:
    run(saved, catalogue(), tmp_path / "store", embeddings=tmp_path / "embeddings")
    forwards.clear()
    (tmp_path / "other.jsonl").write_text('{"title": "a hat"}\n', encoding="utf-8")
    save_calibration(
        Path(saved), Calibration(np.zeros(24, np.float32), np.full(24, 0.1, np.float32))
    )
    with pytest.raises(
        ValueError,
        match=r"rows.jsonl too, indexed with another model or weight; .*--embeddings",
    ):
        run(
            saved,
            str(tmp_path / "other.jsonl"),
            tmp_path / "new",
            embeddings=tmp_path / "embeddings",
            calibrated=True,
            image="",
            fields=[],
        )
    assert not forwards


def test_a_text_model_indexes_texts_and_keeps_thumbnails(
    tmp_path: Path, catalogue: Catalogue, model: DualEncoder, tokenizer: Tokenizer
) -> None:
    native.save(
        tmp_path / "texts",
        build_model(model.config.model_copy(update={"image": None})),
        tokenizer,
    )
    with pytest.warns(UserWarning, match="embeds text alone.* 'photo' ") as warned:
        run(str(tmp_path / "texts"), catalogue(), tmp_path / "store")
    assert len(warned) == 1
    rows = stored(tmp_path / "store")
    assert [name for name in rows["p0"] if name.startswith("vector_")] == [
        "vector_text"
    ]
    assert rows["p0"]["thumbnail"]
    with pytest.raises(
        ValueError, match=r"vectors has 'image', but .* embeds text alone"
    ):
        run(
            str(tmp_path / "texts"),
            catalogue(),
            tmp_path / "another",
            vectors=["image"],
        )


def test_a_try_that_stored_nothing_binds_nothing(saved: str, tmp_path: Path) -> None:
    store = str(tmp_path / "shop")
    day = write_day(tmp_path / "day.jsonl", {"a": 1})
    with pytest.raises(ValueError, match="all 1 rows"):
        index_day(saved, day, store, fields={"price": "title:int"})
    assert not Path(store).exists()
    assert index_day(saved, day, store, thumbnail=0, words=[]).stored == 1
    assert prices_in(store) == {"a": 1}


def test_a_file_in_the_place_of_a_store_is_refused_at_once(
    saved: str, tmp_path: Path, forwards: list[int]
) -> None:
    day = write_day(tmp_path / "day.jsonl", {"a": 1})
    (tmp_path / "file").touch()
    for overwrite in (False, True):
        with pytest.raises(
            ValueError,
            match=r"file is a file, and a store is a folder; name another place",
        ):
            index_day(saved, day, str(tmp_path / "file"), overwrite=overwrite)
    assert not forwards
