"""Worker processes: one stock DataLoader over the whole schedule, whose items are pieces.

Pieces, and not batches, wait between workers and training, however large the global batch.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from multiprocessing.util import get_temp_dir
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from .collate import Batch, Piece, merge
from .dataset import PiecePlace, StepDataset

_MAX_FILES = 1 << 16  # that a worker has open


class LoaderContext(ForkServerContext):
    """Start the loader's processes and know them from others that the program has started.

    Not by fork: tokenizers and torch have threads that a forked child lacks.
    """

    def __init__(self) -> None:
        self.processes: list[BaseProcess] = []

    def Process(  # type: ignore[override]  # noqa: N802
        self, *arguments: Any, **options: Any
    ) -> BaseProcess:
        """Make a process of the loader, not started yet."""
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
    """Yield the batches of each step from start to stop - 1; workers prefetch their pieces.

    context: lists the worker processes.
    """
    settings: dict[str, Any] = {}
    if workers:
        # Made by this process: the workers' sockets go in there too, and go with it.
        get_temp_dir()
        settings = {
            "num_workers": workers,
            "prefetch_factor": max(1, -(-dataset.num_ahead() // workers)),
            "multiprocessing_context": context or LoaderContext(),
        }
    loader: DataLoader[Piece | Exception] = DataLoader(
        _ErrorsAsItems(dataset),
        sampler=_places(dataset, start, stop),  # type: ignore[arg-type]  # any iterable
        batch_size=None,
        collate_fn=_identity,
        worker_init_fn=_WorkerSetup(os.getpid()),
        # A generator of its own: iter(DataLoader) draws from the global one otherwise, and a
        # resumed run would differ from one that never stopped.
        generator=torch.Generator().manual_seed(0),
        **settings,
    )
    pieces = _raise_errors(iter(loader))
    for step in range(start, stop):
        yield _merge_step(dataset, step, pieces)  # and keep no reference to it


def _merge_step(
    dataset: StepDataset, step: int, pieces: Iterator[Piece]
) -> list[Batch]:
    batches = []
    for place in dataset.plan.batches_at(step):
        of_batch = islice(pieces, dataset.num_pieces_of(place))
        batches.append(merge(place, dataset.size_of(place), of_batch))
    return batches


def _places(dataset: StepDataset, start: int, stop: int) -> Iterator[PiecePlace]:
    for step in range(start, stop):
        for place in dataset.plan.batches_at(step):
            yield from dataset.pieces_of(place)


def _raise_errors(items: Iterator[Piece | Exception]) -> Iterator[Piece]:
    for item in items:
        if isinstance(item, Exception):
            raise item
        yield item


class _ErrorsAsItems(Dataset[Any]):
    """Return an error as an item: a worker would wrap its message in a traceback."""

    def __init__(self, dataset: StepDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, place: PiecePlace) -> Piece | Exception:
        try:
            return self._dataset[place]
        except (ValueError, OSError) as error:
            return error


class _WorkerSetup:
    """Prepare a worker: it ends when the run ends it, or when the run itself has ended.

    Signals to the whole group of processes are the run's to answer. A worker may open as many files
    as the machine allows, because streams read from many shards.
    """

    def __init__(self, main: int) -> None:
        self._main = main

    def __call__(self, _worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, "sigwaitinfo"):  # Linux: it tells who sent the signal
            # A handler, for an ignored signal is never waited for.
            signal.signal(signal.SIGTERM, lambda _number, _frame: None)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=self._wait_for_sigterm, daemon=True).start()
        threading.Thread(target=_end_with_the_run, daemon=True).start()

        _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = hard_limit if 0 < hard_limit < _MAX_FILES else _MAX_FILES
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard_limit))

    def _wait_for_sigterm(self) -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != self._main:
            pass
        os._exit(0)


def _end_with_the_run() -> None:
    """End this process once the run is gone.

    torch watches the parent process, which is the fork server: after a kill -9 of the run no worker
    would end.
    """
    run = multiprocessing.parent_process()
    if run is not None:
        run.join()
        os._exit(1)


def _identity(item: Any) -> Any:
    return item
