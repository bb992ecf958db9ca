"""Reading: one stock DataLoader over the whole schedule. An item is what one rank needs for one global step."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from unimodal.config import ModelConfig
from unimodal.preprocess import Tokenizer
from unimodal.shards.read import ShardSet, open_shards

from ..config import Stage
from .collate import Batch, Example, Skipped, collate, make_example
from .mixture import BatchPlace, batches_at
from .order import Order, generator, slots_of_rank

MAX_SUBSTITUTES = 16


class StepDataset(Dataset[list[Batch]]):
    """Global step -> the batches of that step for one rank; a pure function, so workers share nothing."""

    def __init__(
        self, stages: Sequence[Stage], data_root: Path, model: ModelConfig, tokenizer: Tokenizer, seed: int,
        rank: int = 0, world_size: int = 1,
    ) -> None:  # fmt: skip
        """Opens every source; raises ValueError for a missing or too small one, and if ranks do not fit the streams."""
        assert model.text is not None
        self._stages, self._model, self._seed = stages, model, seed
        self.shards: dict[str, ShardSet] = {}
        self.orders: dict[tuple[int, str, str], Order] = {}
        self._slots: dict[tuple[int, str], list[int]] = {}
        lengths = {task.max_length for stage in stages for task in stage.tasks.values()}
        self._tokenizers = {length: tokenizer.with_max_length(model.text, length) for length in lengths}
        for number, stage in enumerate(stages):
            for name, task in stage.tasks.items():
                if task.max_length > model.text.max_length:
                    raise ValueError(
                        f"max_length {task.max_length} of task {name!r} is over the text tower's "
                        f"{model.text.max_length}; lower it, or raise model.text.max_length."
                    )
                self._slots[number, name] = slots_of_rank(task.global_batch, task.num_streams, rank, world_size)
                for source, settings in task.sources.items():
                    shards = self.shards.setdefault(settings.path, open_shards(data_root / settings.path))
                    key = (seed, number, name, source)
                    self.orders[number, name, source] = Order(
                        shards.num_samples, task.global_batch, task.num_streams, key
                    )

    def __getitem__(self, step: int) -> list[Batch]:
        return [self._batch(place) for place in batches_at(self._stages, self.orders, step)]

    def fingerprints(self) -> dict[str, str]:
        """Of the shards behind each path: data that changed cannot be resumed on."""
        return {path: shards.fingerprint() for path, shards in self.shards.items()}

    def digest(self, steps: int) -> str:
        """Of what is read when, at up to 256 steps of `steps`: ranks must agree on it."""
        spread = range(0, steps, max(1, steps // 256))
        places = [place for step in spread for place in batches_at(self._stages, self.orders, step)]
        firsts = [
            self.orders[place.stage, place.task, place.source].sample_at(place.epoch, place.step, 0) for place in places
        ]
        return hashlib.blake2b(repr((places, firsts)).encode(), digest_size=8).hexdigest()

    def _batch(self, place: BatchPlace) -> Batch:
        task = self._stages[place.stage].tasks[place.task]
        skipped: list[Skipped] = []
        examples = [self._example(place, slot, skipped) for slot in self._slots[place.stage, place.task]]
        return collate(place, examples, skipped, self._tokenizers[task.max_length])

    def _example(self, place: BatchPlace, slot: int, skipped: list[Skipped]) -> Example:
        task = self._stages[place.stage].tasks[place.task]
        order = self.orders[place.stage, place.task, place.source]
        shards = self.shards[task.sources[place.source].path]
        draw = generator(self._seed, place, slot, "augment")
        shard, row = order.sample_at(place.epoch, place.step, slot)
        for attempt in range(MAX_SUBSTITUTES):
            sample = shards.read(shard, row)
            try:
                return make_example(sample, task, self._model.preprocess, self._model.prompts, draw)
            except ValueError as error:
                skipped.append(Skipped(str(shards.paths[shard]), sample.key, str(error)))
            shard, row = order.substitute_at(place.epoch, place.step, slot, attempt)
        raise ValueError(
            f"{MAX_SUBSTITUTES} samples in a row of source {place.source!r} cannot be used, the last because: "
            f"{skipped[-1].reason} Look at them with `unimodal shards check {task.sources[place.source].path}`."
        )


def steps_from(dataset: StepDataset, start: int, stop: int, workers: int) -> Iterator[list[Batch]]:
    """The batches of steps start .. stop - 1, prefetched by worker processes.

    The loader has a generator of its own: iter(DataLoader) draws from the global one otherwise, and a resumed run would
    part from one that never stopped.
    """
    settings: dict[str, Any] = {}
    if workers:
        # Not fork: tokenizers and torch have threads that a forked child lacks.
        settings = {"num_workers": workers, "prefetch_factor": 4, "multiprocessing_context": "forkserver"}
    loader: DataLoader[list[Batch] | Exception] = DataLoader(
        _ErrorsAsItems(dataset),
        sampler=range(start, stop),
        batch_size=None,
        collate_fn=_as_it_is,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator().manual_seed(0),
        **settings,
    )
    for item in loader:
        if isinstance(item, Exception):
            raise item
        yield item


class _ErrorsAsItems(Dataset[Any]):
    """Hands an error over as an item: a worker's own way wraps its sentence in a traceback."""

    def __init__(self, dataset: StepDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, step: int) -> list[Batch] | Exception:
        try:
            return self._dataset[step]
        except (ValueError, OSError) as error:
            return error


def _ignore_interrupts(_worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the run decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_it_is(item: Any) -> Any:
    return item
