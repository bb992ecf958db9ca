"""Validation on all ranks: rank 0 scores, and every rank encodes a share of the inputs.

Rank 0 alone needs the data, files of images included. It may encode in any order and in portions of
any size.

n inputs, D embedding dimension.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from unimodal import distributed
from unimodal.embedder import Embedder, Item
from unimodal.vectors import Vectors

from .main_rank import called, on_main, stop_requested

# What a rank encodes between two heartbeats: at two inputs per second, the speed of a large tower
# on a CPU, this takes a quarter of the usual timeout.
INPUTS_PER_RANK = 256
# Of images and texts that rank 0 sends at once; a single input may be more.
BYTES_PER_CALL = 64 << 20


def load_on_main(load: Callable[[], object], timeout: float) -> None:
    """Load on rank 0 what validation needs; every rank calls it, and raises what rank 0 raises.

    timeout: seconds that a rank waits for a heartbeat of rank 0.

    The other ranks raise ValueError, OSError or ImportError if `load` did, and RuntimeError with
    its message for any other exception; ConnectionError if a rank dies or hangs.
    """
    if distributed.world_size() == 1:
        load()
        return
    raised: list[Exception] = []

    def attempt() -> None:
        try:
            load()
        except Exception as error:  # raised below, once the other ranks know
            raised.append(error)

    on_main(attempt, timeout)
    failure: _Failure | None = _failure_of(raised[0]) if raised else None
    failure = distributed.broadcast_object(failure)
    if raised:
        raise raised[0]
    if failure is not None:
        raise failure.kind(failure.message)


def validate(
    embedder: Embedder,
    work: Callable[[Embedder | SharedEncoder], object],
    timeout: float,
    should_stop: Callable[[], bool],
) -> None:
    """Run `work` on rank 0 with an encoder that all ranks share.

    Every rank calls it, with its own copy of the model.

    timeout: seconds that a rank waits for a heartbeat of rank 0.
    should_stop: whether this rank got a signal to stop; the work then ends before its next portion
        of inputs.

    Raises ConnectionError if a rank dies or hangs.
    """

    def score() -> None:
        with contextlib.suppress(_StoppedError):
            work(SharedEncoder(embedder, lambda: should_stop() or stop_requested()))

    if distributed.world_size() == 1:
        work(embedder)
    else:
        on_main(score, timeout, should_stop, lambda: _take_share(embedder))


class _StoppedError(Exception):
    """A signal to stop came between two calls of the ranks."""


class _Failure(NamedTuple):
    """The message of an exception: not every exception can be pickled and sent."""

    kind: type[Exception]  # ValueError, OSError, ImportError or RuntimeError
    message: str


class SharedEncoder:
    """Rank 0's encoder: every rank encodes a share of its inputs."""

    def __init__(self, embedder: Embedder, should_stop: Callable[[], bool]) -> None:
        self._own = embedder
        self._should_stop = should_stop

    @property
    def modalities(self) -> frozenset[str]:
        """What the model can embed."""
        return self._own.modalities

    @property
    def prompts(self) -> Mapping[str, str]:
        """The model's prompts."""
        return self._own.prompts

    def fingerprint(self) -> str:
        """Name the model; see `Embedder.fingerprint`."""
        return self._own.fingerprint()

    def encode(
        self, inputs: Sequence[Item], *, show_progress: bool | None = None
    ) -> Vectors:
        """Embed inputs as `Embedder.encode` does.

        An exception of a rank other than ValueError, OSError and ImportError becomes a
        RuntimeError.
        """
        return self._encode(inputs, None)

    def encode_query(
        self, inputs: Sequence[Item], *, show_progress: bool | None = None
    ) -> Vectors:
        """Embed inputs as `Embedder.encode_query` does."""
        return self._encode(inputs, self.prompts.get("query", ""))

    def encode_document(
        self, inputs: Sequence[Item], *, show_progress: bool | None = None
    ) -> Vectors:
        """Embed inputs as `Embedder.encode_document` does."""
        return self._encode(inputs, self.prompts.get("document", ""))

    def _encode(self, inputs: Sequence[Item], prompt: str | None) -> Vectors:
        """Hand the inputs out in portions and put the vectors of all ranks in order."""
        ranks = distributed.world_size()
        if len(inputs) < 2 * ranks:
            return self._own.encode(inputs, prompt=prompt, show_progress=False)
        vectors: Vectors | None = None
        for portion in _portions(inputs, ranks * INPUTS_PER_RANK):
            if vectors is not None and self._should_stop():
                raise _StoppedError
            # Each share has short and long inputs.
            shares = [portion[rank::ranks] for rank in range(ranks)]
            jobs = []
            for share in shares:
                jobs.append(_Job([item for _, item in share], prompt))
            with called():
                results = _take_share(self._own, jobs)
            for rank, (share, result) in enumerate(zip(shares, results, strict=True)):
                rows = [row for row, _ in share]
                if isinstance(result, _Failure):
                    raise _with_place(result, rank, rows, inputs)
                if vectors is None:
                    dim = result.shape[1]
                    vectors = np.empty((len(inputs), dim), dtype=np.float32)
                vectors[rows] = result
        assert vectors is not None
        return vectors


