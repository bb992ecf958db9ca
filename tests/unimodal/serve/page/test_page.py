"""The search page in a real browser, before the real server: what a visitor does."""

from __future__ import annotations

import io
import re
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from tests.unimodal.serve.page.visiting import (
    ask,
    box,
    compare_with,
    query,
    settled,
    titles,
)
from tests.unimodal.serve.shop import INJECTED, png, title
from unimodal.embedder import Embedder
from unimodal.search.filters.parser import parse_where


def test_words_find_products_with_their_scores_and_the_time_it_took(
    opened: Any,
) -> None:
    ask(opened, title(4))
    compare_with(opened, "text")
    best = opened.locator(".hit").first
    assert best.locator(".title").inner_text() == title(4)
    assert best.locator(".number").inner_text() == "1.000"
    assert best.locator(".badge").inner_text() == "text"
    assert best.locator(".facts").inner_text().startswith("9.00")
    best.locator("img").evaluate("image => image.decode()")
    assert best.locator("img").evaluate("image => image.naturalWidth") == 48
    assert re.search(
        r"24 items, best first · \d+ ms", opened.locator("#status").inner_text()
    )
    assert opened.locator("#catalogue").inner_text() == "30 items"
    assert opened.title() == f"{title(4)} – search"


def test_a_chosen_image_finds_its_product_and_words_mix_in_by_the_slider(
    opened: Any,
) -> None:
    opened.set_input_files(
        "#file", {"name": "mine.png", "mimeType": "image/png", "buffer": png(11)}
    )
    opened.wait_for_selector("#example:visible")
    settled(opened)
    compare_with(opened, "image")
    assert titles(opened)[0] == title(11)
    assert opened.locator("#mix").is_hidden()
    ask(opened, title(4))
    slider = opened.locator("#weight")
    slider.focus()
    opened.keyboard.press("End")  # all image
    settled(opened)
    assert titles(opened)[0] == title(11)
    assert "100" in query(opened)
    compare_with(opened, "text")
    slider.focus()
    opened.keyboard.press("Home")  # all words
    settled(opened)
    assert titles(opened)[0] == title(4)
    opened.click("#example-remove")
    settled(opened)
    assert opened.locator("#example").is_hidden()


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_an_image_can_be_pasted_and_dropped(opened: Any, way: str) -> None:
    opened.evaluate(
        """([way, bytes]) => {
            const transfer = new DataTransfer();
            const content = [new Uint8Array(bytes)];
            transfer.items.add(new File(content, "mine.png", { type: "image/png" }));
            const event = way === "paste"
              ? new ClipboardEvent("paste", { clipboardData: transfer })
              : new DragEvent("drop", { dataTransfer: transfer, cancelable: true });
            window.dispatchEvent(event);
        }""",
        [way, list(png(11))],
    )
    opened.wait_for_selector("#example:visible")
    settled(opened)
    compare_with(opened, "image")
    assert titles(opened)[0] == title(11)


def test_a_large_image_is_sent_small(opened: Any) -> None:
    sent = []
    opened.on(
        "request",
        lambda request: (
            sent.append(request.post_data or "") if "search" in request.url else None
        ),
    )
    buffer = io.BytesIO()
    Image.effect_noise((1800, 1200), 60).save(buffer, "JPEG", quality=95)
    opened.set_input_files(
        "#file",
        {"name": "big.jpg", "mimeType": "image/jpeg", "buffer": buffer.getvalue()},
    )
    opened.wait_for_selector("#example:visible")
    settled(opened)
    assert 0 < max(map(len, sent)) < 1_400_000 < len(buffer.getvalue())


