"""How much a score falls when queries are less clean than a benchmark's: typos, poor images, ...

Only the queries are changed and encoded again; the documents stay as they are. A change depends
only on the query, so that every model and every run gets the same queries.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from unimodal.config import nearest
from unimodal.preprocess.images import decode_image
from unimodal.vectors import Vectors

from ..cache import EmbeddingCache
from ..data.inputs import Deferred, Fused, ImageSource, Input, bytes_of, name_of
from ..data.task_data import Numbers, SubsetScores
from ..results import TaskResult
from ..scoring.metrics import check_vectors
from ..scoring.score_row import ScoreRow
from ..scoring.statistics import Bounds, mean_intervals
from .paraphrase import paraphrase

_NEIGHBOURS = {
    "q": "wa",
    "w": "qes",
    "e": "wrd",
    "r": "etf",
    "t": "ryg",
    "y": "tuh",
    "u": "yij",
    "i": "uok",
    "o": "ipl",
    "p": "ol",
    "a": "qsz",
    "s": "awdx",
    "d": "sefc",
    "f": "drgv",
    "g": "fthb",
    "h": "gyjn",
    "j": "hukm",
    "k": "jil",
    "l": "kop",
    "z": "asx",
    "x": "zsc",
    "c": "xdv",
    "v": "cfb",
    "b": "vgn",
    "n": "bhm",
    "m": "njk",
}


def typos(text: str) -> str:
    """One slip of the fingers in every fifth word of three letters or more, at least in one."""
    draw = random.Random(text)
    words = text.split(" ")
    able = [
        number for number, word in enumerate(words) if sum(map(str.isalpha, word)) >= 3
    ]
    for number in draw.sample(able, min(len(able), max(1, round(len(able) / 5)))):
        words[number] = _slip(words[number], draw)
    return " ".join(words)


def _slip(word: str, draw: random.Random) -> str:
    """A neighbouring key, two letters swapped, one left out or doubled; never the first letter."""
    places = [place for place, letter in enumerate(word) if letter.isalpha()][1:]
    place = draw.choice(places)
    letter = word[place]
    before = word[place - 1]
    kinds = ["drop", "double"]
    kinds += ["neighbour"] if letter.lower() in _NEIGHBOURS else []
    kinds += ["swap"] if before.isalpha() and place > 1 and before != letter else []
    kind = draw.choice(kinds)
    if kind == "swap":
        return word[: place - 1] + letter + before + word[place + 1 :]
    if kind == "neighbour":
        other = draw.choice(_NEIGHBOURS[letter.lower()])
        return (
            word[:place]
            + (other.upper() if letter.isupper() else other)
            + word[place + 1 :]
        )
    return word[:place] + letter * (2 if kind == "double" else 0) + word[place + 1 :]


def first_half(text: str) -> str:
    """The first half of the words, rounded up; of a text of one word the word."""
    words = text.split()
    return " ".join(words[: (len(words) + 1) // 2])


def poor_jpeg(image: Image.Image, _: random.Random) -> bytes:
    """JPEG of quality 10: blocks and wrong colours."""
    return _encoded(image, "JPEG", quality=10)


def small(image: Image.Image, _: random.Random) -> bytes:
    """At most 56 pixels along the shorter edge, a quarter of what most towers see."""
    return _encoded(_shrunk(image, 56))


def blur(image: Image.Image, _: random.Random) -> bytes:
    """Out of focus: a Gaussian of 1.5 pixels at the size that towers see."""
    return _encoded(_shrunk(image, 256).filter(ImageFilter.GaussianBlur(1.5)))


def noise(image: Image.Image, draw: random.Random) -> bytes:
    """A dark room: Gaussian noise of a tenth of the range at the size that towers see."""
    pixels = np.asarray(_shrunk(image, 256), dtype=np.float32)
    grains = np.random.default_rng(draw.getrandbits(64)).standard_normal(
        pixels.shape, dtype=np.float32
    )
    return _encoded(
        Image.fromarray(np.clip(pixels + 25.5 * grains, 0, 255).astype(np.uint8))
    )


TEXT_CHANGES: dict[str, Callable[[str], str]] = {
    "typos": typos,
    "paraphrase": paraphrase,
    "first half": first_half,
    "lower case": str.lower,
    "upper case": str.upper,
}
IMAGE_CHANGES: dict[str, Callable[[Image.Image, random.Random], bytes]] = {
    "poor jpeg": poor_jpeg,
    "small": small,
    "blur": blur,
    "noise": noise,
}
KINDS = (*TEXT_CHANGES, *IMAGE_CHANGES)


def changed(query: Input, kind: str) -> Input | None:
    """The query after one of `KINDS`; None if it has nothing to change.

    An image has no letters, and a text may have no known word. Of a text with an image the one that
    the kind is about is changed. An image is changed when it is read.
    """
    if kind in TEXT_CHANGES:
        text = query.text if isinstance(query, Fused) else query
        other = TEXT_CHANGES[kind](text) if isinstance(text, str) else ""
        if other == text or not other.strip():
            return None
        return Fused(other, query.image) if isinstance(query, Fused) else other
    if isinstance(query, Fused):
        return Fused(query.text, _changed_image(query.image, kind))
    return None if isinstance(query, str) else _changed_image(query, kind)


def robustness(
    result: TaskResult, cache: EmbeddingCache, kinds: Sequence[str] = KINDS
) -> list[ScoreRow]:
    """Score a task again with changed queries.

    result: scored, with its vectors; without them there are no rows. kinds: of `KINDS`; those that
    its queries do not have (letters of an image) give none.

    For each kind and metric two rows over the queries that it changes: the score ("typos") and how
    far that lies above the same queries' score before ("typos, difference"). Raises ValueError for
    an unknown kind, and for changed queries whose vectors are not finite or not of length 1.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(
                f"{kind!r} is not a change of queries; {nearest(kind, KINDS)}"
            )
    if result.queries is None or result.documents is None:
        return []
    queries = result.data.inputs()[0]
    rows: list[ScoreRow] = []
    for kind in kinds:
        others = {
            number: other
            for number, query in enumerate(queries.inputs)
            if (other := changed(query, kind)) is not None
        }
        if len(others) > 1:
            vectors = cache.encode(list(others.values()), queries.prompt)
            check_vectors(
                vectors,
                f"queries of {result.name} after {kind}",
                refuse_collapsed=False,
            )
            rows += _rows(result, kind, np.array(list(others)), vectors)
    return rows


