"""Mean-centring: what puts texts and images of one space into the same place.

Contrastive models leave texts in one narrow cone of the sphere and images in another (the
modality gap; Liang et al., 2022, https://arxiv.org/abs/2203.02053). Among images alone, or texts
alone, that does no harm; in an index that holds both, a text is nearer to any other text than to
the image it describes. Subtracting from each vector the mean of its modality, and normalising
again, closes the gap of the means.

The means lie in the model directory as `calibration.safetensors`, an optional file: to remove it is
to remove the calibration, and a model that is saved anew has none.

With fewer dimensions (matryoshka) a vector is centred first, at full length, and then cut and
normalised: a normalisation only scales, so this is the same as cutting vector and mean alike. Hence
calibrated vectors may be stored and cut later. A vector that was cut and normalised before cannot
be centred exactly any more: its length is lost.

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
# a spread of unit vectors below which nothing is left of them once they are centred
COLLAPSED = 1e-3


@dataclass(frozen=True, eq=False)
class Calibration:
    """Where the texts and the images of a space lie on average."""

    text_mean: Vectors  # (D,)
    image_mean: Vectors  # (D,)


def fit_calibration(text_vectors: Vectors, image_vectors: Vectors) -> Calibration:
    """The means of both modalities; fit it on what the model was trained on, or on an index, never
    on a test's labels.

    text_vectors: (n, D), image_vectors: (m, D), unit vectors of full length; they need not belong
        together.

    Raises ValueError for vectors of different lengths, that are not finite, or that are all alike.
    """
    if text_vectors.shape[1:] != image_vectors.shape[1:]:
        raise ValueError(
            f"texts of shape {text_vectors.shape} and images of {image_vectors.shape} are not "
            "of one space; encode both with one model."
        )
    return Calibration(_mean(text_vectors, "text"), _mean(image_vectors, "image"))


def centre(vectors: Vectors, mean: Vectors) -> Vectors:
    """Vectors without the mean of their modality, normalised again -> (n, D) float32 unit vectors.

    vectors: (n, D) unit vectors of full length. mean: (D,), `text_mean` or `image_mean`.
    A vector that equals the mean has no direction left and stays zero.
    """
    return normalize(vectors - mean)


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Write it into a model directory, whole or not at all, in place of one that is there.

    Raises ValueError if the folder is not a model directory.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} is not a model directory: config.json is missing; give a folder "
            "written by unimodal."
        )
    tensors = {"text_mean": calibration.text_mean, "image_mean": calibration.image_mean}
    with replacing_file(folder / CALIBRATION_FILE) as part:
        write_tensors(
            part, {name: torch.from_numpy(mean) for name, mean in tensors.items()}
        )


def load_calibration(folder: Path, embed_dim: int) -> Calibration:
    """Read the calibration of a model directory; embed_dim: that of the model.

    Raises ValueError if there is none, or if it is broken or of another model.
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
            f"{len(vectors)} {modality} vector(s) have no mean to speak of; give at "
            "least 2, better 1,000."
        )
    exact = vectors.astype(np.float64)
    if not np.isfinite(exact).all():
        raise ValueError(
            f"{modality} vectors hold NaN or infinity; the model has diverged or "
            "overflows its precision."
        )
    spread = float(np.sqrt(exact.var(axis=0).sum()))
    if spread < COLLAPSED:
        raise ValueError(
            f"all {len(vectors)} {modality} vectors are alike (spread {spread:.1e}); "
            "nothing would be left."
        )
    return np.asarray(exact.mean(axis=0), dtype=np.float32)
