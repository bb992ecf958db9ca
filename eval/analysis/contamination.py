"""What of a suite is in the training shards, and what a model scores on the rest.

The suite is kept in memory, as hashes of its texts and images; the shards are read once. A text
counts as seen if a training text has the same words, or shares a run of 13 words with it
(likeness.py); an image if a training image has the same bytes, or is the same after another
encoding or size.

Only queries and documents that are relevant for a query are looked for: what is never an answer
gives nothing away.
"""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import xxhash

from unimodal.preprocess.image_formats import IMAGE_EXTENSIONS
from unimodal.progress import progress_bar
from unimodal.shards.config import StorageConfig
from unimodal.shards.read import ShardSet, open_shards
from unimodal.shards.sample import Sample

from ..data.inputs import (
    ImageSource,
    Input,
    SingleInput,
    bytes_of,
    name_of,
    split_input,
)
from ..data.task_data import TaskData
from ..results import TaskResult
from ..scoring.score_row import ScoreRow
from .likeness import (
    NUM_WORDS,
    Likeness,
    are_alike,
    bands,
    likeness,
    run_hashes,
    words_of,
)

# bits of the dHash; finds 95 to 99 in 100 images that were re-encoded and scaled to a half
MAX_DISTANCE = 6
MAX_DIFFERENCE = 6.0  # of 255, mean over the thumbnail
VARIANT = "without overlap"

Kind = Literal["same text", "13 words", "same bytes", "same image"]
_STRENGTH: dict[Kind, int] = {
    "same text": 2,
    "13 words": 1,
    "same bytes": 2,
    "same image": 1,
}
_TEXT_FIELDS = ("captions", "caption", "query", "document", "negatives")


@dataclass(frozen=True)
class Match:
    """One text or image of the suite, and where in the training data it was first seen."""

    kind: Kind
    item: str  # the text, or the image's name
    shard: str
    key: str


@dataclass(frozen=True)
class TaskOverlap:
    """What of one task was seen in training."""

    task: str
    num_queries: int
    num_documents: int  # those that are relevant for a query
    # position -> where it was seen
    queries: dict[int, Match] = field(default_factory=dict)
    documents: dict[int, Match] = field(default_factory=dict)
    # queries that were seen, or have a relevant document that was
    tainted: list[int] = field(default_factory=list)

    def examples(self, count: int = 10) -> list[Match]:
        """Some of what was seen, queries first."""
        matches = [*self.queries.values(), *self.documents.values()]
        distinct = {match.item: match for match in matches}
        return list(distinct.values())[:count]

    @property
    def query_share(self) -> float | None:
        """The share of the queries that was seen; None without queries."""
        return len(self.queries) / self.num_queries if self.num_queries else None

    @property
    def document_share(self) -> float | None:
        """The share of the relevant documents that was seen; None without any (zero-shot)."""
        return len(self.documents) / self.num_documents if self.num_documents else None


def contamination(
    results: Iterable[TaskResult],
    shards: str | Path | Sequence[str],
    *,
    storage: StorageConfig | None = None,
    show_progress: bool | None = None,
) -> list[TaskOverlap]:
    """Look for every task's queries and relevant documents in training shards.

    shards: a file, folder, glob, brace pattern, URL or a list of those, as recipes name them.

    Zero-shot tasks have their images as queries, and no documents: the name of a class gives
    nothing away. Images of the suite that do not exist are skipped with a warning. Raises
    ValueError or OSError, naming it, for a shard that does not exist or is not a tar.
    """
    tasks = list(results)
    inputs: list[Input] = []
    for result in tasks:
        documents, _ = result.data.answers()
        inputs += [*result.data.inputs()[0].inputs, *documents.values()]
    seen = _Seen(single for value in inputs for single in split_input(value))
    stream = _stream(
        open_shards(shards, show_progress, storage), seen.has_images, show_progress
    )
    for location, key, texts, images in stream:
        seen.look(location, key, texts, images)
    seen.finish()
    return [_overlap(result.name, result.data, seen.matches) for result in tasks]


