"""Near-duplicates among the documents of a task, and clusters of them, named by their words.

N documents, D embedding dimension, K clusters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unimodal.search.query.duplicates import DUPLICATE, groups_of_near
from unimodal.vectors import Vectors

from ..data.inputs import text_of
from ..data.task_data import Ranking
from ..results import TaskResult
from ..scoring.score_row import ScoreRow
from .sample import Positions, sampled

# compared with each other, or clustered; beyond that a sample, drawn with seed 0
MAX_DOCUMENTS = 50_000
MAX_CLUSTERS = 20
ROUNDS = 30
WORD = re.compile(r"[^\W\d_]{2,}")
NUM_WORDS = 4
NUM_TYPICAL = 5


@dataclass(frozen=True)
class Duplicates:
    """Near-duplicates among the documents of one task."""

    task: str
    threshold: float
    share: float  # of documents that have one
    groups: list[list[int]]  # positions of documents, the largest group first


@dataclass(frozen=True)
class Cluster:
    """Documents around one centre."""

    words: list[str]  # that are typical of it, the most typical first
    share: float  # of all documents
    typical: list[int]  # positions of the documents nearest to its centre


@dataclass(frozen=True)
class Clusters:
    """The documents of one task by what they are about, the largest cluster first."""

    task: str
    clusters: list[Cluster]


def duplicates_of(
    results: Iterable[TaskResult], threshold: float = DUPLICATE
) -> list[Duplicates]:
    """Near-duplicates of each retrieval task's documents.

    Of more than MAX_DOCUMENTS a sample is compared; it holds fewer of them, so its share is a lower
    bound.
    """
    duplicates = []
    for result, _, documents in _corpora(results):
        sample = sampled(np.arange(len(documents)), MAX_DOCUMENTS)
        near = groups_of_near(documents[sample], threshold)
        groups = [sample[group].tolist() for group in near]
        share = sum(map(len, groups)) / len(sample)
        duplicates.append(Duplicates(result.name, threshold, share, groups))
    return duplicates


def duplicate_rows(duplicates: Iterable[Duplicates]) -> list[ScoreRow]:
    """The share of documents with a near-duplicate, which a ranking orders only by luck."""
    return [
        ScoreRow(
            of_task.task,
            "near_duplicate_share",
            of_task.share,
            None,
            None,
            variant=f"cosine {of_task.threshold:g}",
        )
        for of_task in duplicates
    ]


def clusters_of(
    results: Iterable[TaskResult], num_clusters: int | None = None, seed: int = 0
) -> list[Clusters]:
    """The documents of each retrieval task in clusters.

    num_clusters: None: the root of half the documents, at most 20.

    The words of an image are those of the texts that should find it. Empty clusters are left out.
    Of more than MAX_DOCUMENTS a sample is clustered.
    """
    found = []
    for result, corpus, documents in _corpora(results):
        sample = sampled(np.arange(len(documents)), MAX_DOCUMENTS)
        vectors = documents[sample]
        wanted = num_clusters or min(
            MAX_CLUSTERS, max(2, round((len(sample) / 2) ** 0.5))
        )
        labels, centres = k_means(vectors, min(wanted, len(sample)), seed)
        texts = _texts_of_documents(corpus)
        names = typical_words(
            [texts[number] for number in sample], labels, len(centres)
        )
        clusters = []
        for number, centre in enumerate(centres):
            members = np.flatnonzero(labels == number)
            if len(members):
                nearest = members[
                    np.argsort(-(vectors[members] @ centre), kind="stable")
                ][:NUM_TYPICAL]
                clusters.append(
                    Cluster(
                        names[number],
                        len(members) / len(sample),
                        sample[nearest].tolist(),
                    )
                )
        found.append(
            Clusters(result.name, sorted(clusters, key=lambda cluster: -cluster.share))
        )
    return found


def k_means(
    vectors: Vectors, num_clusters: int, seed: int = 0
) -> tuple[Positions, Vectors]:
    """Spherical k-means from k-means++ -> (N,) the cluster of each vector, (K, D) centres.

    (Dhillon and Modha, 2001.)

    vectors: (N, D) unit vectors. It ends when no vector changes its cluster, or after ROUNDS.
    """
    centres = vectors[_seeds(vectors, num_clusters, np.random.default_rng(seed))]
    labels = np.full(len(vectors), -1)
    for _ in range(ROUNDS):
        before = labels
        labels = np.argmax(vectors @ centres.T, axis=1)
        if np.array_equal(before, labels):
            break
        for number in np.unique(labels):  # an empty cluster stays where it is
            total = vectors[labels == number].sum(axis=0, dtype=np.float64)
            centres[number] = total / max(float(np.linalg.norm(total)), 1e-12)
    return labels, centres


def _seeds(vectors: Vectors, count: int, rng: np.random.Generator) -> list[int]:
    """Positions by greedy k-means++ (Arthur and Vassilvitskii, 2007): the best of a few draws."""
    seeds = [int(rng.integers(len(vectors)))]
    far = _distances(vectors, seeds)[:, 0]  # of each vector to the nearest seed
    while len(seeds) < count:
        # None: each vector equals a seed already.
        weights = far / far.sum() if far.sum() > 0 else None
        num_draws = 2 + int(np.log(count))
        drawn = rng.choice(len(vectors), num_draws, p=weights).tolist()
        nearer = np.minimum(far[:, None], _distances(vectors, drawn))  # (N, drawn)
        best = int(np.argmin(nearer.sum(axis=0)))
        seeds.append(drawn[best])
        far = nearer[:, best]
    return seeds


def _distances(vectors: Vectors, seeds: list[int]) -> npt.NDArray[np.float64]:
    """(N, seeds) half the squared distances."""
    return np.maximum(0, 1 - (vectors @ vectors[seeds].T).astype(np.float64))


def typical_words(
    texts: Sequence[str], labels: Positions, num_clusters: int
) -> list[list[str]]:
    """The words of each cluster with the highest tf-idf.

    That is the number of its texts with the word x log(N / the number of all texts with it). Words
    of all texts are left out.

    texts: N. labels: (N,) the cluster of each.
    """
    in_all: Counter[str] = Counter()
    in_cluster: list[Counter[str]] = [Counter() for _ in range(num_clusters)]
    for text, label in zip(texts, labels, strict=True):
        words = set(WORD.findall(text.lower()))
        in_all.update(words)
        in_cluster[label].update(words)
    names = []
    for counts in in_cluster:
        weights = {
            word: count * np.log(len(texts) / in_all[word])
            for word, count in counts.items()
        }
        best = sorted(
            (word for word in weights if weights[word] > 0),
            key=lambda word: (-weights[word], word),
        )
        names.append(best[:NUM_WORDS])
    return names


def _texts_of_documents(corpus: Ranking) -> list[str]:
    """The text of each document, or of the queries that should find it."""
    query_texts: list[list[str]] = [[] for _ in corpus.documents]
    for query, documents in zip(
        corpus.queries, corpus.judgements.relevant, strict=True
    ):
        for document in documents:
            query_texts[document].append(text_of(query))
    return [
        text_of(document) or " ".join(texts)
        for document, texts in zip(corpus.documents, query_texts, strict=True)
    ]


def _corpora(
    results: Iterable[TaskResult],
) -> Iterator[tuple[TaskResult, Ranking, Vectors]]:
    """Results of a corpus, with the vectors of its documents."""
    for result in results:
        corpus = result.data.as_corpus()
        if corpus is not None and result.documents is not None:
            yield result, corpus, result.documents
