"""Texts and images in one space: the gap between them, alignment, uniformity, a mixed index.

T texts, P images, N of both, D embedding dimension; x a text's vector, y an image's.

`modality_gap`: ||mean x - mean y||, the distance of the centroids (Liang et al., 2022,
    https://arxiv.org/abs/2203.02053); 0 where both modalities lie in one place, at most 2.
`alignment`: E ||x - y||^2 over texts and the images they belong to; 0 is best (Wang and Isola,
    2020, https://arxiv.org/abs/2005.10242, with the two modalities as the two views).
`uniformity_text`, `uniformity_image`: log E exp(-2 ||a - b||^2) over all pairs of different texts,
    of different images (the same paper); 0 for a collapsed space, about -4 for one that fills the
    sphere.
`uniformity_across`: the same over texts and images that do not belong together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from unimodal.calibration import Calibration, centre, fit_calibration
from unimodal.vectors import Vectors

from ..data.inputs import Fused
from ..data.task_data import Ranking
from ..results import TaskResult
from ..scoring.chance import chance
from ..scoring.metrics import metric_values
from ..scoring.ranks import BLOCK_SCORES, Ranks, equals_of, ranks_of_scores
from ..scoring.retrieval import Judgements
from ..scoring.score_row import ScoreRow
from .sample import Positions, sampled

# vectors whose distances to all others are averaged; beyond that a sample, drawn with seed 0
MAX_ROWS = 4096
MAX_QUERIES = 5000  # asked of a mixed index; beyond that a sample, drawn with seed 0
TOP = 10
NDCG = f"ndcg_at_{TOP}"
NO_PAIR = "there is no pair to average over"  # one text, one image, or none that belongs to another
UNSEEN = -2.0  # as a score: below every cosine


@dataclass(frozen=True)
class CrossModal:
    """The texts and images of one task, and which belong together."""

    task: str  # without its direction
    texts: Vectors  # (T, D)
    images: Vectors  # (P, D)
    matches: Sequence[Sequence[int]]  # of each text: its images (`matches_of`)


def space_rows(
    results: Iterable[TaskResult], calibration: Calibration | None = None
) -> list[ScoreRow]:
    """Gap, alignment and uniformity of each task that searches images by texts.

    They come as the model gives them, then `centred`: each modality without its own mean in this
    task (no labels are used, and an index can do the same). calibration: that of the model
    directory; adds `calibrated`. Of graded images those of the highest grade belong to a text
    (`matches_of`).
    """
    rows: list[ScoreRow] = []
    for sides in cross_modal_sides(results):
        for variant, texts, images in _variants(sides, calibration):
            values = {
                "modality_gap": modality_gap(texts, images),
                "alignment": alignment(texts, images, sides.matches),
                "uniformity_text": uniformity(
                    texts, texts, [[row] for row in range(len(texts))]
                ),
                "uniformity_image": uniformity(
                    images, images, [[row] for row in range(len(images))]
                ),
                "uniformity_across": uniformity(texts, images, sides.matches),
            }
            rows += [
                ScoreRow(
                    sides.task,
                    name,
                    value,
                    None,
                    None,
                    variant=variant,
                    note="" if value is not None else NO_PAIR,
                )
                for name, value in values.items()
            ]
    return rows


def mixed_rows(
    results: Iterable[TaskResult], calibration: Calibration | None = None
) -> list[ScoreRow]:
    """What each task's texts and images find in one index of all its texts and images.

    A text asks all images and all texts but itself. Relevant are its images and the other texts
    of these images; where an image has one text, the image alone, and every other text is a
    distractor. An image asks likewise: its texts and the other images of these texts are
    relevant. Of graded images those of the highest grade belong to a text, all alike
    (`matches_of`); what has nothing to find is not asked. Rows of "TASK/text->mixed" and
    "TASK/image->mixed":

    `ndcg_at_10`; chance is that of a random order. `image_share_at_10`: how many of the ten found
    are images (the others are texts); chance is the share of images
        in what is searched. A space with a gap answers texts by texts and images by images.

    The vectors are those of the task, without a prompt where the task has none. Variants as for
    `space_rows`.
    """
    rows: list[ScoreRow] = []
    for sides in cross_modal_sides(results):
        num_texts = len(sides.texts)
        num_images = len(sides.images)
        to_text, to_image = _relevant_in_mixture(sides)
        for variant, texts, images in _variants(sides, calibration):
            pool = np.concatenate([texts, images])  # (N, D)
            for direction, relevant, first in (
                ("text", to_text, 0),
                ("image", to_image, num_texts),
            ):
                asked = sampled(
                    np.flatnonzero([bool(answers) for answers in relevant]), MAX_QUERIES
                )
                if not len(asked):
                    continue
                wanted = [relevant[number] for number in asked]
                found, share = mixed_index(pool, asked + first, wanted, num_texts)
                ndcg = float(metric_values(NDCG, found).mean())
                by_chance = chance(NDCG, len(pool) - 1, found)
                images_searched = num_images - (direction == "image")
                task = f"{sides.task}/{direction}->mixed"
                rows += [
                    ScoreRow(task, NDCG, ndcg, by_chance, None, variant=variant),
                    ScoreRow(
                        task,
                        f"image_share_at_{TOP}",
                        share,
                        images_searched / (len(pool) - 1),
                        None,
                        variant=variant,
                    ),
                ]
    return rows


def cross_modal_sides(results: Iterable[TaskResult]) -> Iterator[CrossModal]:
    """The tasks in which texts search images, one direction of each, if the model can do them."""
    for result in results:
        corpus = result.data.as_corpus()
        if corpus is None or not searches_images(corpus):
            continue
        if result.queries is not None and result.documents is not None:
            yield CrossModal(
                result.name.removesuffix("/text->image"),
                result.queries,
                result.documents,
                matches_of(corpus.judgements),
            )


def matches_of(judgements: Judgements) -> Sequence[Sequence[int]]:
    """For each query the documents that belong to it; of graded ones those that hit rates count.

    A product of the same category is relevant too, by a lower gain, but is not an image of what the
    text describes.
    """
    if judgements.gains is None:
        return judgements.relevant
    matches = []
    for documents, gains in zip(judgements.relevant, judgements.gains, strict=True):
        graded = zip(documents, gains, strict=True)
        matches.append(
            [
                document
                for document, gain in graded
                if gain > 0 and gain >= judgements.hit_gain
            ]
        )
    return matches


def searches_images(corpus: Ranking) -> bool:
    """Whether all queries are texts and all documents images."""
    return all(isinstance(query, str) for query in corpus.queries) and not any(
        isinstance(document, (str, Fused)) for document in corpus.documents
    )


def modality_gap(texts: Vectors, images: Vectors) -> float:
    """Distance of the centroids. texts: (T, D), images: (P, D)."""
    means = [vectors.mean(axis=0, dtype=np.float64) for vectors in (texts, images)]
    return float(np.linalg.norm(means[0] - means[1]))


def alignment(
    texts: Vectors, images: Vectors, matches: Sequence[Sequence[int]]
) -> float | None:
    """Mean squared distance of texts and their images; None where no text has one.

    texts: (T, D), images: (P, D). matches: of each text.
    """
    total = 0.0
    count = 0
    for start in range(0, len(texts), MAX_ROWS):
        found, other = _flat(matches[start : start + MAX_ROWS])
        difference = texts[start + found] - images[other]
        total += float(np.einsum("nd,nd->", difference, difference, dtype=np.float64))
        count += len(found)
    return total / count if count else None


def uniformity(
    left: Vectors, right: Vectors, ignored: Sequence[Sequence[int]]
) -> float | None:
    """log of the mean of exp(-2 ||a - b||^2) over pairs.

    Of more than MAX_ROWS rows of `left` a sample is used.
    left: (n, D), right: (m, D), unit vectors. ignored: for each row of `left` the rows of `right`
    that do not count. None where no pair is left.
    """
    rows = sampled(np.arange(len(left)), MAX_ROWS)
    step = max(1, BLOCK_SCORES // max(1, len(right)))
    total = 0.0
    count = 0
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        kernel = np.exp(4 * (left[block] @ right.T) - 4)  # ||a - b||^2 = 2 - 2 a.b
        own, other = _flat([ignored[row] for row in block])
        kernel[own, other] = 0
        total += float(kernel.sum(dtype=np.float64))
        count += kernel.size - len(own)
    return float(np.log(total / count)) if count else None


def mixed_index(
    pool: Vectors, asked: Positions, relevant: Sequence[Sequence[int]], num_texts: int
) -> tuple[Ranks, float]:
    """Ranks of what should be found, and the mean share of images among the ten found.

    pool: (N, D) unit vectors, texts before images. asked: which of them search the pool, each
        without itself.
    relevant: of each of those the positions in the pool that it should find.
    """
    shares: list[float] = []

    def blocks() -> Iterator[Vectors]:
        for start in range(0, len(asked), step := max(1, BLOCK_SCORES // len(pool))):
            block = asked[start : start + step]
            scores = pool[block] @ pool.T
            own = scores[np.arange(len(block)), block]
            scores[np.arange(len(block)), block] = UNSEEN
            top = np.argpartition(scores, len(pool) - top_size, axis=1)[
                :, len(pool) - top_size :
            ]
            shares.extend((top >= num_texts).mean(axis=1))
            scores[np.arange(len(block)), block] = (
                own  # that of its equals too, and left out below
            )
            yield scores

    top_size = min(TOP, len(pool) - 1)
    alone = [[number] for number in asked.tolist()]
    ranks = ranks_of_scores(
        blocks(), relevant, len(pool), excluded=alone, equals=equals_of(pool)
    )
    return ranks, float(np.mean(shares))


def _relevant_in_mixture(sides: CrossModal) -> tuple[list[list[int]], list[list[int]]]:
    """What each text and each image should find in the pool of texts, then images."""
    num_texts = len(sides.texts)
    texts_of: list[list[int]] = [[] for _ in sides.images]
    for text, images in enumerate(sides.matches):
        for image in images:
            texts_of[image].append(text)
    to_text = []
    for text, images in enumerate(sides.matches):
        others = {other for image in images for other in texts_of[image]} - {text}
        to_text.append([*sorted(others), *(num_texts + image for image in images)])
    to_image = []
    for image, texts in enumerate(texts_of):
        others = {other for text in texts for other in sides.matches[text]} - {image}
        to_image.append([*texts, *(num_texts + other for other in sorted(others))])
    return to_text, to_image


def _variants(
    sides: CrossModal, calibration: Calibration | None
) -> Iterator[tuple[str, Vectors, Vectors]]:
    yield "", sides.texts, sides.images
    try:
        own = fit_calibration(sides.texts, sides.images)
    # one image, or a collapsed model, of which the plain score has warned: nothing to centre
    except ValueError:
        own = None
    for variant, means in (("centred", own), ("calibrated", calibration)):
        if means is not None:
            yield (
                variant,
                centre(sides.texts, means.text_mean),
                centre(sides.images, means.image_mean),
            )


def _flat(lists: Sequence[Sequence[int]]) -> tuple[Positions, Positions]:
    """(row, value) of all values of all lists."""
    rows = np.repeat(np.arange(len(lists)), list(map(len, lists)))
    return rows, np.fromiter(chain.from_iterable(lists), np.int64, len(rows))
