"""`unimodal calibrate`: fit a model's mean-centring on the images and captions of a data set."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from unimodal.tables.fields import Row

from .calibration import fit_calibration, save_calibration
from .config import apply_overrides, parse_config
from .embedder import load
from .progress import progress_bar
from .shards.config import PackConfig
from .shards.convert import image_sample
from .shards.find import COMPRESSED
from .shards.read import open_shards
from .shards.sample import Sample, captions_of, image_bytes_of
from .shards.storage import is_remote
from .tables.fields import image_folder
from .tables.readers import read_numbered_rows

SAMPLES_AT_A_TIME = 512  # their images are in memory


def calibrate_model(
    folder: Path,
    source: str,
    options: Sequence[str] = (),
    *,
    limit: int = 2000,
    seed: int = 0,
    device: str | None = None,
) -> tuple[int, int]:
    """Fit on texts and images of the training data, and write the means into the model directory.

    Returns the numbers of texts and of images.

    folder: a model directory with both towers.
    source: shards of images with captions (a tar, a folder of tars, a glob, a brace pattern or a
        URL); or a table, whose fields and rows `options` name as in `unimodal shards pack`:
        "image=photo", "captions=[title]", "where.split=train".
    limit: use at most N images, drawn by the seed; a mean's error falls with the root of their
        number.

    Warns of samples that cannot be used. Raises ValueError for a model or source that cannot be
    read, a model that lacks a tower, and fewer than two usable samples.
    """
    embedder = load(folder, device=device)
    if embedder.modalities != {"text", "image"}:
        raise ValueError(
            f"{folder} embeds {min(embedder.modalities)} alone, so there is no gap between "
            "modalities to close; give a model of text and image."
        )
    rng = np.random.default_rng(seed)
    samples = (
        _of_shards(source, limit, rng)
        if _are_shards(source)
        else _of_table(source, options, limit, rng)
    )
    text_vectors = []
    image_vectors = []
    faults: list[str] = []
    num_read = 0
    with progress_bar("calibrating", None) as advance:
        while block := list(itertools.islice(samples, SAMPLES_AT_A_TIME)):
            texts, images = _usable_parts(block, faults)
            if images:
                text_vectors.append(embedder.encode(texts, show_progress=False))
                image_vectors.append(embedder.encode(images, show_progress=False))
            num_read += len(block)
            advance(num_read)
    if not image_vectors:
        reason = faults[0] if faults else "it is empty"
        raise ValueError(f"{source} gives no image with a caption: {reason}")
    if faults:
        warnings.warn(
            f"{len(faults):,} samples of {source} cannot be used; the first: {faults[0]}",
            stacklevel=2,
        )
    all_texts = np.concatenate(text_vectors)
    all_images = np.concatenate(image_vectors)
    save_calibration(folder, fit_calibration(all_texts, all_images))
    return len(all_texts), len(all_images)


def _usable_parts(
    samples: Sequence[Sample], faults: list[str]
) -> tuple[list[str], list[bytes]]:
    """The captions and images of samples; `faults` gets the reasons of those that have none."""
    texts: list[str] = []
    images: list[bytes] = []
    for sample in samples:
        try:
            if sample.fault:
                raise ValueError(sample.fault)
            captions = captions_of(sample)
            images.append(image_bytes_of(sample))
        except ValueError as error:
            faults.append(str(error))
            continue
        texts += captions
    return texts, images


def _are_shards(source: str) -> bool:
    return (
        is_remote(source)
        or source.rstrip("}").endswith((".tar", *COMPRESSED))
        or (Path(source).is_dir() and any(Path(source).glob("*.tar*")))
    )


def _of_shards(source: str, limit: int, rng: np.random.Generator) -> Iterator[Sample]:
    shards = open_shards(source)
    ends = np.cumsum(shards.num_samples)
    drawn = np.sort(rng.choice(len(shards), min(limit, len(shards)), replace=False))
    for number, shard in zip(
        drawn, np.searchsorted(ends, drawn, side="right"), strict=True
    ):
        yield shards.read(
            int(shard), int(number - ends[shard] + shards.num_samples[shard])
        )
    for path, reason in shards.truncated.items():
        yield Sample("", {}, f"shard {path} is truncated ({reason})")


def _of_table(
    source: str, options: Sequence[str], limit: int, rng: np.random.Generator
) -> Iterator[Sample]:
    values = apply_overrides({"input": source}, options)
    if not values.get("image") or not values.get("captions"):
        raise ValueError(
            f"the fields of {source} are not set; add image=FIELD and captions=[FIELD]."
        )
    config = parse_config(PackConfig, values, source="options")
    folder = image_folder(source, config.image_root)
    bad: list[str] = []
    rows = read_numbered_rows(
        config, skip=lambda number, reason: bad.append(f"row {number}: {reason}")
    )
    for number, row in _drawn(rows, limit, rng):
        try:
            parts = image_sample(row, config, folder)
            fault = ""
        except ValueError as error:
            parts = {}
            fault = f"row {number}: {error}"
        yield Sample(str(number), parts, fault)
    for reason in bad:
        yield Sample("", {}, reason)


def _drawn(
    rows: Iterator[tuple[int, Row]], limit: int, rng: np.random.Generator
) -> list[tuple[int, Row]]:
    """A uniform sample of a stream of unknown length (reservoir sampling).

    Vitter, 1985, "Random sampling with a reservoir", algorithm R.
    """
    kept: list[tuple[int, Row]] = []
    for seen, row in enumerate(rows):
        if seen < limit:
            kept.append(row)
        elif (place := int(rng.integers(seen + 1))) < limit:
            kept[place] = row
    return kept
