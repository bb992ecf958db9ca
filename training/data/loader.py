"""Reading: one stock DataLoader over the whole schedule. An item is a piece of a batch of one rank.

So what waits between workers and training is so many pieces, however large the global batch.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from multiprocessing.util import get_temp_dir
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from unimodal.model_config import ModelConfig
from unimodal.preprocess.tokenizers import Tokenizer
from unimodal.shards.config import StorageConfig
from unimodal.shards.find import below
from unimodal.shards.read import ShardSet, open_shards
from unimodal.shards.sample import Sample

from ..config import SourceConfig, Stage
from .collate import Batch, Example, Piece, Skipped, collate, make_example, merge
from .mixture import BatchPlace, Plan, make_order
from .order import Order, generator, slots_of_rank

MAX_SUBSTITUTES = 16
PIECE = 128  # samples: 20 MB of images at 224 pixels
_AHEAD = 1 << 30  # bytes of pieces that may wait for training


class PiecePlace(NamedTuple):
    """Some of a rank's slots of a batch: positions in its list of slots."""

    batch: BatchPlace
    start: int
    stop: int


class StepDataset(Dataset[Piece]):
    """Where a piece lies -> the piece; a pure function, so workers share nothing."""

    def __init__(
        self,
        stages: Sequence[Stage],
        data_root: str,
        model: ModelConfig,
        tokenizer: Tokenizer,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        storage: StorageConfig | None = None,
    ) -> None:
        """Opens every source; raises ValueError for a missing or too small one, and if ranks do not
        fit the streams.
        """
        assert model.text is not None
        self._stages = stages
        self._model = model
        self._seed = seed
        self._root = data_root
        self.shards: dict[str, ShardSet] = {}  # by the name of the source's path
        self._slots: dict[tuple[int, str], list[int]] = {}
        lengths = {task.max_length for stage in stages for task in stage.tasks.values()}
        self._tokenizers = {
            length: tokenizer.with_max_length(model.text, length) for length in lengths
        }
        self._prefetched: dict[
            tuple[object, ...], tuple[int, int]
        ] = {}  # of each source: epoch and window
        orders = {}
        for number, stage in enumerate(stages):
            for name, task in stage.tasks.items():
                if task.max_length > model.text.max_length:
                    raise ValueError(
                        f"max_length {task.max_length} of task {name!r} is over the text tower's "
                        f"{model.text.max_length}; set tasks.{name}.max_length to "
                        f"{model.text.max_length}."
                    )
                self._slots[number, name] = slots_of_rank(
                    task.global_batch, task.num_streams, rank, world_size
                )
                for source, settings in task.sources.items():
                    shards = self._open(
                        settings, storage, show_progress=None if rank == 0 else False
                    )
                    key = (seed, number, name, source)
                    orders[number, name, source] = make_order(
                        name, task, source, shards.num_samples, key
                    )
        self.plan = Plan(stages, orders)
        self._fingerprints = {
            path: shards.fingerprint() for path, shards in self.shards.items()
        }

    def _open(
        self,
        settings: SourceConfig,
        storage: StorageConfig | None,
        show_progress: bool | None,
    ) -> ShardSet:
        name = _name(settings)
        if name not in self.shards:
            paths = [below(self._root, path) for path in settings.paths]
            pattern = paths[0] if len(paths) == 1 else paths
            self.shards[name] = open_shards(pattern, show_progress, storage)
        return self.shards[name]

    def __getitem__(self, place: PiecePlace) -> Piece:
        batch = place.batch
        task = self._stages[batch.stage].tasks[batch.task]
        slots = self._slots[batch.stage, batch.task]
        places = [
            self.plan.slot_at(batch, slot) for slot in slots[place.start : place.stop]
        ]
        self._prefetch(batch, {at.source: at for at, _ in places}.values())
        skipped: list[Skipped] = []
        samples = (
            self._read_mixed(places)
            if task.mixed
            else self._read(batch, slots[place.start : place.stop])
        )
        examples = [
            self._example(at, slot, sample, skipped)
            for (at, slot), sample in zip(places, samples, strict=True)
        ]
        return collate(examples, skipped, self._tokenizers[task.max_length])

    def pieces_of(self, place: BatchPlace) -> Iterator[PiecePlace]:
        """The pieces of a batch."""
        size = self.size_of(place)
        return (
            PiecePlace(place, start, min(start + PIECE, size))
            for start in range(0, size, PIECE)
        )

    def size_of(self, place: BatchPlace) -> int:
        """Samples of a batch that are this rank's."""
        return len(self._slots[place.stage, place.task])

    @property
    def is_small(self) -> bool:
        """Whether the next step's images may wait beside those of the one that is computed."""
        return self._pieces_in_step() <= self._pieces_in_memory()

    def num_ahead(self) -> int:
        """Pieces that may wait for training: those of the largest step, if memory bounds them not
        sooner.
        """
        return max(2, min(self._pieces_in_memory(), 2 * self._pieces_in_step()))

    def _pieces_in_memory(self) -> int:
        size = self._model.preprocess.image_size
        images = any(
            task.kind == "image-text"
            for stage in self._stages
            for task in stage.tasks.values()
        )
        return _AHEAD // (PIECE * 3 * size * size if images else 1 << 20)

    def _pieces_in_step(self) -> int:
        return max(
            sum(
                task.accumulate * -(-len(self._slots[number, name]) // PIECE)
                for name, task in stage.tasks.items()
            )
            for number, stage in enumerate(self._stages)
        )

    def fingerprints(self) -> dict[str, str]:
        """Of the shards behind each path: data that changed cannot be resumed on."""
        return dict(self._fingerprints)

    def shard_rows(self) -> list[dict[str, Any]]:
        """Of every shard: its source's path, name, samples, digest (of a few places), hash of all
        samples, cut.
        """
        return [
            {
                "path": path,
                "shard": str(shard).rpartition("/")[2],
                "samples": samples,
                "digest": digest,
                "contents": contents,
                "cut": shards.truncated.get(shard, ""),
            }
            for path, shards in self.shards.items()
            for shard, samples, digest, contents in zip(
                shards.paths,
                shards.num_samples,
                shards.digests,
                shards.contents,
                strict=True,
            )
        ]

    def seen(self, step: int) -> list[dict[str, Any]]:
        """What a model has seen before a step: the samples of each source in each epoch."""
        rows = self.plan.seen(step)
        for row in rows:
            number = row.pop("number")
            row["path"] = _name(
                self._stages[number].tasks[row["task"]].sources[row["source"]]
            )
        return rows

    def digest(self, steps: int) -> str:
        """Of what is read when, at up to 256 steps of `steps`: ranks must agree on it."""
        spread = range(0, steps, max(1, steps // 256))
        places = [place for step in spread for place in self.plan.batches_at(step)]
        firsts = [self._sample_at(*self.plan.slot_at(place, 0)) for place in places]
        return hashlib.blake2b(
            repr((places, firsts)).encode(), digest_size=8
        ).hexdigest()

    def _source(self, place: BatchPlace) -> tuple[Order, ShardSet]:
        settings = self._stages[place.stage].tasks[place.task].sources[place.source]
        return self.plan.orders[place.stage, place.task, place.source], self.shards[
            _name(settings)
        ]

    def _sample_at(self, place: BatchPlace, slot: int) -> tuple[int, int]:
        return self._source(place)[0].sample_at(place.epoch, place.step, slot)

    def _read(self, batch: BatchPlace, slots: Sequence[int]) -> list[Sample]:
        order, shards = self._source(batch)
        return shards.read_many(order.samples_at(batch.epoch, batch.step, slots))

    def _read_mixed(self, places: Sequence[tuple[BatchPlace, int]]) -> list[Sample]:
        """The samples of slots of several sources; those of one source are asked for together."""
        by_source: dict[str, list[int]] = {}
        for number, (place, _) in enumerate(places):
            by_source.setdefault(place.source, []).append(number)
        samples: dict[int, Sample] = {}
        for numbers in by_source.values():
            shards = self._source(places[numbers[0]][0])[1]
            samples.update(
                zip(
                    numbers,
                    shards.read_many([self._sample_at(*places[n]) for n in numbers]),
                    strict=True,
                )
            )
        return [samples[number] for number in range(len(places))]

    def _example(
        self, place: BatchPlace, slot: int, sample: Sample, skipped: list[Skipped]
    ) -> Example:
        task = self._stages[place.stage].tasks[place.task]
        order, shards = self._source(place)
        draw = generator(self._seed, place, slot, "augment")
        shard, row = order.sample_at(place.epoch, place.step, slot)
        for attempt in range(MAX_SUBSTITUTES):
            try:
                return make_example(
                    sample, task, self._model.preprocess, self._model.prompts, draw
                )
            except ValueError as error:
                skipped.append(
                    Skipped(str(shards.paths[shard]), sample.key, str(error))
                )
            shard, row = order.substitute_at(place.epoch, place.step, slot, attempt)
            sample = shards.read(shard, row)
        path = below(self._root, task.sources[place.source].paths[0])
        raise ValueError(
            f"{MAX_SUBSTITUTES} samples in a row of source {place.source!r} cannot be used, the "
            f"last because: {skipped[-1].reason} Look at them with `unimodal shards check "
            f"{path}`."
        )

    def _prefetch(self, batch: BatchPlace, places: Iterable[BatchPlace]) -> None:
        """Begin to fetch what the rank's streams read in these windows and the
        next, once a window.
        """
        for place in places:
            order, shards = self._source(place)
            window = order.window_at(place.step)
            if not shards.is_remote or self._prefetched.get(place[:3]) == (
                place.epoch,
                window,
            ):
                continue
            self._prefetched[place[:3]] = place.epoch, window
            num_streams = self._stages[batch.stage].tasks[batch.task].num_streams
            streams = sorted(
                {slot % num_streams for slot in self._slots[batch.stage, batch.task]}
            )
            shards.prefetch(order.shards_in(place.epoch, window, streams))
            shards.prefetch(order.shards_in(place.epoch, window + 1, streams))


def _name(settings: SourceConfig) -> str:
    return ", ".join(settings.paths)


class LoaderContext(ForkServerContext):
    """Starts the loader's processes and knows them from others that the program has started.

    Not by fork: tokenizers and torch have threads that a forked child lacks.
    """

    def __init__(self) -> None:
        self.processes: list[BaseProcess] = []

    def Process(self, *arguments: Any, **options: Any) -> BaseProcess:  # type: ignore[override]  # noqa: N802
        """A process of the loader, yet to be started."""
        process = super().Process(*arguments, **options)
        self.processes.append(process)
        return process


def steps_from(
    dataset: StepDataset,
    start: int,
    stop: int,
    workers: int,
    context: LoaderContext | None = None,
) -> Iterator[list[Batch]]:
    """The batches of steps start .. stop - 1, whose pieces are prefetched by worker processes.

    context: gets to know those processes.

    The loader has a generator of its own: iter(DataLoader) draws from the global one otherwise, and
    a resumed run would part from one that never stopped.
    """
    places = (
        place for step in range(start, stop) for place in dataset.plan.batches_at(step)
    )
    settings: dict[str, Any] = {}
    if workers:
        get_temp_dir()  # of this process: the workers' sockets go in there too, and go with it
        ahead = max(1, -(-dataset.num_ahead() // workers))
        settings = {
            "num_workers": workers,
            "prefetch_factor": ahead,
            "multiprocessing_context": context or LoaderContext(),
        }
    loader: DataLoader[Piece | Exception] = DataLoader(
        _ErrorsAsItems(dataset),
        sampler=(piece for place in places for piece in dataset.pieces_of(place)),  # type: ignore[arg-type]  # any iterable
        batch_size=None,
        collate_fn=_as_it_is,
        worker_init_fn=_Guard(os.getpid()),
        generator=torch.Generator().manual_seed(0),
        **settings,
    )
    pieces = _raised(iter(loader))
    for step in range(start, stop):
        yield [
            merge(
                place,
                dataset.size_of(place),
                islice(pieces, sum(1 for _ in dataset.pieces_of(place))),
            )
            for place in dataset.plan.batches_at(step)
        ]


def _raised(items: Iterator[Piece | Exception]) -> Iterator[Piece]:
    for item in items:
        if isinstance(item, Exception):
            raise item
        yield item


class _ErrorsAsItems(Dataset[Any]):
    """Hands an error over as an item: a worker's own way wraps its sentence in a traceback."""

    def __init__(self, dataset: StepDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, place: PiecePlace) -> Piece | Exception:
        try:
            return self._dataset[place]
        except (ValueError, OSError) as error:
            return error


class _Guard:
    """A worker ends when the run ends it, or ends; signals to the whole group of processes are the
    run's to answer.

    It also may open as many files as the machine allows: streams read across many shards.
    """

    def __init__(self, main: int) -> None:
        self._main = main

    def __call__(self, _worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, "sigwaitinfo"):  # which tells who sent it; Linux has it
            signal.signal(
                signal.SIGTERM, lambda _number, _frame: None
            )  # an ignored one is never waited for
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=self._obey, daemon=True).start()
        threading.Thread(target=_end_with_the_run, daemon=True).start()
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (most if 0 < most < 1 << 16 else 1 << 16, most)
            )

    def _obey(self) -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != self._main:
            pass
        os._exit(0)


def _end_with_the_run() -> None:
    """torch watches the parent process, which with forkserver is not the run: after a kill -9
    nobody would end.
    """
    run = multiprocessing.parent_process()
    if run is not None:
        run.join()
        os._exit(1)


def _as_it_is(item: Any) -> Any:
    return item