def _portions(inputs: Sequence[Item], count: int) -> Iterator[list[tuple[int, Item]]]:
    """Yield portions of at most `count` (row, item): images, then texts by length.

    An image's file is read when its portion is due.
    """
    portion: list[tuple[int, Item]] = []
    num_bytes = 0
    for row in sorted(range(len(inputs)), key=lambda row: _length(inputs[row])):
        item = _read(inputs[row])
        portion.append((row, item))
        num_bytes += _num_bytes(item)
        if len(portion) == count or num_bytes >= BYTES_PER_CALL:
            yield portion
            portion = []
            num_bytes = 0
    if portion:
        yield portion


class _Job(NamedTuple):
    """A share of the inputs that one rank encodes."""

    inputs: list[Item]
    prompt: str | None


def _take_share(
    embedder: Embedder, jobs: Sequence[_Job] | None = None
) -> list[Vectors | _Failure]:
    """Encode this rank's share; on rank 0, which gives the jobs, returns the results of all."""
    job: _Job = distributed.scatter_objects(jobs)
    result: Vectors | _Failure
    try:
        result = embedder.encode(job.inputs, prompt=job.prompt, show_progress=False)
    except Exception as error:  # raised by rank 0; this rank continues to help
        result = _failure_of(error)
    return distributed.gather_objects(result)


def _failure_of(error: Exception) -> _Failure:
    for kind in (ValueError, OSError, ImportError):
        if isinstance(error, kind):
            return _Failure(kind, str(error))
    return _Failure(RuntimeError, f"{type(error).__name__}: {error}")


def _with_place(
    failure: _Failure, rank: int, rows: list[int], inputs: Sequence[Item]
) -> Exception:
    """The exception of a share, with the row among all inputs and the file that it is about."""
    if failure.kind is RuntimeError:
        return RuntimeError(f"rank {rank}: {failure.message}")
    match = re.match(r"input (\d+)", failure.message)
    if match is None:
        return failure.kind(failure.message)
    row = rows[int(match[1])]
    path = _image(inputs[row])
    is_unnamed = isinstance(path, Path) and str(path) not in failure.message
    name = f" ({path})" if is_unnamed else ""
    return failure.kind(f"input {row}{name}{failure.message[match.end() :]}")


def _image(item: Item) -> Any:
    return item.get("image") if isinstance(item, Mapping) else item


def _read(item: Item) -> Item:
    """Replace the path of an image by the bytes of its file."""
    path = _image(item)
    if not isinstance(path, Path):
        return item
    try:
        content = path.read_bytes()
    except OSError:
        return item  # the rank that encodes it raises an error with the path
    return {**item, "image": content} if isinstance(item, Mapping) else content


def _num_bytes(item: Item) -> int:
    if isinstance(item, Image.Image):
        return 4 * item.width * item.height
    if isinstance(item, (str, bytes)):
        return len(item)
    if not isinstance(item, Mapping):
        return 0
    parts = item.values()
    known = (str, bytes, Image.Image)
    return sum(_num_bytes(part) for part in parts if isinstance(part, known))


def _length(item: Item) -> tuple[bool, int]:
    """Sort images first, then texts by length."""
    return (True, len(item)) if isinstance(item, str) else (False, 0)
