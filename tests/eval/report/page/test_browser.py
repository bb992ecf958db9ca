"""The page in a real browser: what its script does, and that nothing is asked of a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.analysis.space_map import space_maps
from eval.data.retrieval import RetrievalData
from eval.report.page import ModelReport, write_report
from eval.results import TaskResult
from eval.scoring.score_row import ScoreRow


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """A page of six texts that find six images, with a table of three scores; it may not
    complain.
    """
    images = [tmp_path / f"{number}.png" for number in range(6)]
    for image in images:
        Image.new("RGB", (64, 64), "red").save(image)
    vectors = np.eye(12, dtype=np.float32)
    data = RetrievalData(
        [f"text {n}" for n in range(6)], list(images), [[n] for n in range(6)]
    )
    rows = [
        ScoreRow("red/text->image", "hit_rate_at_1", 0.2, 0.1, None),
        ScoreRow("red/text->image", "hit_rate_at_5", None, 0.1, None),
        ScoreRow("red/text->image", "hit_rate_at_10", 0.9, 0.1, None),
    ]
    result = TaskResult(
        "red/text->image", "cross-modal", data, rows, {}, vectors[:6], vectors[6:]
    )
    write_report(
        tmp_path / "page.html",
        {"": ModelReport([result], maps=space_maps([result]))},
        title="t",
    )
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: (
            complaints.append(request.url)
            if request.url[:5] not in ("file:", "data:")
            else 0
        ),
    )
    page.goto((tmp_path / "page.html").as_uri())
    yield page
    page.close()
    assert complaints == []


def metrics(page: Any) -> list[str]:
    rows: list[str] = page.locator("#scores tbody tr td:nth-child(2)").all_inner_texts()
    return rows


def test_a_key_on_a_head_sorts_its_column_and_a_third_gives_the_order_back(
    opened: Any,
) -> None:
    head = opened.locator("#scores th").nth(2)
    orders = [metrics(opened)]
    head.locator("button").focus()
    for _ in range(3):
        opened.keyboard.press("Enter")
        orders.append([*metrics(opened), head.get_attribute("aria-sort")])
    assert orders == [
        ["hit_rate_at_1", "hit_rate_at_5", "hit_rate_at_10"],
        ["hit_rate_at_10", "hit_rate_at_1", "hit_rate_at_5", "descending"],
        [
            "hit_rate_at_1",
            "hit_rate_at_10",
            "hit_rate_at_5",
            "ascending",
        ],  # what is missing stays last
        ["hit_rate_at_1", "hit_rate_at_5", "hit_rate_at_10", None],
    ]


def test_pointing_at_a_text_of_the_map_shows_it_and_its_image(opened: Any) -> None:
    point = opened.locator(".map .point.text").nth(3)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    opened.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tip = opened.locator(".map .tip")
    assert tip.is_visible()
    assert tip.inner_text().splitlines()[0].startswith("text ")
    assert tip.locator("img").first.evaluate("image => image.naturalWidth") == 64
    assert opened.locator(".map .mates line").count() == 1
    frame = opened.locator(".map").bounding_box()
    shown = tip.bounding_box()
    assert frame["y"] <= shown["y"]
    assert shown["y"] + shown["height"] <= frame["y"] + frame["height"]
    opened.mouse.move(1, 1)
    assert tip.is_hidden()


def test_arrow_keys_walk_over_the_map_past_what_is_hidden(opened: Any) -> None:
    opened.locator(".map svg").focus()
    opened.keyboard.press("ArrowRight")
    assert opened.locator(".map .tip").inner_text().startswith("text 0")
    opened.locator(".map .legend button").first.click()
    assert opened.locator(".map .point.text").first.is_hidden()
    opened.locator(".map svg").focus()
    opened.keyboard.press("ArrowRight")
    assert opened.locator(".map .tip").inner_text().startswith("0.png")


@pytest.mark.parametrize(("width", "rows"), [(1300, 2), (360, 1)])
def test_the_links_to_all_sections_are_reached_without_a_bar_and_hide_no_title(
    opened: Any, width: int, rows: int
) -> None:
    opened.set_viewport_size({"width": width, "height": 640})
    links = opened.locator("nav .inner")
    links.evaluate(
        "nav => { while (nav.children.length < 14) nav.append(nav.firstChild.cloneNode(true)); }"
    )
    links.evaluate(
        "nav => nav.querySelectorAll('a').forEach(link => { link.textContent = 'Changed "
        "vectors'; })"
    )
    height, tops, is_wide, bar = links.evaluate(
        "nav => [nav.offsetHeight, new Set([...nav.children].map(link => link.offsetTop)).size,"
        " nav.scrollWidth > nav.clientWidth, getComputedStyle(nav).scrollbarWidth]"
    )
    assert tops == rows
    assert not is_wide or bar == "none"
    assert (
        opened.evaluate(
            "parseFloat(getComputedStyle(document.documentElement).scrollPaddingTop)"
        )
        >= height
    )


def test_a_phone_needs_no_sideways_scrolling(opened: Any) -> None:
    opened.set_viewport_size({"width": 360, "height": 640})
    assert opened.evaluate("document.documentElement.scrollWidth") == 360
