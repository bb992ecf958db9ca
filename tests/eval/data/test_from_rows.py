from __future__ import annotations

from pathlib import Path

import pytest

from eval.data.from_rows import (
    image_text_data,
    images_of,
    pair_data,
    text_retrieval_data,
    texts_of,
)
from eval.data.retrieval import RetrievalData
from unimodal.tables.fields import Row

SECTIONS = [
    {"title": "Cells", "passage": "Cells are small.", "module": "m1"},
    {"title": "Cells", "passage": "Cells divide.", "module": "m1"},
    {"title": "Atoms", "passage": "Atoms are smaller.", "module": "m2"},
    {"title": "Cells", "passage": "A cell of a prison.", "module": "m3"},
    {"title": "Quarks", "passage": "Atoms are smaller.", "module": "m3"},
]


def test_rows_that_repeat_a_query_or_a_document_are_merged() -> None:
    assert text_retrieval_data(SECTIONS, SECTIONS, "title", "passage") == RetrievalData(
        queries=["Cells", "Atoms", "Quarks"],
        documents=[
            "Cells are small.",
            "Cells divide.",
            "Atoms are smaller.",
            "A cell of a prison.",
        ],
        relevant=[[0, 1, 3], [2], [2]],
    )


def test_queries_of_some_rows_search_the_pool_of_all() -> None:
    held_out = text_retrieval_data(SECTIONS[3:], SECTIONS, "title", "passage")
    assert held_out.queries == ["Cells", "Quarks"]
    assert len(held_out.documents) == 4
    assert held_out.relevant == [[0, 1, 3], [2]]


def test_only_the_first_document_of_a_group_is_searched() -> None:
    data = text_retrieval_data(
        SECTIONS, SECTIONS, "title", "passage", first_of=["module", "title"]
    )
    assert data.documents == [
        "Cells are small.",
        "Atoms are smaller.",
        "A cell of a prison.",
    ]


def test_every_second_query_is_asked() -> None:
    assert text_retrieval_data(
        SECTIONS, SECTIONS, "title", "passage", every=2
    ).queries == ["Cells", "Quarks"]


def test_an_image_has_all_its_captions_or_the_first() -> None:
    rows = [
        {"image": "a.jpg", "alt": ["one", "two"]},
        {"image": "b.jpg", "alt": ["two", ""]},
    ]
    data = image_text_data(rows, Path("pictures"), "image", "alt")
    assert data.queries == ["one", "two"]
    assert data.documents == [Path("pictures/a.jpg"), Path("pictures/b.jpg")]
    assert data.relevant == [[0], [0, 1]]
    assert image_text_data(
        rows, Path(), "image", "alt", first_caption=True
    ).relevant == [[0], [1]]


ASKED: list[Row] = [
    {"q": "one", "d": "a"},
    {"q": "", "d": "b"},
    {"q": "three", "d": None},
    {"q": "four", "d": "c"},
    {"q": " ", "d": "d"},
]


def test_rows_that_are_left_out_for_an_empty_text_are_counted() -> None:
    with pytest.warns(
        UserWarning, match=r"^asked\.jsonl: 3 of 5 rows left out: empty 'q' or 'd'\.$"
    ) as told:
        data = text_retrieval_data(ASKED, ASKED, "q", "d", source="asked.jsonl")
    assert (data.queries, data.documents) == (["one", "four"], ["a", "c"])
    assert len(told) == 1
    with pytest.warns(UserWarning, match=r"^2 of 4 rows left out: empty 'q'\.$"):
        text_retrieval_data(ASKED[:1], [row for row in ASKED if row["d"]], "q", "d")


def test_rows_that_are_left_out_for_an_empty_caption_or_image_are_counted() -> None:
    rows: list[Row] = [
        {"image": "a.jpg", "alt": ["one", ""]},
        {"image": "b.jpg", "alt": ["", ""]},
    ]
    with pytest.warns(
        UserWarning, match=r"^figures\.jsonl: 1 of 2 rows left out: empty 'alt'\.$"
    ):
        assert image_text_data(
            rows, Path(), "image", "alt", source="figures.jsonl"
        ).queries == ["one"]
    with pytest.warns(UserWarning, match=r"^1 of 2 rows left out: empty 'image'\.$"):
        image_text_data([rows[0], {"image": "", "alt": "two"}], Path(), "image", "alt")


def test_rows_that_repeat_a_query_with_its_document_are_counted() -> None:
    with pytest.warns(
        UserWarning, match=r"^pool\.jsonl: 2 of 7 rows repeat others and count once\.$"
    ) as told:
        data = text_retrieval_data(
            SECTIONS,
            [*SECTIONS, *SECTIONS[:2]],
            "title",
            "passage",
            source="pool.jsonl",
        )
    assert len(told) == 1
    assert data == text_retrieval_data(SECTIONS, SECTIONS, "title", "passage")
    rows: list[Row] = [
        {"image": "a.jpg", "alt": ["one", "two"]},
        {"image": "a.jpg", "alt": "two"},
    ]
    with pytest.warns(
        UserWarning, match=r"^1 of 2 rows repeat others and count once\.$"
    ):
        assert image_text_data(rows, Path(), "image", "alt").relevant == [[0], [0]]