def _rows(
    result: TaskResult, kind: str, numbers: Numbers, vectors: Vectors
) -> list[ScoreRow]:
    assert result.queries is not None
    assert result.documents is not None
    data = result.data
    metrics = result.metrics
    before = data.score_subset(
        metrics, numbers, result.queries[numbers], result.documents
    )
    after = data.score_subset(metrics, numbers, vectors, result.documents)
    if before is None or after is None:
        return []
    intervals = _difference_intervals(before, after)
    rows = []
    for metric, score in after.scores.items():
        plain = before.scores[metric]
        difference = None
        if score.value is not None and plain.value is not None:
            difference = score.value - plain.value
        rows += [
            ScoreRow(
                result.name,
                metric,
                score.value,
                None,
                None,
                *score.bounds,
                variant=kind,
                num=len(numbers),
                note=score.note,
            ),
            ScoreRow(
                result.name,
                metric,
                difference,
                None,
                None,
                *intervals.get(metric, (None, None)),
                variant=f"{kind}, difference",
                num=len(numbers),
                note=score.note or plain.note,
            ),
        ]
    return rows


def _difference_intervals(
    before: SubsetScores, after: SubsetScores
) -> dict[str, Bounds]:
    """metric -> a 95 % interval of the mean difference.

    None for a correlation, which has no values of single queries to resample.
    """
    if after.values.keys() != after.scores.keys():
        return {}
    differences = [
        after.values[metric] - before.values[metric] for metric in after.values
    ]
    return dict(zip(after.values, mean_intervals(differences), strict=True))


def _changed_image(source: ImageSource, kind: str) -> Deferred:
    name = (
        hashlib.sha256(source).hexdigest()
        if isinstance(source, bytes)
        else name_of(source)
    )
    return Deferred(f"{kind} of {name}", partial(_change_image, source, kind))


def _change_image(source: ImageSource, kind: str) -> bytes:
    content = bytes_of(source)
    return IMAGE_CHANGES[kind](decode_image(content), random.Random(content))


def _shrunk(image: Image.Image, shorter_edge: int) -> Image.Image:
    scale = shorter_edge / min(image.size)
    if scale >= 1:
        return image
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


def _encoded(image: Image.Image, extension: str = "PNG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, extension, **options)
    return buffer.getvalue()