def overlap_rows(result: TaskResult, overlap: TaskOverlap) -> list[ScoreRow]:
    """The shares of what was seen, and each score over the queries that are not tainted.

    The value is None if fewer than two are left. A result without vectors has only the shares.
    """
    shares = {"queries": overlap.query_share, "documents": overlap.document_share}
    rows = [
        ScoreRow(
            result.name,
            f"overlapping_{what}",
            share,
            None,
            None,
            variant="contamination",
            note="" if share is not None else f"the task has no {what}",
        )
        for what, share in shares.items()
    ]
    if result.queries is not None and result.documents is not None:
        rows += _rows_of_rest(
            result, np.setdiff1d(np.arange(overlap.num_queries), overlap.tainted)
        )
    return rows


def _rows_of_rest(result: TaskResult, rest: npt.NDArray[np.int64]) -> list[ScoreRow]:
    if len(rest) < 2:
        left = "none of the queries is" if len(rest) == 0 else "1 of the queries is"
        note = f"{left} left without those seen in training"
        return [
            ScoreRow(result.name, metric, None, None, None, variant=VARIANT, note=note)
            for metric in result.metrics
        ]
    assert result.queries is not None
    assert result.documents is not None
    subset = result.data.score_subset(
        result.metrics, rest, result.queries[rest], result.documents
    )
    if subset is None:
        return []
    return [
        ScoreRow(
            result.name,
            metric,
            score.value,
            None,
            None,
            *score.bounds,
            VARIANT,
            len(rest),
            score.note,
        )
        for metric, score in subset.scores.items()
    ]


def _overlap(
    task: str, data: TaskData, matches: dict[SingleInput, Match]
) -> TaskOverlap:
    queries = data.inputs()[0].inputs
    documents, answers = data.answers()
    seen_queries = _matches_of(enumerate(queries), matches)
    seen_documents = _matches_of(documents.items(), matches)
    tainted = [
        query
        for query, positions in enumerate(answers)
        if query in seen_queries or not seen_documents.keys().isdisjoint(positions)
    ]
    return TaskOverlap(
        task, len(queries), len(documents), seen_queries, seen_documents, tainted
    )


def _matches_of(
    inputs: Iterable[tuple[int, Input]], matches: dict[SingleInput, Match]
) -> dict[int, Match]:
    """Position -> where the input, or a part of it, was seen; of those that were."""
    seen = {}
    for position, value in inputs:
        found = [matches[single] for single in split_input(value) if single in matches]
        if found:
            seen[position] = found[0]
    return seen


class _Seen:
    """Texts and images of the suite by their hashes, and where each was first seen."""

    def __init__(self, inputs: Iterable[SingleInput]) -> None:
        self.matches: dict[SingleInput, Match] = {}
        distinct = dict.fromkeys(inputs)
        self._texts = [value for value in distinct if isinstance(value, str)]
        self._words = [words_of(text) for text in self._texts]
        self._whole: dict[str, list[int]] = defaultdict(list)
        for number, words in enumerate(self._words):
            if words:
                self._whole[" ".join(words)].append(number)
        hashes, numbers, _ = run_hashes(self._words)
        order = np.argsort(hashes, kind="stable")
        self._runs = hashes[order]
        self._texts_of_runs = numbers[order]
        images = [value for value in distinct if not isinstance(value, str)]
        self._images = _existing(images)
        self._bytes: dict[int, list[int]] = defaultdict(list)
        self._bands: dict[tuple[int, int], list[int]] = defaultdict(list)
        self._likeness: list[Likeness | None] = []
        with ThreadPoolExecutor() as pool:
            looks = pool.map(lambda image: _look_at(bytes_of(image)), self._images)
            for number, (digest, like) in enumerate(looks):
                self._bytes[digest].append(number)
                self._likeness.append(like)
                for band in bands(like.dhash, MAX_DISTANCE) if like else ():
                    self._bands[band].append(number)
        # shard, key, words of a training text
        self._waiting: list[tuple[str, str, list[str]]] = []
        self._num_waiting = 0

    @property
    def has_images(self) -> bool:
        """Whether there are any to look for."""
        return bool(self._images)

    def look(
        self,
        shard: str,
        key: str,
        texts: Iterable[str],
        images: Iterable[tuple[int, Likeness | None]],
    ) -> None:
        """Compare one training sample. images: as `_look_at` gives them."""
        for text in texts:
            words = words_of(text)
            for number in self._whole.get(" ".join(words), ()):
                self._record(self._texts[number], "same text", shard, key)
            if len(words) >= NUM_WORDS and len(self._runs):
                self._waiting.append((shard, key, words))
                self._num_waiting += len(words)
        if self._num_waiting > 1 << 18:
            self.finish()
        for digest, like in images:
            for number in self._bytes.get(digest, ()):
                self._record(self._images[number], "same bytes", shard, key)
            if like is not None:
                near = {
                    number
                    for band in bands(like.dhash, MAX_DISTANCE)
                    for number in self._bands.get(band, ())
                }
                for number in sorted(near):
                    known = self._likeness[number]
                    if known is not None and are_alike(
                        known, like, MAX_DISTANCE, MAX_DIFFERENCE
                    ):
                        self._record(self._images[number], "same image", shard, key)

    def finish(self) -> None:
        """Compare the runs of the waiting texts: a thousand at once cost little more than one."""
        hashes, numbers, starts = run_hashes([words for _, _, words in self._waiting])
        first = np.searchsorted(self._runs, hashes, side="left")
        last = np.searchsorted(self._runs, hashes, side="right")
        for at in np.flatnonzero(last > first):
            shard, key, words = self._waiting[numbers[at]]
            run = f" {' '.join(words[starts[at] : starts[at] + NUM_WORDS])} "
            for number in self._texts_of_runs[first[at] : last[at]]:
                if self._texts[number] in self.matches:
                    continue
                if run in f" {' '.join(self._words[number])} ":
                    self._record(self._texts[number], "13 words", shard, key)
        self._waiting = []
        self._num_waiting = 0

    def _record(self, value: SingleInput, kind: Kind, shard: str, key: str) -> None:
        known = self.matches.get(value)
        if known is None or _STRENGTH[kind] > _STRENGTH[known.kind]:
            item = value if isinstance(value, str) else name_of(value)
            self.matches[value] = Match(kind, item, shard, key)


