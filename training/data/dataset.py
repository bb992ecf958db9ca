"""The place of a piece -> the piece: a few neighbouring samples of one rank's part of a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from unimodal.model_config import ModelConfig
from unimodal.preprocess.tokenizers import Tokenizer
from unimodal.shards.config import StorageConfig
from unimodal.shards.find import below
from unimodal.shards.read import ShardSet, open_shards
from unimodal.shards.sample import Sample

from ..config import SourceConfig, Stage
from .collate import Example, Piece, Skipped, collate, make_example
from .mixture import BatchPlace, StepPlan, make_order
from .order import Order, generator, slots_of_rank
from .substitute import make_or_substitute

PIECE = 128  # samples: 20 MB of images at 224 pixels
_AHEAD = 1 << 30  # bytes of pieces that may wait for training
_TEXT_PIECE = 1 << 20  # bytes of a piece without images, at most
_NUM_DIGEST_STEPS = 256


class PiecePlace(NamedTuple):
    """Some of a rank's slots of a batch: positions in its list of slots."""

    batch: BatchPlace
    start: int
    stop: int


class StepDataset(Dataset[Piece]):
    """The place of a piece -> the piece; a pure function, so workers share nothing."""

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
        """Open every source.

        Raises ValueError for a source that is missing or too small, and if the ranks do not fit the
        streams.
        """
        assert model.text is not None
        self._stages = stages
        self._model = model
        self._seed = seed
        self._root = data_root
        self._storage = storage
        self.shards: dict[str, ShardSet] = {}  # by the name of the source's path
        self._slots: dict[tuple[int, str], list[int]] = {}
        self._prefetched: dict[
            tuple[object, ...], tuple[int, int]
        ] = {}  # epoch, window

        lengths = {task.max_length for stage in stages for task in stage.tasks.values()}
        self._tokenizers = {
            length: tokenizer.with_max_length(model.text, length) for length in lengths
        }

        show_progress = None if rank == 0 else False
        orders = {}
        for number, stage in enumerate(stages):
            for name, task in stage.tasks.items():
                _check_length(name, task.max_length, model.text.max_length)
                self._slots[number, name] = slots_of_rank(
                    task.global_batch, task.num_streams, rank, world_size
                )
                for source, settings in task.sources.items():
                    shards = self._open(settings, show_progress)
                    key = (seed, number, name, source)
                    orders[number, name, source] = make_order(
                        name, task, source, shards.num_samples, key
                    )
        self.plan = StepPlan(stages, orders)
        self._fingerprints = {
            path: shards.fingerprint() for path, shards in self.shards.items()
        }

    def _open(self, settings: SourceConfig, show_progress: bool | None) -> ShardSet:
        name = _name(settings)
        if name not in self.shards:
            paths = [below(self._root, path) for path in settings.paths]
            pattern = paths[0] if len(paths) == 1 else paths
            self.shards[name] = open_shards(pattern, show_progress, self._storage)
        return self.shards[name]

    def __getitem__(self, place: PiecePlace) -> Piece:
        batch = place.batch
        task = self._stages[batch.stage].tasks[batch.task]
        slots = self._slots[batch.stage, batch.task][place.start : place.stop]
        places = [self.plan.slot_at(batch, slot) for slot in slots]

        by_source = {sample_place.source: sample_place for sample_place, _ in places}
        self._prefetch(batch, by_source.values())
        samples = self._read_mixed(places) if task.mixed else self._read(batch, slots)

        examples = []
        skipped: list[Skipped] = []
        for (sample_place, slot), sample in zip(places, samples, strict=True):
            example, replaced = self._example(sample_place, slot, sample)
            examples.append(example)
            skipped += replaced
        return collate(examples, skipped, self._tokenizers[task.max_length])

    def pieces_of(self, place: BatchPlace) -> Iterator[PiecePlace]:
        """Yield the pieces of a batch."""
        size = self.size_of(place)
        for start in range(0, size, PIECE):
            yield PiecePlace(place, start, min(start + PIECE, size))

    def num_pieces_of(self, place: BatchPlace) -> int:
        """Count the pieces of a batch."""
        return -(-self.size_of(place) // PIECE)

    def size_of(self, place: BatchPlace) -> int:
        """Count the samples of a batch that are this rank's."""
        return len(self._slots[place.stage, place.task])

    @property
    def is_small(self) -> bool:
        """Whether memory holds the next step's images beside those of the current step."""
        return self._pieces_in_step() <= self._pieces_in_memory()

    def num_ahead(self) -> int:
        """Pieces that may wait for training: two steps of the largest kind, if memory allows."""
        return max(2, min(self._pieces_in_memory(), 2 * self._pieces_in_step()))

    def _pieces_in_memory(self) -> int:
        kinds = {task.kind for stage in self._stages for task in stage.tasks.values()}
        if "image-text" not in kinds:
            return _AHEAD // _TEXT_PIECE
        size = self._model.preprocess.image_size
        return _AHEAD // (PIECE * 3 * size * size)

    def _pieces_in_step(self) -> int:
        largest = 0
        for number, stage in enumerate(self._stages):
            count = 0
            for name, task in stage.tasks.items():
                slots = self._slots[number, name]
                count += task.accumulate * -(-len(slots) // PIECE)
            largest = max(largest, count)
        return largest

    def fingerprints(self) -> dict[str, str]:
        """Fingerprint the shards of each path; a run cannot resume on other data."""
        return dict(self._fingerprints)

    def shard_rows(self) -> list[dict[str, Any]]:
        """Describe every shard: path of its source, name, number of samples, hashes, where it ends.

        "digest" is of a few places in the file, "contents" of all samples, "cut" says why the shard
        is cut short, or "".
        """
        rows = []
        for path, shards in self.shards.items():
            columns = zip(
                shards.paths,
                shards.num_samples,
                shards.digests,
                shards.contents,
                strict=True,
            )
            for shard, samples, digest, contents in columns:
                row = {
                    "path": path,
                    "shard": str(shard).rpartition("/")[2],
                    "samples": samples,
                    "digest": digest,
                    "contents": contents,
                    "cut": shards.truncated.get(shard, ""),
                }
                rows.append(row)
        return rows

    def seen(self, step: int) -> list[dict[str, Any]]:
        """Count what a model has seen before a step: the samples of each source by epoch."""
        rows = self.plan.seen(step)
        for row in rows:
            stage = self._stages[row.pop("number")]
            row["path"] = _name(stage.tasks[row["task"]].sources[row["source"]])
        return rows

    def digest(self, steps: int) -> str:
        """Hash what is read at up to 256 of `steps` steps: ranks must agree on it."""
        spread = range(0, steps, max(1, steps // _NUM_DIGEST_STEPS))
        places = [place for step in spread for place in self.plan.batches_at(step)]
        firsts = [self._sample_at(*self.plan.slot_at(place, 0)) for place in places]
        content = repr((places, firsts)).encode()
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    def _source(self, place: BatchPlace) -> tuple[Order, ShardSet]:
        settings = self._stages[place.stage].tasks[place.task].sources[place.source]
        order = self.plan.orders[place.stage, place.task, place.source]
        return order, self.shards[_name(settings)]

    def _sample_at(self, place: BatchPlace, slot: int) -> tuple[int, int]:
        order, _ = self._source(place)
        return order.sample_at(place.epoch, place.step, slot)

    def _read(self, batch: BatchPlace, slots: Sequence[int]) -> list[Sample]:
        order, shards = self._source(batch)
        return shards.read_many(order.samples_at(batch.epoch, batch.step, slots))

    def _read_mixed(self, places: Sequence[tuple[BatchPlace, int]]) -> list[Sample]:
        """Read the samples of slots of several sources; those of one source in one call."""
        by_source: dict[str, list[int]] = {}
        for number, (place, _) in enumerate(places):
            by_source.setdefault(place.source, []).append(number)

        samples: dict[int, Sample] = {}
        for numbers in by_source.values():
            first_place, _ = places[numbers[0]]
            _, shards = self._source(first_place)
            rows = [self._sample_at(*places[number]) for number in numbers]
            samples.update(zip(numbers, shards.read_many(rows), strict=True))
        return [samples[number] for number in range(len(places))]

    def _example(
        self, place: BatchPlace, slot: int, sample: Sample
    ) -> tuple[Example, list[Skipped]]:
        order, shards = self._source(place)
        make = partial(
            make_example,
            task=self._stages[place.stage].tasks[place.task],
            preprocess=self._model.preprocess,
            prompts=self._model.prompts,
            draw=generator(self._seed, place, slot, "augment"),
        )
        return make_or_substitute(sample, place, slot, order, shards, make)

    def _prefetch(self, batch: BatchPlace, places: Iterable[BatchPlace]) -> None:
        """Fetch what the rank's streams read in this window and the next, once per window."""
        for place in places:
            order, shards = self._source(place)
            current = (place.epoch, order.window_at(place.step))
            source_key = place[:3]
            if not shards.is_remote or self._prefetched.get(source_key) == current:
                continue
            self._prefetched[source_key] = current
            num_streams = self._stages[batch.stage].tasks[batch.task].num_streams
            slots = self._slots[batch.stage, batch.task]
            streams = sorted({slot % num_streams for slot in slots})
            epoch, window = current
            shards.prefetch(order.shards_in(epoch, window, streams))
            shards.prefetch(order.shards_in(epoch, window + 1, streams))


def _check_length(task: str, max_length: int, limit: int) -> None:
    if max_length > limit:
        raise ValueError(
            f"max_length {max_length} of task {task!r} is over the text tower's {limit}; set "
            f"tasks.{task}.max_length to {limit}."
        )


def _name(settings: SourceConfig) -> str:
    return ", ".join(settings.paths)
