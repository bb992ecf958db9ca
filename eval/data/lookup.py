"""Product lookup: a text, a photo or both find a product among texts, images or both, with graded
relevance.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from unimodal.config import Config
from unimodal.tables.fields import Row, image_folder
from unimodal.tables.readers import RowsConfig, read_rows

from .from_rows import check_fields, images_of, texts_of
from .inputs import Fused, ImageSource, Input
from .retrieval import RetrievalData


class Described(Config):
    """Which fields put a row into words and images."""

    text: list[str] = Field(default=[])
    """Fields whose values are joined by commas; empty values are left out."""
    image: str = ""
    """Field of the image; paths are relative to `image_root`."""
    image_root: str = ""
    """Folder of the images, which no path may leave; default: the folder of the input."""

    @model_validator(mode="after")
    def _is_described(self) -> Described:
        if not self.text and not self.image:
            raise ValueError(
                "a product is described by a text, an image or both; set one."
            )
        return self


class Catalogue(Described):
    """The products that are searched, by their text, by the first of their images, and by both
    together.
    """

    rows: RowsConfig
    """Rows of the products."""


class Questions(Described):
    """What is asked: texts, photos, or with both fields set each photo together with its text."""

    rows: RowsConfig
    """Rows that are turned into queries."""
    splits: dict[str, dict[str, Any]] = Field(default={})
    """Keys to lay over `rows`, by split; empty: every split has all rows."""
    skip: int = Field(default=0, ge=0)
    """Leading images of a row that are not used as queries: the first is the catalogue's."""
    sibling: str = ""
    """Field: the photo is of another row with its value, the text of the wanted row: "in red"."""
    fields: dict[str, str] = Field(default={})
    """Name of each graded field of the catalogue in these rows."""


def lookup_data(
    asked: Sequence[Row],
    catalogue: Sequence[Row],
    questions: Questions,
    described: Catalogue,
    grades: Mapping[str, float],
    form: str,
    root: Path,
) -> RetrievalData:
    """Questions to a catalogue in one of its forms.

    asked: rows that are asked about. catalogue: rows that are found.
    grades: a field -> how relevant a product is that agrees with the question in it; the highest
        counts.
    form: "text", "image" or "fused": what of a product is searched.
    root: what the inputs of both are relative to.

    A photo that is in the catalogue is not asked with: it would find itself. A hit is a product of
    the highest grade. A question without one, though with products like it, stays: its hit rate is
    0 whatever is found, which a warning says once. One without any relevant product is left out.
    Raises ValueError, naming the row, for a product without its text or image.
    """
    check_fields(catalogue, _fields_of(described, grades), described.rows.input)
    asked_fields = [questions.fields.get(name, name) for name in grades]
    check_fields(
        asked,
        _fields_of(questions, [*asked_fields, questions.sibling]),
        questions.rows.input,
    )
    folder = image_folder(described.rows.input, described.image_root, root)
    shown = [
        _first(images_of(row, described.image, folder)) if described.image else None
        for row in catalogue
    ]
    documents = [
        _product(row, picture, described.text, form)
        for row, picture in zip(catalogue, shown, strict=True)
    ]
    places = {name: _places(catalogue, name) for name in grades}
    questions_folder = image_folder(questions.rows.input, questions.image_root, root)
    found: dict[Input, dict[int, float]] = {}
    for question, row in _questions(asked, questions, questions_folder, set(shown)):
        relevant = found.setdefault(question, {})
        for name, grade in grades.items():
            for value in _values(row, questions.fields.get(name, name)):
                for product in places[name].get(value, ()):
                    relevant[product] = max(grade, relevant.get(product, 0.0))
    kept = {question: relevant for question, relevant in found.items() if relevant}
    _warn_of_no_hits(kept, max(grades.values()))
    return RetrievalData(
        queries=list(kept),
        documents=documents,
        relevant=[list(relevant) for relevant in kept.values()],
        gains=[list(relevant.values()) for relevant in kept.values()],
        hit_gain=max(grades.values()),
    )


def _fields_of(described: Described, others: Iterable[str]) -> list[str]:
    return [field for field in (*described.text, described.image, *others) if field]


def _warn_of_no_hits(
    questions: Mapping[Input, Mapping[int, float]], grade: float
) -> None:
    without = [
        question
        for question, relevant in questions.items()
        if grade not in relevant.values()
    ]
    if without:
        warnings.warn(
            f"{len(without)} of {len(questions)} questions have no product of grade {grade:g} in "
            f"the catalogue (first {without[0]!r:.80}), so hit rates count them as missed; leave "
            "them out with `where`.",
            stacklevel=3,
        )


def forms_of(described: Catalogue) -> list[str]:
    """In which forms a catalogue can be searched."""
    has = {
        "text": described.text,
        "image": described.image,
        "fused": described.text and described.image,
    }
    return [form for form, there in has.items() if there]


def rows_of_catalogue(described: Catalogue, root: Path) -> list[Row]:
    """Its rows."""
    return list(read_rows(described.rows, root))


def _questions(
    rows: Sequence[Row],
    questions: Questions,
    folder: Path,
    shown: set[ImageSource | None],
) -> Iterator[tuple[Input, Row]]:
    """Each question and the row that it is about."""
    siblings: dict[str, list[Row]] = {}
    for row in rows if questions.sibling else ():
        for value in _values(row, questions.sibling):
            siblings.setdefault(value, []).append(row)
    for row in rows:
        text = _text(row, questions.text)
        if questions.text and not text:
            continue
        if not questions.image:
            yield text, row
            continue
        others = [row]
        if questions.sibling:
            others = [
                other
                for value in _values(row, questions.sibling)
                for other in siblings[value]
            ]
            others = [other for other in others if other is not row]
        for photo in _photos(others, questions, folder, shown):
            yield (Fused(text, photo) if questions.text else photo), row


def _photos(
    rows: Iterable[Row],
    questions: Questions,
    folder: Path,
    shown: set[ImageSource | None],
) -> Iterator[ImageSource]:
    for row in rows:
        for photo in images_of(row, questions.image, folder)[questions.skip :]:
            if photo not in shown:
                yield photo


def _product(
    row: Row, picture: ImageSource | None, fields: Sequence[str], form: str
) -> Input:
    text = _text(row, fields)
    if (form != "image" and not text) or (form != "text" and picture is None):
        missing = "an image" if picture is None and form != "text" else "a text"
        raise ValueError(
            f"a product without {missing}: {str(row)[:120]}; leave its row out with `where`."
        )
    if form == "text":
        return text
    assert picture is not None
    return Fused(text, picture) if form == "fused" else picture


def _text(row: Row, fields: Sequence[str]) -> str:
    return ", ".join(text for name in fields for text in texts_of(row, name))


def _first(images: Sequence[Path | bytes]) -> Path | bytes | None:
    return images[0] if images else None


def _places(catalogue: Sequence[Row], name: str) -> dict[str, list[int]]:
    """Value of a field -> the products that have it; a list has several."""
    places: dict[str, list[int]] = {}
    for number, row in enumerate(catalogue):
        for value in _values(row, name):
            places.setdefault(value, []).append(number)
    return places


def _values(row: Row, name: str) -> list[str]:
    return list(dict.fromkeys(texts_of(row, name)))
