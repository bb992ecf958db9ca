"""The demo's page: the scores and a dozen searches, in one HTML file that needs nothing else, light
or dark.

Python prepares plain values; `page.html.j2` escapes them and lays them out.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from .results import Result, ResultGroup

EXPLANATIONS = {
    "text → image": "A customer's words, found among images. No image has any text with it.",
    "image → text": "An image, found among descriptions.",
    "image → image": "A product drawn again, from another angle and in another place, found among "
    "the images.",
    "text → text": "A customer's words, found among descriptions.",
}
QUALITY = 88  # of the JPEGs


class Score(NamedTuple):
    """A row of the table of scores, as texts."""

    task: str
    metric: str
    value: str
    chance: str
    baseline: str


class Card(NamedTuple):
    """One product that was found, by its image or by its text."""

    image: str  # a data URI; "" without an image
    title: str
    text: str
    is_right: bool
    shared: str  # what it has in common with the right product
    similarity: str
    price: str


class Search(NamedTuple):
    """One query, as a text or as an image, and what was found."""

    text: str
    image: str  # a data URI; "" for a text
    rank: int  # of the right product
    has_images: bool
    cards: list[Card]


class Direction(NamedTuple):
    """The searches of one direction."""

    title: str
    explanation: str
    searches: list[Search]


def write_page(
    path: Path,
    *,
    title: str,
    introduction: str,
    groups: Sequence[ResultGroup],
    scores: Sequence[Mapping[str, object]],
    facts: Mapping[str, str],
    showcase: Sequence[tuple[str, Image.Image]] = (),
    footer: str = "",
) -> None:
    """Write the page to `path`. All texts are escaped; images are embedded.

    groups: the searches, one direction after the other (`build_groups`).
    scores: one row per measurement: "task", "metric", "value", "chance", "baseline"; numbers,
        texts, or None for a dash.
    facts: what to know at a glance, such as {"products": "1,024", "training": "92 s"}.
    showcase: titles and images for the head of the page (`draw_showcase`).
    """
    folder = Path(__file__).parent
    environment = Environment(
        autoescape=True,
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    html = environment.get_template("page.html.j2").render(
        title=title,
        introduction=introduction,
        directions=_directions(groups),
        scores=[_score(row) for row in scores],
        facts=facts,
        showcase=[(name, _data_uri(image)) for name, image in showcase],
        footer=footer,
        style=(folder / "page.css").read_text(encoding="utf-8"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")


def _directions(groups: Sequence[ResultGroup]) -> list[Direction]:
    directions = []
    for direction, searches in groupby(groups, lambda group: group.direction):
        explanation = EXPLANATIONS.get(direction, "")
        shown = [_search(group) for group in searches]
        directions.append(Direction(direction.capitalize(), explanation, shown))
    return directions


def _search(group: ResultGroup) -> Search:
    query = group.query
    return Search(
        text=query if isinstance(query, str) else "",
        image="" if isinstance(query, str) else _data_uri(query),
        rank=group.right_rank,
        has_images=bool(group.results) and group.results[0].image is not None,
        cards=[_card(result) for result in group.results],
    )


def _card(result: Result) -> Card:
    return Card(
        image="" if result.image is None else _data_uri(result.image),
        title=result.title,
        text=result.text,
        is_right=result.right,
        shared=" and ".join(result.shared),
        similarity=f"{result.similarity:.2f}",
        price=f"${result.price:.2f}",
    )


def _score(row: Mapping[str, object]) -> Score:
    return Score(
        task=str(row["task"]),
        metric=str(row["metric"]),
        value=_format_number(row["value"]),
        chance=_format_number(row.get("chance")),
        baseline=_format_number(row.get("baseline")),
    )


def _format_number(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/jpeg;base64,{encoded}"