def test_filters_narrow_the_results_are_named_and_taken_away_again(opened: Any) -> None:
    box(opened, "Red").check()
    settled(opened)
    assert len(titles(opened)) == 10
    opened.get_by_label("Price, at most").nth(1).fill("14")
    opened.keyboard.press("Enter")
    settled(opened)
    assert sorted(titles(opened)) == sorted(title(number) for number in (0, 3, 6, 9))
    assert opened.locator("#chosen").inner_text().split("\n") == [
        "Colour: Red",
        "Price: up to 14",
    ]
    assert "is.colour=Red" in query(opened)
    opened.get_by_role("button", name="Remove the filter Colour: Red").click()
    settled(opened)
    assert len(titles(opened)) == 10
    assert not box(opened, "Red").is_checked()


def test_a_range_is_moved_by_its_thumbs(opened: Any) -> None:
    opened.get_by_label("Price, at least").first.focus()
    opened.keyboard.press("End")
    settled(opened)
    assert opened.locator("#empty").is_hidden()
    assert len(titles(opened)) == 1
    assert opened.get_by_label("Price, at least").nth(1).input_value() == "33"


def test_a_click_on_a_product_finds_more_like_it_and_words_turn_it(opened: Any) -> None:
    ask(opened, title(4))
    opened.locator(".hit").nth(2).click()
    opened.wait_for_selector("#example:visible")
    settled(opened)
    assert "like=p/" in query(opened)
    assert opened.locator("#text").input_value() == ""
    assert opened.locator("#example-name").inner_text().startswith("like ")
    ask(opened, "blue")
    assert opened.locator("#mix").is_visible()
    assert "q=blue" in query(opened)


def test_the_address_is_the_search_and_the_back_button_brings_back_an_image(
    opened: Any, address: str
) -> None:
    opened.set_input_files(
        "#file", {"name": "mine.png", "mimeType": "image/png", "buffer": png(11)}
    )
    opened.wait_for_selector("#example:visible")
    settled(opened)
    with_image = titles(opened)
    opened.click("#example-remove")
    settled(opened)
    opened.go_back()
    opened.wait_for_selector("#example:visible")
    settled(opened)
    assert titles(opened) == with_image
    opened.goto(
        f"{address}?q=lamp&is.colour=Blue&from.price=20&without=chair&one=1&unknown=1&is.nothing=2"
    )
    settled(opened)
    assert opened.locator("#text").input_value() == "lamp"
    assert opened.locator("#without").input_value() == "chair"
    assert box(opened, "Blue").is_checked()
    assert opened.locator("#group").is_checked()
    assert opened.locator("#chosen li").count() == 2


def test_an_empty_result_says_so_and_offers_the_way_out(opened: Any) -> None:
    opened.get_by_label("Price, at least").nth(1).fill("33")
    opened.keyboard.press("Enter")
    settled(opened)
    box(opened, "Red").check()
    settled(opened)
    assert opened.locator("#empty").is_visible()
    assert titles(opened) == []
    opened.click("#empty-clear")
    settled(opened)
    assert opened.locator("#empty").is_hidden()
    assert len(titles(opened)) == 24


def test_more_are_shown_on_demand(opened: Any) -> None:
    opened.click("#more")
    settled(opened)
    assert len(titles(opened)) == 30
    assert opened.locator("#more").is_hidden()


def test_a_broken_file_is_a_readable_error_and_the_page_goes_on(opened: Any) -> None:
    opened.set_input_files(
        "#file",
        {"name": "broken.png", "mimeType": "image/png", "buffer": b"no image"},
    )
    opened.wait_for_selector("#trouble:visible")
    assert "“broken.png” cannot be read" in opened.locator("#trouble").inner_text()
    opened.get_by_role("button", name="Continue without it").click()
    settled(opened)
    assert opened.locator("#trouble").is_hidden()
    assert len(titles(opened)) == 24


