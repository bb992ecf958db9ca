"""What a visitor does on the page."""

from __future__ import annotations

from typing import Any


def ask(page: Any, text: str) -> None:
    page.fill("#text", text)
    page.keyboard.press("Enter")
    settled(page)


def settled(page: Any) -> None:
    """The answer to the last question is shown."""
    page.wait_for_selector("#hits[aria-busy=false]", state="attached")


def titles(page: Any) -> list[str]:
    texts: list[str] = page.locator(".hit .title").all_inner_texts()
    return texts


def box(page: Any, value: str) -> Any:
    """The filter's box for a value."""
    return page.get_by_role("checkbox", name=value)


def query(page: Any) -> str:
    return str(
        page.evaluate("decodeURIComponent(location.search.replaceAll('+', ' '))")
    )


def compare_with(page: Any, kind: str) -> None:
    page.select_option("#vector", kind)
    settled(page)