def _existing(images: list[ImageSource]) -> list[ImageSource]:
    """The images whose file exists: a model that sees no images is scored without them."""
    paths = [image for image in images if isinstance(image, Path)]
    missing = dict.fromkeys(path for path in paths if not path.is_file())
    if missing:
        warnings.warn(
            f"{len(missing)} of {len(images)} images do not exist and are not looked for "
            f"({next(iter(missing))} first), so the share of those seen is a lower bound; fetch "
            "their data set.",
            stacklevel=2,
        )
    return [image for image in images if image not in missing]


def _stream(
    shards: ShardSet, with_images: bool, show_progress: bool | None
) -> Iterator[tuple[str, str, list[str], list[tuple[int, Likeness | None]]]]:
    """Shard, key, texts and images of every sample; the next ones are decoded in the background."""
    with (
        progress_bar(
            "comparing with training data", len(shards), show_progress
        ) as advance,
        ThreadPoolExecutor() as pool,
    ):
        done = 0
        for shard, location in enumerate(shards.paths):
            shards.prefetch(
                [shard, *([shard + 1] if shard + 1 < len(shards.paths) else [])]
            )
            for start in range(0, shards.num_samples[shard], 64):
                stop = min(start + 64, shards.num_samples[shard])
                samples = shards.read_many(
                    [(shard, number) for number in range(start, stop)]
                )
                looks = (
                    list(pool.map(_images_of, samples))
                    if with_images
                    else [[] for _ in samples]
                )
                for sample, images in zip(samples, looks, strict=True):
                    yield str(location), sample.key, _texts_of(sample), images
                done += len(samples)
                advance(done)


def _texts_of(sample: Sample) -> list[str]:
    """Every text that training may show a model; a sample that cannot be read shows none."""
    texts: list[object] = []
    try:
        if "txt" in sample.parts:
            texts.append(sample.parts["txt"].decode())
        record = (
            json.loads(sample.parts["json"].decode()) if "json" in sample.parts else {}
        )
    except ValueError:
        record = {}
    for name in _TEXT_FIELDS if isinstance(record, dict) else ():
        value = record.get(name)
        texts += value if isinstance(value, list) else [value]
    return [text for text in texts if isinstance(text, str)]


def _images_of(sample: Sample) -> list[tuple[int, Likeness | None]]:
    return [
        _look_at(content)
        for name, content in sample.parts.items()
        if name in IMAGE_EXTENSIONS
    ]


def _look_at(content: bytes) -> tuple[int, Likeness | None]:
    """A hash of an image's bytes, and its likeness; None for one that cannot be decoded."""
    try:
        like = likeness(content)
    except ValueError:
        like = None
    return xxhash.xxh3_64_intdigest(content), like
