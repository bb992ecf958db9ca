"""`unimodal bench data`: from shards to batches, compared with the pipeline of open_clip.

That is webdataset, Pillow and float32 tensors.

open_clip_torch 3.3 with webdataset 1.0.2 fails on training shards (KeyError 'fname'), so the peer
is the stages that `open_clip_train.data` puts together, with webdataset's own reader of tars.
Images and captions: `photographs`.

B images of a batch, S image size, L tokens.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from unimodal.compare import BenchRow, Run, Tick, cpu_clock, make_row, measuring, timed
from unimodal.model_config import (
    ImageTowerConfig,
    ModelConfig,
    PreprocessConfig,
    TextTowerConfig,
)
from unimodal.photographs import draw_captions, draw_photograph, encode, pack
from unimodal.preprocess.tokenizers import load_tokenizer, pad_ids

from ..config import OptimConfig, SourceConfig, Stage, TaskConfig
from ..data.collate import Piece
from ..data.dataset import PiecePlace, StepDataset
from ..data.loader import steps_from
from ..data.transport import Shared

_NAME = "pictures"
# Both sides use its tokenizer.
CLIP = TextTowerConfig(library="open_clip", name="ViT-B-32")


class DataSizes(NamedTuple):
    """Amounts of data to read; smaller in the tests."""

    image_size: int = 224
    # Short sides of the JPEGs, and the targets.
    short_sides: tuple[tuple[int, str], ...] = (
        (256, ">= 3.3"),
        (512, ">= 2.8"),
    )
    drawn: int = 32  # different images
    images: int = 256
    batch: int = 128
    samples: int = 2048  # read without decoding
    captions: int = 4096
    sent: int = 12  # batches from a worker to the main process


FULL = DataSizes()


def bench_data(
    sizes: DataSizes = FULL, rounds: int = 3, threads: int | None = 1
) -> list[BenchRow]:
    """Time from shards to batches, and of the parts, in CPU seconds.

    Other load on the machine hardly changes CPU seconds.
    """
    ticks = 2 * (rounds + 1) * (len(sizes.short_sides) + 2) + 2 * rounds
    with (
        measuring("bench data", ticks, threads) as tick,
        tempfile.TemporaryDirectory() as name,
    ):
        largest = max(short for short, _ in sizes.short_sides)
        drawn = [draw_photograph(seed, largest) for seed in range(sizes.drawn)]
        rows = []
        for short, target in sizes.short_sides:
            images = [encode(image, short) for image in drawn]
            rows.append(
                _from_shards_to_batches(
                    images, short, target, Path(name), sizes, rounds, tick
                )
            )
        shortest = min(short for short, _ in sizes.short_sides)
        smallest = [encode(image, shortest) for image in drawn]
        rows.append(_without_decoding(smallest, Path(name), sizes, rounds, tick))
        rows += _from_worker_to_main(Path(name), sizes, rounds, tick)
        return [*rows, _tokenising(sizes, rounds, tick)]


def _from_shards_to_batches(
    images: Sequence[bytes],
    short: int,
    target: str,
    root: Path,
    sizes: DataSizes,
    rounds: int,
    tick: Tick,
) -> BenchRow:
    shards = pack(images, sizes.images, root / f"{short} px")
    dataset = open_dataset(shards[0].parent, sizes)
    theirs = open_clip_batches(shards, sizes)

    def ours_run() -> list[Tensor]:
        steps = steps_from(dataset, 0, sizes.images // sizes.batch, workers=0)
        return [
            _count_values(
                batch.pixels
                for batches in steps
                for batch in batches
                if batch.pixels is not None
            )
        ]

    runs: dict[str, Run] = {
        f"{short} px, ours": ours_run,
        f"{short} px, open_clip": lambda: [
            _count_values(pixels for pixels, _ in theirs())
        ],
    }
    ours, peer = timed(runs, rounds, tick, clock := cpu_clock()).values()
    size = sum(map(len, images)) / len(images) / 1000
    name = (
        f"{sizes.images} JPEGs of {short} px and {size:.0f} KB with captions, from shards to "
        f"batches of {sizes.batch} at {sizes.image_size} px"
    )
    return make_row(
        name, f"{_open_clip()} over {_webdataset()}", target, ours, peer, clock.unit
    )


def _count_values(batches: Iterator[Tensor]) -> Tensor:
    """() the number of values in all batches."""
    return torch.tensor(sum(pixels.numel() for pixels in batches))


def open_dataset(
    folder: Path, sizes: DataSizes, kind: type[StepDataset] = StepDataset
) -> StepDataset:
    """Our loader of the shards in a folder: every step is one batch of images."""
    tokenizer, text = load_tokenizer(CLIP)
    task = TaskConfig(
        kind="image-text",
        sources={_NAME: SourceConfig(path=folder.name)},
        global_batch=sizes.batch,
    )
    stage = Stage(
        name=_NAME,
        steps=1000,
        schedule="alternate",
        tasks={_NAME: task},
        optim=OptimConfig(),
    )
    preprocess = PreprocessConfig(image_size=sizes.image_size)
    model = ModelConfig(
        embed_dim=1, image=ImageTowerConfig(name="-"), text=text, preprocess=preprocess
    )
    return kind([stage], str(folder.parent), model, tokenizer, seed=0)


def open_clip_batches(
    shards: Sequence[Path], sizes: DataSizes
) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    """The stages of open_clip_train's `get_wds_dataset` for training.

    Its batches are (B, 3, S, S) float32 and (B, L) int64.
    """
    import open_clip
    from open_clip.transform import AugmentationCfg, image_transform

    wds = _import_webdataset()
    tokenizer = open_clip.get_tokenizer(CLIP.name)
    stages = [
        wds.SimpleShardList([str(shard) for shard in shards]),
        wds.tarfile_to_samples(),
        wds.shuffle(5000, initial=1000),
        wds.select(lambda sample: "txt" in sample and "jpg" in sample),
        wds.decode("pilrgb"),
        wds.rename(image="jpg;png;jpeg;webp", text="txt"),
        wds.map_dict(
            image=image_transform(
                sizes.image_size, is_train=True, aug_cfg=AugmentationCfg()
            ),
            text=lambda text: tokenizer(text)[0],
        ),
        wds.to_tuple("image", "text"),
        wds.batched(sizes.batch, partial=False),
    ]
    return lambda: iter(wds.DataPipeline(*stages))


def _without_decoding(
    images: Sequence[bytes], root: Path, sizes: DataSizes, rounds: int, tick: Tick
) -> BenchRow:
    shards = pack(images, sizes.samples, root / "samples")
    dataset = open_dataset(shards[0].parent, sizes)
    (order,) = dataset.plan.orders.values()
    (shard_set,) = dataset.shards.values()
    wds = _import_webdataset()

    def ours_run() -> list[Tensor]:
        count = 0
        for step in range(sizes.samples // sizes.batch):
            count += len(
                shard_set.read_many(order.samples_at(0, step, range(sizes.batch)))
            )
        return [torch.tensor(count)]

    def peer_run() -> list[Tensor]:
        names = [str(shard) for shard in shards]
        return [
            torch.tensor(
                sum(
                    1
                    for _ in wds.DataPipeline(
                        wds.SimpleShardList(names), wds.tarfile_to_samples()
                    )
                )
            )
        ]

    ours, peer = timed(
        {"samples, ours": ours_run, "samples, webdataset": peer_run},
        rounds,
        tick,
        clock := cpu_clock(),
    ).values()
    name = (
        f"{sizes.samples:,} samples (.jpg, .txt, .json) from shards as bytes; ours in "
        "training's order"
    )
    return make_row(
        name,
        f"{_webdataset()} tarfile_to_samples, in the tar's order",
        ">= 10",
        ours,
        peer,
        clock.unit,
    )


def _from_worker_to_main(
    root: Path, sizes: DataSizes, rounds: int, tick: Tick
) -> list[BenchRow]:
    pack([b"never decoded"], sizes.batch, root / "sent")
    dataset = open_dataset(root / "sent", sizes, ReadyPieces)
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "float32": []}
    for _ in range(rounds):
        tick("one worker, ours")
        batches = (batch for (batch,) in steps_from(dataset, 0, sizes.sent, workers=1))
        found["ours"].append(
            _cpu_and_bytes(
                (batch.keys[0], [batch.pixels, batch.texts.flat, batch.ids])
                for batch in batches
            )
        )
        tick("one worker, float32")
        loader: DataLoader[Any] = DataLoader(
            ReadyBatches(sizes),
            batch_size=None,
            num_workers=1,
            multiprocessing_context="forkserver",
        )
        found["float32"].append(
            _cpu_and_bytes((seconds, tensors) for seconds, *tensors in loader)
        )
    (seconds, size), (their_seconds, their_size) = map(_medians, found.values())
    name = (
        f"a batch of {sizes.batch} decoded images of {sizes.image_size} px from one worker "
        "to the main process"
    )
    peer = (
        "torch DataLoader of float32 images and padded int64 texts, as open_clip's "
        "pipeline gives"
    )
    return [
        make_row(f"{name}: bytes", peer, "<= 0.25", size / 1e6, their_size / 1e6, "MB"),
        make_row(
            f"{name}: time of both",
            peer,
            "<= 0.2",
            seconds,
            their_seconds,
            "CPU s, both processes",
        ),
    ]


def _cpu_and_bytes(
    items: Iterator[tuple[Any, Sequence[Tensor | None]]],
) -> tuple[float, float]:
    """CPU seconds of both processes and bytes, both per batch.

    The time starts with the first batch, so that it does not include the start-up.

    items: the CPU seconds of the worker when it made the batch, and the batch's tensors. One value
        of each page is read: memory that was never touched has not arrived.
    """
    times = []
    sizes = []
    for worker, tensors in items:
        for tensor in tensors:
            assert tensor is not None
            tensor.view(-1)[:: 4096 // tensor.element_size()].sum()
        times.append(time.process_time() + float(worker))
        sizes.append(sum(tensor.nbytes for tensor in tensors if tensor is not None))
    return (times[-1] - times[0]) / (len(times) - 1), statistics.mean(sizes)


class ReadyPieces(StepDataset):
    """Our batches of images that are already decoded: they are only stacked and sent.

    The first key is the CPU time of the worker.
    """

    def __getitem__(self, place: PiecePlace) -> Piece:
        size = self._model.preprocess.image_size
        count = place.stop - place.start
        images: list[NDArray[np.uint8]] = [np.zeros((3, size, size), np.uint8)] * count
        return Piece(
            keys=[str(time.process_time())] * count,
            pixels=Shared(np.stack(images)),
            texts=[(np.zeros(16 * count, np.int32), [16] * count)],
            ids=np.zeros((count, 3), np.int64),
            scores=np.zeros((count, 0)),
            skipped=[],
        )


class ReadyBatches(IterableDataset[tuple[float, Tensor, Tensor]]):
    """The peer's batches of decoded images, with the CPU time of the worker."""

    def __init__(self, sizes: DataSizes) -> None:
        self._sizes = sizes

    def __iter__(self) -> Iterator[tuple[float, Tensor, Tensor]]:
        size = self._sizes.image_size
        count = self._sizes.batch
        image = torch.zeros(3, size, size)
        tokens = torch.zeros(CLIP.max_length, dtype=torch.int64)
        for _ in range(self._sizes.sent):
            yield (
                time.process_time(),
                torch.stack([image] * count),
                torch.stack([tokens] * count),
            )