def test_an_open_page_follows_the_store(
    opened: Any, shop: tuple[Embedder, Any]
) -> None:
    embedder, store = shop
    assert opened.inner_text("#catalogue") == "30 items"
    row = pa.Table.from_batches(list(store.scan(where=parse_where("id = 'p/3'"))))
    row = row.set_column(row.column_names.index("id"), "id", pa.array(["new"]))
    store.upsert(row, fingerprint=embedder.fingerprint())
    try:
        opened.wait_for_timeout(3_100)
        ask(opened, "mug")
        opened.wait_for_selector("#catalogue:has-text('31 items')")
    finally:
        store.delete(ids=["new"])


def test_everything_is_done_by_keyboard(opened: Any) -> None:
    opened.keyboard.press("Escape")
    assert opened.evaluate("document.activeElement.id") == "text"
    opened.keyboard.type("mug")
    opened.keyboard.press("Enter")
    settled(opened)
    opened.evaluate("document.activeElement.blur()")
    opened.keyboard.press("/")
    assert opened.evaluate("document.activeElement.id") == "text"
    opened.locator(".hit").first.focus()
    columns = opened.evaluate(
        "getComputedStyle(document.querySelector('#hits')).gridTemplateColumns.split(' ').length"
    )
    assert columns > 1
    place = "[...document.querySelectorAll('.hit')].indexOf(document.activeElement)"
    moved = (
        "Promise.allSettled(document.getAnimations()"
        ".filter((each) => each instanceof CSSTransition).map((each) => each.finished))"
    )
    for key, expected in [
        ("ArrowDown", columns),
        ("ArrowUp", 0),
        ("ArrowRight", 1),
        ("ArrowDown", 1 + columns),
    ]:
        opened.evaluate(moved)  # the focused card has been lifted
        opened.keyboard.press(key)
        assert opened.evaluate(place) == expected
    ring = "getComputedStyle(document.activeElement).outlineStyle"
    assert opened.evaluate(ring) == "solid"
    opened.keyboard.press("Enter")
    opened.wait_for_selector("#example:visible")
    settled(opened)
    assert "like=" in query(opened)
    opened.keyboard.press("Escape")
    assert opened.evaluate("document.activeElement.id") == "text"
    opened.keyboard.press("Escape")  # the box is empty: the item goes too
    settled(opened)
    assert opened.locator("#example").is_hidden()


def test_everything_has_a_name_for_who_cannot_see(opened: Any) -> None:
    ask(opened, "bag")
    nameless = opened.evaluate(
        """[...document.querySelectorAll("button, input, select")].filter((control) => {
            const name = control.getAttribute("aria-label") || control.labels?.length;
            return control.offsetParent && !(name || control.textContent.trim());
        }).length"""
    )
    assert nameless == 0
    assert opened.locator("#status").get_attribute("aria-live") == "polite"


@pytest.mark.parametrize("width", [360, 768])
def test_a_phone_needs_no_sideways_scrolling(opened: Any, width: int) -> None:
    opened.set_viewport_size({"width": width, "height": 740})
    ask(opened, INJECTED)
    opened.click("#filters-toggle")
    if width < 560:
        opened.click("#options-toggle")
    assert opened.locator("#filters-body").is_visible()
    assert opened.locator("#without").is_visible()
    assert opened.evaluate("document.documentElement.scrollWidth") == width


def test_what_belongs_to_a_query_waits_for_one(opened: Any) -> None:
    without = opened.locator("#without")
    assert without.is_disabled()
    assert opened.locator("#group").is_disabled()
    opened.locator("#text").press_sequentially("mug")
    without.fill("chair")
    without.press("Enter")
    settled(opened)
    assert query(opened) == "?q=mug&without=chair"
    opened.fill("#text", "")
    opened.keyboard.press("Enter")
    settled(opened)
    assert without.is_disabled()
    assert opened.locator("#trouble").is_hidden()


def test_numbers_are_shown_as_they_are(opened: Any) -> None:
    texts = opened.evaluate(
        "import('/page/filters.js').then((filters) => filters.describeFilters({made: {low: "
        "20240131, high: 0.1 + 0.2}}))"
    )
    assert texts[0]["text"] == "Made: 20240131 to 0.3"
