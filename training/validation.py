"""Validation on all ranks: rank 0 scores, and every rank encodes a share of what it asks for.

Rank 0 alone needs the data, files of images included, and asks in whatever order and in whatever
portions it likes.

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

# What the ranks encode between two signs of life: at two inputs a second, the pace of a large tower
# on a CPU, in a quarter of the usual timeout.
INPUTS_PER_RANK = 256
BYTES_PER_CALL = (
    64 << 20
)  # of images and texts that rank 0 holds to hand them out; one input may be more


def load_on_main(load: Callable[[], object], timeout: float) -> None:
    """Rank 0 loads what validation needs, and what it raises every rank raises; every rank calls
    it.

    timeout: seconds that a rank waits for a sign of life of rank 0. Raises, on the others,
    ValueError, OSError or ImportError where `load` did, and else RuntimeError with its words;
    ConnectionError if a rank dies or hangs.
    """
    if distributed.world_size() == 1:
        load()
        return
    raised: list[Exception] = []

    def attempt() -> None:
        try:
            load()
        except Exception as error:  # raised below, once the others know
            raised.append(error)

    on_main(attempt, timeout)
    failure = _failure_of(raised[0]) if raised else None
    said = distributed.scatter_objects(
        [failure] * distributed.world_size() if distributed.rank() == 0 else None
    )
    if raised:
        raise raised[0]
    if said is not None:
        raise said.kind(said.words)


def validate(
    embedder: Embedder,
    work: Callable[[Embedder | SharedEncoder], object],
    timeout: float,
    is_asked: Callable[[], bool],
) -> None:
    """Rank 0 runs `work` with an embedder that all ranks share; every rank calls it, with its own
    copy of the model.

    timeout: seconds that a rank waits for a sign of life of rank 0.
    is_asked: whether this rank was asked to stop: `stop_requested` says so to the
        work, which is left where it asks for more than is encoded at once.
    Raises ConnectionError if a rank dies or hangs.
    """

    def score() -> None:
        with contextlib.suppress(_StoppedError):
            work(SharedEncoder(embedder, lambda: is_asked() or stop_requested()))

    if distributed.world_size() == 1:
        work(embedder)
    else:
        on_main(score, timeout, is_asked, lambda: _take_share(embedder))


class _StoppedError(Exception):
    """Asked to stop between two calls of the ranks."""


class _Failure(NamedTuple):
    """An exception in words: not every one can be pickled, and a rank that cannot send it would
    leave.
    """

    kind: type[
        Exception
    ]  # one of those that a user's mistake or data may be, or RuntimeError
    words: str


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
            shares = [
                portion[rank::ranks] for rank in range(ranks)
            ]  # each has short and long ones
            with called():
                found = _take_share(
                    self._own,
                    [([item for _, item in share], prompt) for share in shares],
                )
            for rank, (share, some) in enumerate(zip(shares, found, strict=True)):
                rows = [row for row, _ in share]
                if isinstance(some, _Failure):
                    raise _with_place(some, rank, rows, inputs)
                if vectors is None:
                    vectors = np.empty((len(inputs), some.shape[1]), dtype=np.float32)
                vectors[rows] = some
        assert vectors is not None
        return vectors


def _portions(inputs: Sequence[Item], count: int) -> Iterator[list[tuple[int, Item]]]:
    """(row, item) of images, then of texts by length, so many at once; files are read when their
    portion is due.
    """
    portion: list[tuple[int, Item]] = []
    size = 0
    for row in sorted(range(len(inputs)), key=lambda row: _length(inputs[row])):
        item = _read(inputs[row])
        portion.append((row, item))
        size += _size(item)
        if len(portion) == count or size >= BYTES_PER_CALL:
            yield portion
            portion = []
            size = 0
    if portion:
        yield portion


def _take_share(embedder: Embedder, jobs: Sequence[Any] | None = None) -> list[Any]:
    """Encode this rank's share; on rank 0, which gives the jobs, what each rank found: vectors or a
    failure.
    """
    inputs, prompt = distributed.scatter_objects(jobs)
    found: Vectors | _Failure
    try:
        found = embedder.encode(inputs, prompt=prompt, show_progress=False)
    except Exception as error:  # raised by rank 0; this rank goes on helping
        found = _failure_of(error)
    return distributed.gather_objects(found)


def _failure_of(error: Exception) -> _Failure:
    for kind in (ValueError, OSError, ImportError):
        if isinstance(error, kind):
            return _Failure(kind, str(error))
    return _Failure(RuntimeError, f"{type(error).__name__}: {error}")


def _with_place(
    failure: _Failure, rank: int, rows: list[int], inputs: Sequence[Item]
) -> Exception:
    """The exception of a share, with the place among all inputs and the file that the share had no
    name of.
    """
    if failure.kind is RuntimeError:
        return RuntimeError(f"rank {rank}: {failure.words}")
    found = re.match(r"input (\d+)", failure.words)
    if found is None:
        return failure.kind(failure.words)
    row = rows[int(found[1])]
    path = _image(inputs[row])
    name = (
        f" ({path})"
        if isinstance(path, Path) and str(path) not in failure.words
        else ""
    )
    return failure.kind(f"input {row}{name}{failure.words[found.end() :]}")


def _image(one: Item) -> Any:
    return one.get("image") if isinstance(one, Mapping) else one


def _read(one: Item) -> Item:
    """With the bytes of an image's file in the place of its path."""
    path = _image(one)
    if not isinstance(path, Path):
        return one
    try:
        content = path.read_bytes()
    except OSError:
        return one  # whose turn it is says so, with the path
    return {**one, "image": content} if isinstance(one, Mapping) else content


def _size(one: Item) -> int:
    if isinstance(one, Image.Image):
        return 4 * one.width * one.height
    if isinstance(one, Mapping):
        return sum(
            _size(part)
            for part in one.values()
            if isinstance(part, (str, bytes, Image.Image))
        )
    return len(one) if isinstance(one, (str, bytes)) else 0


def _length(one: Item) -> tuple[bool, int]:
    return (True, len(one)) if isinstance(one, str) else (False, 0)
