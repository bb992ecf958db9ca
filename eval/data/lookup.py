"""Product lookup: a text, a photo or both find a product, with graded relevance."""

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
    """What is rows: texts, photos, or with both fields set each photo together with its text."""

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
    rows: Sequence[Row],
    catalogue: Sequence[Row],
    questions: Questions,
    described: Catalogue,
    grades: Mapping[str, float],
    form: str,
    root: Path,
) -> RetrievalData:
    """Questions to a catalogue in one of its forms.

    rows: rows of the questions. catalogue: rows of the products.
    grades: a field -> how relevant a product is that agrees with the question in it; the highest
        counts.
    form: "text", "image" or "fused": what of a product is searched.
    root: what the inputs of both are relative to.

    A photo that is in the catalogue is not a query: it would find itself. A hit is a product of
    the highest grade. A question without one, though with products like it, stays: its hit rate is
    0 whatever is found, which a warning says once. One without any relevant product is left out.
    Raises ValueError, naming the row, for a product without its text or image.
    """
    check_fields(catalogue, _fields_of(described, grades), described.rows.input)
    graded_fields = [questions.fields.get(name, name) for name in grades]
    check_fields(
        rows,
        _fields_of(questions, [*graded_fields, questions.sibling]),
        questions.rows.input,
    )
    folder = image_folder(described.rows.input, described.image_root, root)
    images = [
        _first_image(row, described.image, folder) if described.image else None
        for row in catalogue
    ]
    documents = [
        _product(row, image, described.text, form)
        for row, image in zip(catalogue, images, strict=True)
    ]
    owners = {name: _owners(catalogue, name) for name in grades}
    questions_folder = image_folder(questions.rows.input, questions.image_root, root)
    judged: dict[Input, dict[int, float]] = {}
    for question, row in _questions(rows, questions, questions_folder, set(images)):
        relevant = judged.setdefault(question, {})
        for name, grade in grades.items():
            for value in _values(row, questions.fields.get(name, name)):
                for product in owners[name].get(value, ()):
                    relevant[product] = max(grade, relevant.get(product, 0.0))
    kept = {question: relevant for question, relevant in judged.items() if relevant}
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
    """The forms of a catalogue that can be searched."""
    fields = {
        "text": described.text,
        "image": described.image,
        "fused": described.text and described.image,
    }
    return [form for form, needed in fields.items() if needed]


def rows_of_catalogue(described: Catalogue, root: Path) -> list[Row]:
    """The rows of a catalogue."""
    return list(read_rows(described.rows, root))


def _questions(
    rows: Sequence[Row],
    questions: Questions,
    folder: Path,
    known: set[ImageSource | None],
) -> Iterator[tuple[Input, Row]]:
    """Each question and the row that it is about.

    known: images of the catalogue, which are not used as photos.
    """
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
        owners = [row]
        if questions.sibling:
            values = _values(row, questions.sibling)
            same = [other for value in values for other in siblings[value]]
            owners = [other for other in same if other is not row]
        for photo in _photos(owners, questions, folder, known):
            yield (Fused(text, photo) if questions.text else photo), row


def _photos(
    rows: Iterable[Row],
    questions: Questions,
    folder: Path,
    known: set[ImageSource | None],
) -> Iterator[ImageSource]:
    for row in rows:
        for photo in images_of(row, questions.image, folder)[questions.skip :]:
            if photo not in known:
                yield photo


def _product(
    row: Row, image: ImageSource | None, fields: Sequence[str], form: str
) -> Input:
    text = _text(row, fields)
    if (form != "image" and not text) or (form != "text" and image is None):
        missing = "an image" if image is None and form != "text" else "a text"
        raise ValueError(
            f"a product without {missing}: {str(row)[:120]}; leave its row out with `where`."
        )
    if form == "text":
        return text
    assert image is not None
    return Fused(text, image) if form == "fused" else image


def _text(row: Row, fields: Sequence[str]) -> str:
    return ", ".join(text for name in fields for text in texts_of(row, name))


def _first_image(row: Row, name: str, folder: Path) -> Path | bytes | None:
    images = images_of(row, name, folder)
    return images[0] if images else None


def _owners(catalogue: Sequence[Row], name: str) -> dict[str, list[int]]:
    """Value of a field -> the products that have it; a list has several."""
    owners: dict[str, list[int]] = {}
    for number, row in enumerate(catalogue):
        for value in _values(row, name):
            owners.setdefault(value, []).append(number)
    return owners


def _values(row: Row, name: str) -> list[str]:
    return list(dict.fromkeys(texts_of(row, name)))
