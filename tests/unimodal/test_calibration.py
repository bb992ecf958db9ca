"""Centred vectors have no mean; the means travel with the model directory and are checked when they
are read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from unimodal.calibration import (
    CALIBRATION_FILE,
    centre,
    fit_calibration,
    load_calibration,
    save_calibration,
)
from unimodal.vectors import Vectors


def cone(seed: int, direction: int, count: int = 300, dim: int = 16) -> Vectors:
    """Unit vectors around one axis."""
    vectors = np.random.default_rng(seed).standard_normal((count, dim))
    vectors[:, direction] += 8
    return np.asarray(
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_centring_closes_the_gap_between_the_means() -> None:
    texts = cone(0, 0)
    images = cone(1, 5)
    calibration = fit_calibration(texts, images)
    moved_texts = centre(texts, calibration.text_mean)
    moved_images = centre(images, calibration.image_mean)
    assert np.linalg.norm(texts.mean(axis=0) - images.mean(axis=0)) > 1
    assert np.linalg.norm(moved_texts.mean(axis=0) - moved_images.mean(axis=0)) < 0.1
    np.testing.assert_allclose(np.linalg.norm(moved_texts, axis=1), 1, atol=1e-6)
    assert moved_texts.dtype == np.float32


def test_a_centred_vector_is_the_difference_from_the_mean_normalised() -> None:
    texts = cone(0, 0)
    mean = texts.mean(axis=0)
    expected = [(text - mean) / np.linalg.norm(text - mean) for text in texts]
    np.testing.assert_allclose(
        centre(texts, fit_calibration(texts, cone(1, 5)).text_mean), expected, atol=1e-5
    )


def test_cutting_centred_vectors_equals_centring_cut_vectors_by_the_cut_mean() -> None:
    texts = cone(0, 0)
    mean = fit_calibration(texts, cone(1, 5)).text_mean
    cut = centre(texts, mean)[:, :4]
    cut /= np.linalg.norm(cut, axis=1, keepdims=True)
    np.testing.assert_allclose(cut, centre(texts[:, :4], mean[:4]), atol=1e-5)


def test_a_vector_that_is_the_mean_stays_finite() -> None:
    mean = cone(0, 0)[0]
    assert np.isfinite(centre(mean[None], mean)).all()


def test_a_saved_calibration_is_read_back_and_nothing_else_is_left(
    folder: Path,
) -> None:
    calibration = fit_calibration(cone(0, 0), cone(1, 5))
    save_calibration(folder, calibration)
    found = load_calibration(folder, 16)
    np.testing.assert_array_equal(found.text_mean, calibration.text_mean)
    np.testing.assert_array_equal(found.image_mean, calibration.image_mean)
    assert sorted(path.name for path in folder.iterdir()) == [
        CALIBRATION_FILE,
        "config.json",
    ]


def test_a_calibration_belongs_into_a_model_directory(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"not a model directory: config\.json is missing"
    ):
        save_calibration(tmp_path, fit_calibration(cone(0, 0), cone(1, 5)))


def test_a_model_without_calibration_says_how_to_make_one(folder: Path) -> None:
    with pytest.raises(ValueError, match="unimodal calibrate"):
        load_calibration(folder, 16)


@pytest.mark.parametrize(
    ("means", "message"),
    [
        (
            {"text_mean": np.zeros(16), "image_mean": np.zeros(8)},
            "not the two means of 16",
        ),
        ({"text_mean": np.zeros(16)}, "not the two means of 16"),
        ({"text_mean": np.zeros(16), "image_mean": np.full(16, np.nan)}, "NaN"),
    ],
)
def test_a_calibration_of_another_model_is_refused(
    folder: Path, means: dict[str, Vectors], message: str
) -> None:
    save_file(
        {name: mean.astype(np.float32) for name, mean in means.items()},
        folder / CALIBRATION_FILE,
    )
    with pytest.raises(ValueError, match=message):
        load_calibration(folder, 16)


def test_a_file_that_is_no_safetensors_is_refused(folder: Path) -> None:
    (folder / CALIBRATION_FILE).write_bytes(b"not tensors")
    with pytest.raises(ValueError, match="not a readable safetensors"):
        load_calibration(folder, 16)


def test_vectors_without_a_mean_to_speak_of_are_refused() -> None:
    texts = cone(0, 0)
    alike = np.repeat(cone(0, 0)[:1], 9, axis=0)
    with pytest.raises(ValueError, match="all 9 image vectors are equal"):
        fit_calibration(texts, alike)
    with pytest.raises(ValueError, match="encode both with one model"):
        fit_calibration(texts, texts[:, :8])
    with pytest.raises(ValueError, match=r"1 text vector\(s\)"):
        fit_calibration(texts[:1], texts)
    with pytest.raises(ValueError, match="NaN or infinity"):
        fit_calibration(texts, texts * np.float32("nan"))
