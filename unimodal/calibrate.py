"""`unimodal calibrate`: fit a model's mean-centring on the images and captions of a table or of
shards.
"""

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

SAMPLES_AT_A_TIME = 512  # whose images are held


def calibrate_model(
    folder: Path,
    source: str,
    options: Sequence[str] = (),
    *,
    limit: int = 2000,
    seed: int = 0,
    device: str | None = None,
) -> tuple[int, int]:
    """Fit on texts and images of the training side, write the means into the model directory,
    return both counts.

    folder: a model directory with both towers.
    source: shards of images with captions (a tar, a folder of tars, a glob, a brace pattern or a
        URL); or a table, of which `options` say the fields and rows as in `unimodal shards pack`:
        "image=photo", "captions=[title]", "where.split=train".
    limit: take at most so many images, drawn by the seed; a mean's error falls with the root of
        their number.

    Warns of samples that cannot be used. Raises ValueError for a model or source that cannot be
    read, a model that lacks a tower, and fewer than two usable samples.
    """
    embedder = load(folder, device=device)
    if embedder.modalities != {"text", "image"}:
        raise ValueError(
            f"{folder} embeds {min(embedder.modalities)} alone; there is no gap between "
            "modalities to close."
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
            usable = list(_pairs(block, faults))
            if usable:
                captions = [caption for captions, _ in usable for caption in captions]
                text_vectors.append(embedder.encode(captions, show_progress=False))
                image_vectors.append(
                    embedder.encode([image for _, image in usable], show_progress=False)
                )
            num_read += len(block)
            advance(num_read)
    if not image_vectors:
        raise ValueError(
            f"{source} gives no image with a caption: {faults[0] if faults else 'it is empty'}"
        )
    if faults:
        warnings.warn(
            f"{len(faults):,} samples of {source} cannot be used; the first: {faults[0]}",
            stacklevel=2,
        )
    texts = np.concatenate(text_vectors)
    images = np.concatenate(image_vectors)
    save_calibration(folder, fit_calibration(texts, images))
    return len(texts), len(images)


def _pairs(
    samples: Sequence[Sample], faults: list[str]
) -> Iterator[tuple[list[str], bytes]]:
    """Captions and image of each; why one cannot be used goes to `faults`."""
    for sample in samples:
        try:
            if sample.fault:
                raise ValueError(sample.fault)
            yield captions_of(sample), image_bytes_of(sample)
        except ValueError as error:
            faults.append(str(error))


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
            f"which fields of {source} are meant is not said; add image=FIELD and captions=[FIELD]."
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
    """A uniform sample of a stream whose length is not known (reservoir sampling; Vitter, 1985,
    algorithm R).
    """
    kept: list[tuple[int, Row]] = []
    for seen, row in enumerate(rows):
        if seen < limit:
            kept.append(row)
        elif (place := int(rng.integers(seen + 1))) < limit:
            kept[place] = row
    return kept
