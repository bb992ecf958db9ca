"""Mean-centring closes the gap between the texts and the images of a space.

Contrastive models leave texts in one narrow cone of the sphere and images in another (the
modality gap; Liang et al., 2022, https://arxiv.org/abs/2203.02053). Among images only, or texts
only, that does no harm; in an index that holds both, a text is nearer to any other text than to
the image it describes. Subtracting the mean of its modality from each vector, and normalising
again, moves both means to the same place.

The means are in the model directory as `calibration.safetensors`. The file is optional: removing
it removes the calibration, and a model that is saved again has none.

With fewer dimensions (matryoshka) a vector is centred first, at full length, and then truncated
and normalised: normalising only scales, so this equals truncating vector and mean alike. Hence
calibrated vectors may be stored and truncated later. A vector that was truncated and normalised
before cannot be centred exactly: its length is lost.

n vectors, D embedding dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from .files import replacing_file
from .vectors import Vectors, normalize
from .weights import write_tensors

CALIBRATION_FILE = "calibration.safetensors"
# Unit vectors with a smaller spread have no direction left once they are centred.
COLLAPSED = 1e-3


@dataclass(frozen=True, eq=False)
class Calibration:
    """The mean vectors of the texts and of the images of a space."""

    text_mean: Vectors  # (D,)
    image_mean: Vectors  # (D,)


def fit_calibration(text_vectors: Vectors, image_vectors: Vectors) -> Calibration:
    """Compute the means of both modalities.

    Fit them on training data or on an index, never on the labels of a test.

    text_vectors: (n, D), image_vectors: (m, D), unit vectors of full length; they need not be
        pairs.

    Raises ValueError for vectors of different lengths, that are not finite, or that are all equal.
    """
    if text_vectors.shape[1:] != image_vectors.shape[1:]:
        raise ValueError(
            f"texts of shape {text_vectors.shape} and images of shape {image_vectors.shape} are "
            "not in one space; encode both with one model."
        )
    return Calibration(_mean(text_vectors, "text"), _mean(image_vectors, "image"))


def centre(vectors: Vectors, mean: Vectors) -> Vectors:
    """Subtract the mean of a modality and normalise again -> (n, D) float32 unit vectors.

    A vector that equals the mean becomes zero.

    vectors: (n, D) unit vectors of full length.
    mean: (D,), `text_mean` or `image_mean`.
    """
    return normalize(vectors - mean)


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Write a calibration into a model directory, whole or not at all; replaces an earlier one.

    Raises ValueError if the folder is not a model directory.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} is not a model directory: config.json is missing; give a folder "
            "that unimodal has saved."
        )
    tensors = {
        "text_mean": torch.from_numpy(calibration.text_mean),
        "image_mean": torch.from_numpy(calibration.image_mean),
    }
    with replacing_file(folder / CALIBRATION_FILE) as part:
        write_tensors(part, tensors)


def load_calibration(folder: Path, embed_dim: int) -> Calibration:
    """Read the calibration of a model directory.

    embed_dim: the model's.

    Raises ValueError if there is none, or if it is broken or belongs to another model.
    """
    file = folder / CALIBRATION_FILE
    if not file.is_file():
        raise ValueError(
            f"{folder} has no {CALIBRATION_FILE}; make one with `unimodal calibrate`, or "
            "load it without."
        )
    try:
        found = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file} is not a readable safetensors file ({error}); calibrate the model again."
        ) from None
    shapes = {name: mean.shape for name, mean in found.items()}
    if shapes != {"text_mean": (embed_dim,), "image_mean": (embed_dim,)}:
        raise ValueError(
            f"{file} holds {shapes}, not the two means of {embed_dim} dimensions; "
            "calibrate the model again."
        )
    if not all(np.isfinite(mean).all() for mean in found.values()):
        raise ValueError(f"{file} holds NaN or infinity; calibrate the model again.")
    return Calibration(
        **{name: mean.astype(np.float32) for name, mean in found.items()}
    )


def _mean(vectors: Vectors, modality: str) -> Vectors:
    if len(vectors) < 2:
        raise ValueError(
            f"{len(vectors)} {modality} vector(s) are too few for a mean; give at "
            "least 2, better 1,000."
        )
    exact = vectors.astype(np.float64)
    if not np.isfinite(exact).all():
        raise ValueError(
            f"{modality} vectors hold NaN or infinity; the model has diverged or "
            "overflows its dtype."
        )
    spread = float(np.sqrt(exact.var(axis=0).sum()))
    if spread < COLLAPSED:
        raise ValueError(
            f"all {len(vectors)} {modality} vectors are equal (spread {spread:.1e}), so centring "
            "would leave nothing; check the model."
        )
    return np.asarray(exact.mean(axis=0), dtype=np.float32)
