"""The demo's page: it searches in four directions, marks what is right in words, and escapes every
text.
"""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from unimodal.demo.catalogue import Product, plan_products
from unimodal.demo.page import write_page
from unimodal.demo.results import Result, ResultGroup, build_groups, draw_showcase

DIRECTIONS = ["text → image", "image → text", "image → image", "text → text"]


def products() -> list[Product]:
    return plan_products(seed=0, num_train=1, num_val=0, num_test=30)["test"]


def one_hot(count: int) -> npt.NDArray[np.float32]:
    return np.eye(count, dtype=np.float32)


def test_groups_cover_four_directions_and_mark_the_right_product() -> None:
    shop = products()
    vectors = one_hot(len(shop))
    position = {product.query: index for index, product in enumerate(shop)}
    seen_images: list[tuple[int, int]] = []

    def encode(items: list[str | Path]) -> npt.NDArray[np.float32]:
        rows = []
        for item in items:
            if isinstance(item, Path):
                with Image.open(item) as image:
                    seen_images.append(image.size)
            rows.append(
                vectors[position[item]] if isinstance(item, str) else vectors[0]
            )
        return np.stack(rows)

    groups = build_groups(shop, vectors, vectors, encode, num_queries=2, size=40)
    assert [group.direction for group in groups] == [
        direction for direction in DIRECTIONS for _ in range(2)
    ]
    assert seen_images == [(40, 40), (40, 40)]
    for group in groups:
        if (
            group.direction != "image → image"
        ):  # its query is a new drawing, which this encoder takes for product 0
            assert group.right_rank == 1
            assert [result.right for result in group.results] == [True] + [False] * (
                len(group.results) - 1
            )
            assert group.results[0].shared == ("kind", "colour", "pattern")
        else:
            assert not group.results[0].right
            assert group.right_rank > 1
        assert all(
            (result.image is not None) == group.direction.endswith("image")
            for result in group.results
        )


def test_page_escapes_every_text_and_needs_nothing_else(tmp_path: Path) -> None:
    evil = "<script>alert('&\"')</script>"
    image = Image.new("RGB", (8, 8), (200, 30, 40))
    found = Result(None, evil, evil, 3.5, 0.91, True, ("kind",))
    shown = Result(image, evil, evil, 3.5, 0.5, False, ())
    groups = [
        ResultGroup("text → text", evil, [found], 1),
        ResultGroup(evil, image, [shown], 12),
    ]
    path = tmp_path / "deep" / "page.html"
    write_page(
        path,
        title=evil,
        introduction=evil,
        groups=groups,
        scores=[
            {
                "task": evil,
                "metric": evil,
                "value": 0.96781,
                "chance": evil,
                "baseline": None,
            }
        ],
        facts={evil: evil},
        showcase=[(evil, image)],
        footer=evil,
    )
    html = path.read_text(encoding="utf-8")
    assert "<script" not in html
    assert "alert('" not in html
    assert not re.search(r"(?:src|href)=\"(?!data:)", html)
    assert "0.968" in html
    assert html.count("✓ right") == 1  # in words, not by colour alone
    assert "at rank 12" in html


def test_showcase_shows_different_kinds() -> None:
    shop = products()
    assert len({title for title, _ in draw_showcase(shop, count=10, size=16)}) == 10
