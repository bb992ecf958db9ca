"""Broken samples in shards: each is reported once it is read, and every batch is full."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Recipe
from tests.torture.conftest import Figure, Start, add_sample, captions_of, make_image
from tests.torture.runs import dataset_of
from training.config import TrainConfig
from training.data.loader import steps_from

SAMPLES = 768
GLOBAL_BATCH = 48  # 16 batches: an epoch reads every sample once
STEPS = SAMPLES // GLOBAL_BATCH
CAPTION = b'{"captions": ["a red mug"]}'


def jpeg(number: int) -> bytes:
    """A noisy image of 64 x 48 as JPEG, progressive every other time."""
    draw = np.random.default_rng(number)
    file = io.BytesIO()
    pixels = draw.integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", progressive=bool(number % 2))
    return file.getvalue()


def flipped(content: bytes, at: int, mask: int = 0xFF) -> bytes:
    """The content with some bits of one byte flipped."""
    return content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :]


def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """A PNG of a few hundred bytes whose header claims that size; its checksums are right."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body))
            + kind
            + body
            + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 999))
        + chunk(b"IEND", b"")
    )


def broken(number: int) -> tuple[bytes, bytes, str]:
    """The image, the .json and the kind of a broken sample."""
    png = make_image(number, np.random.default_rng(number))
    kinds: list[tuple[bytes, bytes, str]] = [
        (jpeg(number)[: len(jpeg(number)) // 2], CAPTION, "cut jpeg"),
        (jpeg(number)[:-2], CAPTION, "jpeg without its end"),
        (png[: len(png) * 2 // 3], CAPTION, "cut png"),
        (b"<html><body>404 Not Found</body></html>", CAPTION, "html"),
        (b"", CAPTION, "empty image"),
        (bomb(), CAPTION, "bomb"),
        (flipped(jpeg(number), 1), CAPTION, "jpeg, start marker flipped"),
        (flipped(jpeg(number), 3), CAPTION, "jpeg, second marker flipped"),
        (flipped(png, 18, 1), CAPTION, "png, width flipped"),
        (png, b'{"captions": ["a \xff\xfe mug"]}', "caption not UTF-8"),
        (png, b'{"captions": ["a mug"', "json cut"),
        (png, b'{"captions": ["  "]}', "caption empty"),
        (png, b"[]", "json no object"),
    ]
    return kinds[number % len(kinds)]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder of four tars with 768 samples, and the kinds of the broken ones by key.

    One in 15 is broken, at random places.
    """
    folder = tmp_path_factory.mktemp("planted")
    draw = np.random.default_rng(2)
    numbers = set(draw.choice(SAMPLES, SAMPLES // 15, replace=False).tolist())
    kinds: dict[str, str] = {}
    for shard in range(4):
        with tarfile.open(folder / f"{shard:06}.tar", "w") as tar:
            for number in range(shard * 192, (shard + 1) * 192):
                if number in numbers:
                    image, captions, kinds[f"{number:06}"] = broken(len(kinds))
                else:
                    image = make_image(number, draw)
                    captions = captions_of(number)
                add_sample(tar, f"{number:06}", image, captions)
    return folder, kinds


@pytest.fixture
def config(recipe: Recipe, planted: tuple[Path, dict[str, str]]) -> TrainConfig:
    """One epoch of the broken shards."""
    task = {
        "global_batch": GLOBAL_BATCH,
        "sources": {"squares": {"path": str(planted[0])}},
    }
    return recipe(
        {"steps": STEPS, "max_skipped": 0.5, "tasks": {"pictures": task, "pairs": None}}
    )


@pytest.mark.parametrize(
    ("world_size", "workers"), [(1, 0), pytest.param(3, 2, marks=pytest.mark.torture)]
)
def test_every_broken_sample_is_reported_and_every_batch_is_full(
    config: TrainConfig,
    planted: tuple[Path, dict[str, str]],
    world_size: int,
    workers: int,
    figure: Figure,
) -> None:
    kinds = planted[1]
    reported: set[str] = set()
    for rank in range(world_size):
        for (batch,) in steps_from(
            dataset_of(config, rank, world_size), 0, STEPS, workers
        ):
            assert len(batch.keys) == GLOBAL_BATCH // world_size
            assert not set(batch.keys) & set(kinds)
            reported |= {one.key for one in batch.skipped}
            assert all(
                one.reason and Path(one.shard).parent == planted[0]
                for one in batch.skipped
            )
    missed = Counter(kind for key, kind in kinds.items() if key not in reported)
    assert not missed
    assert reported == set(kinds)
    figure(
        f"broken samples of {SAMPLES} planted ({world_size} ranks, {workers} workers)",
        len(kinds),
        "samples",
    )
    figure("of them reported", len(reported & set(kinds)), "samples")
    figure("reported that were sound", len(reported - set(kinds)), "samples")


@pytest.mark.torture
def test_a_run_goes_through_all_of_them_and_lists_them_with_their_reasons(
    config: TrainConfig, planted: tuple[Path, dict[str, str]], start: Start
) -> None:
    life = start(config)
    assert life.wait(60) == 0, life.output()
    lines = [
        json.loads(line)
        for line in (Path(config.run) / "skipped.jsonl").read_text().splitlines()
    ]
    assert {line["key"] for line in lines} == set(planted[1])
    assert all(
        line["reason"] and line["shard"] and 0 < line["step"] <= STEPS for line in lines
    )


def test_a_bomb_is_refused_by_its_header(config: TrainConfig) -> None:
    import tracemalloc

    from unimodal.preprocess.images import decode_image

    tracemalloc.start()
    with pytest.raises(ValueError, match="pixels"):
        decode_image(bomb())
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