def _medians(rows: Sequence[Sequence[float]]) -> list[float]:
    """The median of each column."""
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def _tokenising(sizes: DataSizes, rounds: int, tick: Tick) -> BenchRow:
    import open_clip

    captions = draw_captions(sizes.captions)
    tokenizer, config = load_tokenizer(CLIP)
    their_tokenizer = open_clip.get_tokenizer(CLIP.name)

    def ours_run() -> list[Tensor]:
        cuts = (
            captions[start : start + sizes.batch]
            for start in range(0, len(captions), sizes.batch)
        )
        return [
            torch.cat(
                [
                    pad_ids(tokenizer(cut), config.pad_id, config.max_length)[0]
                    for cut in cuts
                ]
            )
        ]

    def peer_run() -> list[Tensor]:
        return [torch.stack([their_tokenizer(caption)[0] for caption in captions])]

    if not torch.equal(ours_run()[0], peer_run()[0]):
        raise FloatingPointError(
            "our token ids differ from those of open_clip, so their times cannot be compared; "
            "check the versions of open_clip_torch and tokenizers."
        )
    ours, peer = timed(
        {"captions, ours": ours_run, "captions, open_clip": peer_run},
        rounds,
        tick,
        clock := cpu_clock(),
    ).values()
    name = f"token ids of {sizes.captions:,} captions, the same ids, padded to {config.max_length}"
    return make_row(
        name,
        f"{_open_clip()} SimpleTokenizer, a caption at a time",
        ">= 2.5",
        ours,
        peer,
        clock.unit,
    )


def _import_webdataset() -> Any:
    try:
        import webdataset
    except ImportError:
        raise ImportError(
            'bench needs webdataset: pip install "unimodal[train]".'
        ) from None
    return webdataset


def _open_clip() -> str:
    return f"open_clip {version('open_clip_torch')}"


def _webdataset() -> str:
    return f"webdataset {version('webdataset')}"
