"""Changes that a child of the nursery makes to itself before it runs: it records what it trains on,
or slows down.

They change `unimodal.training`, which the command line imports. Each function is for one process
and undoes nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def record(file: str) -> None:
    """Append a line `STEP DIGEST` for each computed step: keys, pixels and token ids of its
    batches.
    """
    loop = _module("training.loop")
    steps_from = loop.steps_from
    train_step = loop.train_step
    steps: Iterator[int] = iter(())

    def batches(dataset: Any, start: int, *rest: Any, **options: Any) -> Any:
        nonlocal steps
        steps = iter(range(start, 1 << 60))
        _append(file, f"from {start}")
        return steps_from(dataset, start, *rest, **options)

    def step(model: Any, batches: Any, *rest: Any, **options: Any) -> Any:
        found = train_step(model, batches, *rest, **options)
        _append(file, f"{next(steps)} {digest(batches)} {options['learning_rate']!r}")
        return found

    loop.steps_from = batches
    loop.train_step = step


def digest(batches: Any) -> str:
    """A digest of what a step sees: its place in the schedule, keys, pixels, token ids."""
    found = hashlib.blake2b(digest_size=8)
    for batch in batches:
        found.update(
            repr((tuple(batch.place), batch.keys, batch.texts.lengths)).encode()
        )
        found.update(batch.texts.flat.numpy().tobytes())
        if batch.pixels is not None:
            found.update(batch.pixels.numpy().tobytes())
    return found.hexdigest()


def read_environment() -> None:
    """Read fsspec's variables again: the nursery imported it with other variables."""
    config = importlib.import_module("fsspec.config")
    config.set_conf_env(config.conf)


def slow_steps(seconds: float) -> None:
    """Delay every step."""
    loop = _module("training.loop")
    loop.train_step = _slower(loop.train_step, seconds)


def slow_validation(seconds: float) -> None:
    """Delay every task of a validation."""
    evaluate = _module("eval.evaluate")
    evaluate.score_task = _slower(evaluate.score_task, seconds)


def slow_start(seconds: float) -> None:
    """Delay the making of the model."""
    begin = _module("training.setup")
    begin.make_model = _slower(begin.make_model, seconds)


def limit_file_size(size: int) -> None:
    """Limit the size of every file to a number of bytes."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def small_shared_memory(size: int) -> None:
    """Mount an own /dev/shm with a number of bytes."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts = 0x20000
    private = 0x44000  # CLONE_NEWNS; MS_REC | MS_PRIVATE: nobody else sees the mount
    if (
        libc.unshare(new_mounts)
        or libc.mount(b"none", b"/", None, private, None)
        or libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=%d" % size)
    ):
        raise OSError(ctypes.get_errno(), "no /dev/shm of its own")


def own_tracker() -> None:
    """Start an own process that removes semaphores after a kill, as a run without a nursery has."""
    from multiprocessing import resource_tracker

    resource_tracker._resource_tracker = resource_tracker.ResourceTracker()


def repeat_batches(every: int) -> None:
    """Break the run on purpose: every N-th batch repeats the one before. The proof then has to
    fail.
    """
    loop = _module("training.loop")
    steps_from = loop.steps_from

    def batches(dataset: Any, start: int, *rest: Any, **options: Any) -> Any:
        before = None
        for number, batch in enumerate(steps_from(dataset, start, *rest, **options)):
            is_repeated = number % every == every - 1
            yield before if is_repeated else batch
            before = batch

    loop.steps_from = batches


def _module(name: str) -> Any:
    return importlib.import_module(f"unimodal.{name}")


def _slower(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def slower(*arguments: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return function(*arguments, **options)

    return slower


def _append(file: str, line: str) -> None:
    with Path(file).open("a") as opened:
        opened.write(line + "\n")
