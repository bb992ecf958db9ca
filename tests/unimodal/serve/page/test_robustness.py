"""What a page does when the server is gone, slow or asks for a key, and what it may never do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.unimodal.serve.page.conftest import Running, Watched
from tests.unimodal.serve.page.visiting import (
    ask,
    compare_with,
    query,
    settled,
    titles,
)
from tests.unimodal.serve.shop import INJECTED, title
from unimodal.embedder import Embedder
from unimodal.serve.app import create_app
from unimodal.serve.config import API_KEYS, ServeConfig
from unimodal.serve.engine.engine import Engine

KEY = "a-key-of-the-shop-1234"


def test_what_the_catalogue_holds_is_shown_as_text_and_never_run(opened: Any) -> None:
    ask(opened, INJECTED)
    compare_with(opened, "text")
    assert titles(opened)[0] == INJECTED
    opened.get_by_role(
        "button", name=re.compile(re.escape(title(8)))
    ).click()  # its id is a script
    settled(opened)
    assert opened.locator("#example-name").inner_text() == f"like {title(8)}"
    assert opened.locator("script").count() == 1
    assert (
        opened.evaluate("document.querySelectorAll('img[onerror], body > img').length")
        == 0
    )
    assert "owned" not in opened.title()


def test_a_server_that_is_gone_is_said_and_the_search_is_kept(
    browser: Any, shop: tuple[Embedder, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page asks for a key if the server needs one, and uses it for images too."""
    monkeypatch.setenv(API_KEYS, KEY)
    running = Running(*shop)
    page = Watched(browser, running.address).page
    page.goto(running.address)
    page.wait_for_selector("#key[open]")
    page.fill("#key-value", "not-the-key-not-the-key")
    page.keyboard.press("Enter")
    page.get_by_text("That key was refused").wait_for()
    page.fill("#key-value", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit .frame.loaded")
    assert page.locator(".hit img").first.get_attribute("src").startswith("blob:")
    assert page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
    running.stop()
    page.fill("#text", "mug")
    page.keyboard.press("Enter")
    page.wait_for_selector("#trouble:visible")
    assert "The server does not answer" in page.locator("#trouble").inner_text()
    assert page.locator("#text").input_value() == "mug"
    page.close()


def test_a_link_keeps_its_filters_when_the_store_answers_only_at_the_second_try(
    page: Any, address: str
) -> None:
    page.route("**/v1/store", lambda route: route.abort(), times=1)
    page.goto(f"{address}?q=lamp&is.colour=Blue")
    page.click("#again:visible")
    page.wait_for_selector(".hit")
    assert page.locator("#chosen").inner_text() == "Colour: Blue"
    assert page.locator("#text").input_value() == "lamp"


def test_words_sent_before_the_store_has_answered_join_the_links_filters(
    page: Any, address: str
) -> None:
    held: list[Any] = []
    page.route("**/v1/store", lambda route: held.append(route))
    page.goto(f"{address}?q=lamp&is.colour=Blue")
    page.fill("#text", "mug")
    page.keyboard.press("Enter")
    for route in held:
        route.continue_()
    page.wait_for_selector(".hit")
    assert len(held) == 1
    assert query(page) == "?q=mug&is.colour=Blue"
    assert page.locator("#vector option").all_inner_texts() == [
        "automatic",
        "texts",
        "images",
        "both at once",
    ]


def test_words_that_found_no_store_are_sent_by_try_again(
    page: Any, address: str
) -> None:
    page.route("**/v1/store", lambda route: route.abort(), times=2)
    page.goto(address)
    page.wait_for_selector("#trouble:visible")
    page.fill("#text", "mug")
    page.keyboard.press("Enter")
    page.click("#again")
    page.wait_for_selector(".hit")
    assert query(page) == "?q=mug"
    assert page.locator("#text").input_value() == "mug"


def test_an_items_image_that_is_gone_costs_no_more_than_the_image(
    page: Any, address: str
) -> None:
    page.add_init_script(
        "sessionStorage.setItem('unimodal-key', 'with a key, images are asked for by script')"
    )
    page.route("**/v1/thumbnails/**", lambda route: route.fulfill(status=404))
    page.goto(address)
    page.locator(".hit").nth(2).click()
    page.get_by_text(f"like {title(2)}").wait_for()
    page.wait_for_selector("#example-image", state="hidden")
    ask(page, "mug")
    assert page.locator("#trouble").is_hidden()
    assert len(titles(page)) == 24


def test_the_page_may_run_and_load_nothing_but_its_own(
    shop: tuple[Embedder, Any],
) -> None:
    config = ServeConfig(model="tiny")
    client = TestClient(
        create_app(Engine(shop[0], config), config, shop[1])
    )  # not entered: the engine is not started
    for path in ("/", "/page/app.js", "/page/style.css", "/page/icon.svg"):
        answer = client.get(path)
        assert answer.status_code == 200
        policy = dict(
            part.split(" ", 1)
            for part in answer.headers["content-security-policy"].split("; ")
        )
        assert (
            policy["default-src"]
            == policy["frame-ancestors"]
            == policy["base-uri"]
            == "'none'"
        )
        assert (
            policy["script-src"]
            == policy["style-src"]
            == policy["connect-src"]
            == "'self'"
        )
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert (
            client.get(
                path, headers={"If-None-Match": answer.headers["etag"]}
            ).status_code
            == 304
        )
    html = client.get("/").text
    assert not re.findall(
        r"https?://|<script(?! type=\"module\" src=\"page/)|style=|\son\w+=", html
    )
    assert client.get("/page/routes.py").status_code == 404
    assert client.get("/page/..%2Froutes.py").status_code == 404


def test_no_script_of_the_page_writes_html() -> None:
    folder = Path(__file__).parents[4] / "unimodal" / "serve" / "page"
    assert list(folder.glob("*.js"))
    written = "\n".join(
        file.read_text(encoding="utf-8") for file in folder.glob("*.js")
    )
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function",
        written,
    )