def test_rows_that_are_all_left_out_are_refused_by_the_field_that_is_empty() -> None:
    with pytest.raises(
        ValueError,
        match=r"^asked\.jsonl: all 2 rows have an empty 'q'; name the field that holds it",
    ):
        text_retrieval_data([ASKED[1], ASKED[4]], ASKED, "q", "d", source="asked.jsonl")
    with pytest.raises(ValueError, match=r"^the only row has an empty 'd'; "):
        text_retrieval_data(ASKED[2:3], ASKED, "q", "d")
    with pytest.raises(ValueError, match=r"^all 2 rows have an empty 'alt'; "):
        image_text_data(
            [{"image": "a.jpg", "alt": [""]}, {"image": "b.jpg", "alt": None}],
            Path(),
            "image",
            "alt",
        )


@pytest.mark.filterwarnings("error")
def test_rows_that_are_whole_are_used_without_a_word() -> None:
    assert (
        text_retrieval_data(SECTIONS[:0], SECTIONS[:0], "title", "passage").queries
        == []
    )
    assert len(text_retrieval_data(SECTIONS, SECTIONS, "title", "passage").queries) == 3
    assert image_text_data(
        [{"image": "a.jpg", "alt": ["one", ""]}], Path(), "image", "alt"
    ).queries == ["one"]


def test_a_text_is_a_field_a_nested_field_or_a_template() -> None:
    row = {
        "title": "Hoodie",
        "color": "red",
        "names": {"de": "Pulli"},
        "tags": ["a", None, " "],
    }
    assert texts_of(row, "title") == ["Hoodie"]
    assert texts_of(row, "names.de") == ["Pulli"]
    assert texts_of(row, "{title}, {color} ({names.de})") == ["Hoodie, red (Pulli)"]
    assert texts_of(row, "tags") == ["a"]


def test_images_are_paths_or_bytes() -> None:
    row = {"image": [{"bytes": b"jpeg", "path": None}, b"png", "a.jpg", None]}
    assert images_of(row, "image", Path("root")) == [
        b"jpeg",
        b"png",
        Path("root/a.jpg"),
    ]


def test_a_misspelt_field_is_named_with_the_nearest() -> None:
    rows: list[Row] = [{"title": "Hoodie", "image": "a.jpg", "score": 1}]
    with pytest.raises(
        ValueError, match=r"'titel' is not in any row of t.csv; did you mean 'title'\?"
    ):
        image_text_data(rows, Path(), "image", "{titel}", source="t.csv")
    with pytest.raises(
        ValueError, match=r"'titel' is not in any row; did you mean 'title'\?"
    ):
        text_retrieval_data(rows, rows, "title", "titel")
    with pytest.raises(
        ValueError, match=r"'titel' is not in any row; did you mean 'title'\?"
    ):
        pair_data(enumerate(rows), "title", "titel", "score")


def test_a_row_that_lacks_a_field_is_one_whose_field_is_empty() -> None:
    rows: list[Row] = [
        {"image": "a.jpg", "title": "Hat", "color": None},
        {"image": "b.jpg"},
        {"image": "c.jpg", "title": "NA"},
    ]
    with pytest.warns(
        UserWarning, match="1 of 3 rows left out: empty '{title}, {color}'"
    ):
        assert image_text_data(rows, Path(), "image", "{title}, {color}").queries == [
            "Hat",
            "NA",
        ]


def test_rows_without_a_value_are_not_one_group() -> None:
    rows: list[Row] = [
        {"q": f"q{n}", "d": f"d{n}", "of": float("nan")} for n in range(3)
    ]
    assert text_retrieval_data(rows, rows, "q", "d", first_of=["of"]).documents == [
        "d0",
        "d1",
        "d2",
    ]


def test_a_score_of_nan_is_not_a_number() -> None:
    with pytest.raises(
        ValueError, match="'score' of row 0 is None; a similarity score is a number"
    ):
        pair_data([(0, {"a": "x", "b": "y", "score": float("nan")})], "a", "b", "score")
    with pytest.raises(
        ValueError,
        match="'score' of row 0 is inf; a similarity score is a finite number",
    ):
        pair_data([(0, {"a": "x", "b": "y", "score": float("inf")})], "a", "b", "score")


def test_pairs_remember_their_groups() -> None:
    rows: list[Row] = [
        {"a": "x", "b": "y", "score": "2.5"},
        {"a": "y", "b": "z", "score": 3},
    ]
    pairs = pair_data(enumerate(rows), "a", "b", "score", {"second": {1}})
    assert (pairs.left, pairs.right, pairs.scores) == (
        ["x", "y"],
        ["y", "z"],
        [2.5, 3.0],
    )
    assert pairs.groups == {"second": [1]}


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(
        ValueError, match="'score' of row 7 is 'high'; a similarity score is a number"
    ):
        pair_data([(7, {"a": "x", "b": "y", "score": "high"})], "a", "b", "score")
