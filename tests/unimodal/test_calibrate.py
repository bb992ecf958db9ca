"""A model is calibrated on a table or on shards, and finds what it was calibrated on centred."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unimodal.calibrate import _drawn, calibrate_model
from unimodal.calibration import centre, load_calibration
from unimodal.embedder import load
from unimodal.formats import native
from unimodal.model import build_model
from unimodal.model_config import ModelConfig
from unimodal.preprocess.tokenizers import Tokenizer
from unimodal.shards.config import PackConfig
from unimodal.shards.write import pack


@pytest.fixture
def model(tiny: ModelConfig, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    native.save(tmp_path / "model", build_model(tiny), tokenizer)
    return tmp_path / "model"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = []
    for number, colour in enumerate(
        ("red", "green", "blue", "black", "white", "orange")
    ):
        Image.new("RGB", (32 + number, 32), colour).save(tmp_path / f"{number}.png")
        side = "train" if number < 4 else "test"
        rows.append(
            {
                "photo": f"{number}.png",
                "title": f"a {colour} ball",
                "note": f"{number} hats",
                "side": side,
            }
        )
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


OPTIONS = ["image=photo", "captions=[title, note]", "where.side=train"]


def test_the_means_are_those_of_the_wanted_rows(model: Path, table: Path) -> None:
    assert calibrate_model(model, str(table), OPTIONS) == (8, 4)
    embedder = load(model)
    found = load_calibration(model, 24)
    texts = [
        text
        for n, colour in enumerate(("red", "green", "blue", "black"))
        for text in (f"a {colour} ball", f"{n} hats")
    ]
    images = [table.parent / f"{number}.png" for number in range(4)]
    np.testing.assert_allclose(
        found.text_mean, embedder.encode(texts).mean(axis=0), atol=1e-6
    )
    np.testing.assert_allclose(
        found.image_mean, embedder.encode(images).mean(axis=0), atol=1e-6
    )
    assert (
        np.abs(centre(embedder.encode(images), found.image_mean).mean(axis=0)).max()
        < 0.3
    )


def test_shards_give_what_their_table_gives(
    model: Path, table: Path, tmp_path: Path
) -> None:
    calibrate_model(model, str(table), OPTIONS)
    expected = load_calibration(model, 24)
    config = PackConfig(
        input="rows.jsonl",
        image="photo",
        captions=("title", "note"),
        where={"side": "train"},
        samples_per_shard=3,
    )
    pack(config, tmp_path / "shards", tmp_path)
    assert calibrate_model(model, str(tmp_path / "shards")) == (8, 4)
    found = load_calibration(model, 24)
    np.testing.assert_allclose(found.text_mean, expected.text_mean, atol=1e-6)
    np.testing.assert_allclose(found.image_mean, expected.image_mean, atol=1e-6)
    assert calibrate_model(model, str(tmp_path / "shards" / "*.tar"), limit=2)[1] == 2


def test_a_limit_draws_rows_by_the_seed(model: Path, table: Path) -> None:
    means = []
    for seed in (0, 0, 1):
        assert calibrate_model(model, str(table), OPTIONS[:2], limit=3, seed=seed) == (
            6,
            3,
        )
        means.append(load_calibration(model, 24).image_mean)
    np.testing.assert_array_equal(means[0], means[1])
    assert np.abs(means[0] - means[2]).max() > 1e-4


def test_rows_that_cannot_be_used_are_counted_in_a_warning(
    model: Path, table: Path
) -> None:
    (table.parent / "1.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="1 samples .* the first: row 1: "):
        assert calibrate_model(model, str(table), OPTIONS) == (6, 3)


def test_a_line_that_is_not_a_row_and_a_shard_that_was_cut_short_are_in_the_warning(
    model: Path, table: Path, tmp_path: Path
) -> None:
    pack(
        PackConfig(input="rows.jsonl", image="photo", captions=("title", "note")),
        tmp_path / "shards",
        tmp_path,
    )
    with table.open("a", encoding="utf-8") as file:
        file.write("[1]\n")

    with pytest.warns(
        UserWarning, match="1 samples .* the first: row .* is a list, not an object"
    ):
        calibrate_model(model, str(table), OPTIONS)

    shard = tmp_path / "shards" / "000000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(
        UserWarning, match="1 samples .* the first: shard .*000000.tar is truncated"
    ):
        calibrate_model(model, str(tmp_path / "shards"))


def test_a_table_needs_its_fields_named(model: Path, table: Path) -> None:
    with pytest.raises(ValueError, match="add image=FIELD"):
        calibrate_model(model, str(table))


def test_a_source_without_usable_images_says_why(model: Path, table: Path) -> None:
    with pytest.raises(ValueError, match="no image with a caption: row 0: "):
        calibrate_model(model, str(table), ["image=title", "captions=[note]"])


def test_a_text_model_has_no_gap(
    tiny: ModelConfig, tokenizer: Tokenizer, table: Path, tmp_path: Path
) -> None:
    config = ModelConfig(embed_dim=24, text=tiny.text)
    native.save(tmp_path / "text", build_model(config), tokenizer)
    with pytest.raises(ValueError, match="embeds text alone"):
        calibrate_model(tmp_path / "text", str(table), OPTIONS)


def test_every_row_of_a_long_table_is_as_likely() -> None:
    counts = np.zeros(5)
    for seed in range(2000):
        rows = iter([(number, {"row": number}) for number in range(5)])
        counts[
            [number for number, _ in _drawn(rows, 2, np.random.default_rng(seed))]
        ] += 1
    np.testing.assert_allclose(counts / 2000, 2 / 5, atol=0.05)


def test_a_model_loaded_calibrated_gives_centred_vectors_under_a_fingerprint_of_its_own(
    model: Path, table: Path
) -> None:
    with pytest.raises(ValueError, match="calibrat"):
        load(model, calibrated=True)
    calibrate_model(model, str(table), OPTIONS)
    plain = load(model)
    calibrated = load(model, calibrated=True)
    means = load_calibration(model, 24)
    picture = table.parent / "5.png"
    expected = np.concatenate(
        [
            centre(plain.encode("a ball"), means.text_mean),
            centre(plain.encode(picture), means.image_mean),
        ]
    )
    np.testing.assert_allclose(
        calibrated.encode(["a ball", picture]), expected, atol=1e-6
    )
    cut = expected[:, :8] / np.linalg.norm(expected[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(
        calibrated.encode(["a ball", picture], truncate_dim=8), cut, atol=1e-6
    )
    assert calibrated.fingerprint() != plain.fingerprint()
