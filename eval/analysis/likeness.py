"""When two texts or two images count as the same: by normalized words, runs of 13, and dHash.

13-grams: Brown et al. (2020), "Language Models are Few-Shot Learners", appendix C. dHash: Krawetz
(2013), "Kind of like that": does an image, shrunk to nine columns and eight rows, grow brighter
from each cell to the next?
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from unimodal.preprocess.images import decode_image

NUM_WORDS = 13  # of a run, as GPT-3's appendix C

Hashes = npt.NDArray[np.uint64]
Thumbnail = npt.NDArray[np.uint8]  # (16, 16, 3)

# Scripts that are written without spaces: each character counts as a word.
_UNSPACED = re.compile(
    r"([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff"
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])"
)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing


def words_of(text: str) -> list[str]:
    """The words of a text, in Unicode's NFKC form, without case, punctuation and symbols."""
    normalized = unicodedata.normalize("NFKC", text).casefold().translate(_SPACES)
    return _UNSPACED.sub(r" \1 ", normalized).split()


class _Spaces(dict[int, int]):
    """A table for str.translate that makes spaces of all characters outside words."""

    def __missing__(self, code: int) -> int:
        self[code] = ord(" ") if unicodedata.category(chr(code))[0] in "PSZC" else code
        return self[code]


_SPACES = _Spaces()


def run_hashes(
    texts: Sequence[Sequence[str]],
) -> tuple[Hashes, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A hash of every run of 13 words of each text, its text's number and its first word's place.

    texts: each as its words. The hashes hold within one process.
    """
    lengths = np.array([len(words) for words in texts], dtype=np.int64)
    words = np.array(
        [hash(word) for text in texts for word in text], dtype=np.int64
    ).astype(np.uint64)
    count = len(words) - NUM_WORDS + 1
    if count <= 0:
        return np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64)
    hashes = np.zeros(count, dtype=np.uint64)
    for place in range(NUM_WORDS):
        hashes = hashes * _FACTOR + words[place : place + count]
    numbers = np.repeat(np.arange(len(texts)), lengths)
    starts = np.arange(len(words)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    within = (
        numbers[:count] == numbers[NUM_WORDS - 1 :]
    )  # the others run from one text into the next
    return hashes[within], numbers[:count][within], starts[:count][within]


class Likeness(NamedTuple):
    """What is kept of an image to know it again."""

    dhash: int  # 64 bits
    thumbnail: Thumbnail


def likeness(content: bytes) -> Likeness:
    """Of an encoded image; ValueError if it cannot be decoded."""
    image = decode_image(content)
    cells = np.asarray(
        image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16
    )
    bits = np.packbits(cells[:, 1:] > cells[:, :-1])
    small = np.asarray(image.resize((16, 16), Image.Resampling.BOX), dtype=np.uint8)
    return Likeness(int.from_bytes(bits.tobytes(), "big"), small)


def are_alike(
    left: Likeness, right: Likeness, max_distance: int, max_difference: float
) -> bool:
    """Whether the hashes differ in few bits and the thumbnails by little.

    max_distance: bits. max_difference: mean over the thumbnail's values, of 255; without it, flat
    images and things of one shape in several colours, whose hashes are equal, would pass for each
    other.
    """
    if (left.dhash ^ right.dhash).bit_count() > max_distance:
        return False
    difference = np.abs(
        left.thumbnail.astype(np.int16) - right.thumbnail.astype(np.int16)
    ).mean()
    return bool(difference <= max_difference)


def bands(dhash: int, max_distance: int) -> Iterator[tuple[int, int]]:
    """(number, bits) of max_distance + 1 parts of a hash.

    Two hashes that differ in at most max_distance bits have at least one part in common.
    """
    count = max_distance + 1
    for number in range(count):
        first = 64 * number // count
        last = 64 * (number + 1) // count
        yield number, dhash >> first & ((1 << last - first) - 1)
