from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.analysis.contamination import Match, TaskOverlap
from eval.analysis.neighbours import Cluster, Clusters, Duplicates
from eval.analysis.space_map import Point, SpaceMap, space_maps
from eval.data.inputs import Deferred, Fused
from eval.data.pairs import PairData
from eval.data.retrieval import RetrievalData
from eval.report.page import ModelReport, write_report
from eval.report.page.inputs import Thumbnails, shorten, show_input
from eval.report.page.space import duplicate_sections, map_figures
from eval.report.page.templates import make_environment
from eval.results import TaskResult
from eval.scoring.score_row import ScoreRow
from eval.scoring.statistics import Comparison
from unimodal.vectors import Vectors

EVIL = "<script>alert(1)</script> <img src=x onerror=alert(2)> \" ' & </td>"
VOID = {"meta", "img", "input"}


class Reader(HTMLParser):
    """Checks that what opens is closed in order, and collects tags with their attributes, and the
    text.
    """

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(data)


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


def unit(rows: int, seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)
    return np.asarray(
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32
    )


def image(folder: Path, number: int) -> Path:
    file = folder / f"image {number}.png"
    Image.new("RGB", (400, 200), (20 * number, 90, 200)).save(file)
    return file


def results(folder: Path, seed: int = 0) -> list[TaskResult]:
    """Texts find images, products are found by a photo with words, and pairs;
    all texts are evil.
    """
    images = [image(folder, number) for number in range(6)]
    data = RetrievalData(
        [f"{EVIL} {n}" for n in range(6)], list(images), [[n] for n in range(6)]
    )
    hits = np.array([0.0, 1, 0, 1, 0, 1])
    rows = [
        ScoreRow(
            "flickr30k/text->image", "hit_rate_at_1", 0.5, 0.1, None, low=0.4, high=0.6
        ),
        ScoreRow(
            "flickr30k/text->image", "hit_rate_at_1", 0.3, 0.1, None, variant="4 dims"
        ),
        ScoreRow(
            "flickr30k/text->image", "hit_rate_at_1", 0.2, 0.1, None, variant=EVIL
        ),
    ]
    asked = RetrievalData(
        [Fused(EVIL, images[0])],
        [EVIL, Deferred("a tar", images[1].read_bytes)],
        [[0]],
    )
    pairs = PairData([EVIL, "a", "b"], ["x", "y", EVIL], [1.0, 2.0, 3.0])
    return [
        TaskResult(
            "flickr30k/text->image",
            "cross-modal",
            data,
            rows,
            {"hit_rate_at_1": hits},
            unit(6, seed),
            unit(6, 1),
        ),
        TaskResult(
            EVIL,
            "cross-modal",
            asked,
            [ScoreRow(EVIL, EVIL, 0.1, 0.1, None)],
            {EVIL: np.zeros(1)},
            unit(1, 2),
            unit(2, 3),
        ),
        TaskResult(
            "cxc",
            "text",
            pairs,
            [ScoreRow("cxc", "spearman", -0.2, 0.0, 0.4)],
            {},
            unit(3, 4),
            unit(3, 5),
        ),
    ]


def report(folder: Path, seed: int = 0) -> ModelReport:
    languages = [
        ScoreRow(f"xm3600/{one}/text->image", "hit_rate_at_1", 0.4, 0.1, None)
        for one in ("de", "en", "fr")
    ]
    balance = [
        ScoreRow("balance", "harmonic_mean", 0.456, None, None),
        ScoreRow("figures", "modality_gap", 1.2, None, None),
    ]
    scored = results(folder, seed)
    clusters = Clusters("flickr30k/text->image", [Cluster([EVIL, "bags"], 0.5, [0, 1])])
    return ModelReport(
        scored,
        [*languages, *balance, ScoreRow(f"{EVIL} all", EVIL, 0.5, None, None)],
        {"parameters": "3 M", EVIL: EVIL},
        maps=space_maps(scored),
        clusters=[clusters, Clusters(EVIL, [Cluster([], 1.0, [0, 1])])],
        duplicates=[
            Duplicates(EVIL, 0.95, 1.0, [[0, 1]]),
            Duplicates("flickr30k/text->image", 0.95, 0.0, []),
        ],
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    overlap = TaskOverlap("cxc", 3, 3, {0: Match("same text", EVIL, "shard.tar", EVIL)})
    models = {EVIL: report(folder), "second": report(folder, seed=9)}
    compared = [
        Comparison(
            "flickr30k/text->image", "hit_rate_at_1", 0.5, 0.6, 0.1, 0.05, 0.2, 0.01, 6
        )
    ]
    file = folder / "deep" / "report.html"
    write_report(
        file,
        models,
        title=EVIL,
        introduction=EVIL,
        overlaps=[overlap],
        comparisons={"second": compared},
    )
    return file


def test_the_page_is_well_formed_and_has_every_section(page: Path) -> None:
    reader = read(page)
    sections = [attributes["id"] for tag, attributes in reader.tags if tag == "section"]
    assert sections == [
        "scores",
        "compared",
        "published",
        "languages",
        "dimensions",
        "variants",
        "map",
        "clusters",
        "duplicates",
        "contamination",
        "failures",
    ]
    links = [attributes["href"] for tag, attributes in reader.tags if tag == "a"]
    assert [link for link in links if str(link).startswith("#")] == [
        f"#{name}" for name in sections
    ]


def test_nothing_is_loaded_from_anywhere_else(page: Path) -> None:
    reader = read(page)
    for tag, attributes in reader.tags:
        assert tag not in ("link", "iframe", "object", "embed", "form", "base"), tag
        for name in ("src", "srcset", "data", "action", "poster"):
            assert str(attributes.get(name, "data:")).startswith("data:"), attributes
    html = page.read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(", html)
    policy = next(
        one["content"]
        for _, one in reader.tags
        if one.get("http-equiv") == "Content-Security-Policy"
    )
    assert str(policy).startswith("default-src 'none'; img-src data:;")


def test_the_policy_allows_the_style_and_the_script_of_the_page_and_no_other(
    page: Path,
) -> None:
    html = page.read_text(encoding="utf-8")
    for tag in ("style", "script"):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.S)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in html
    assert not [
        name
        for _, attributes in read(page).tags
        for name in attributes
        if name == "style" or name[:2] == "on"
    ]


def test_no_text_becomes_markup(page: Path) -> None:
    reader = read(page)
    scripts = [attributes for tag, attributes in reader.tags if tag == "script"]
    assert scripts == [{"type": "application/json"}, {"type": "application/json"}, {}]
    assert all(
        str(one["src"]).startswith("data:image/jpeg;base64,")
        for tag, one in reader.tags
        if tag == "img"
    )
    assert "<script>alert(1)</script>" in " ".join(reader.texts)


def test_links_lead_to_sources_alone(page: Path) -> None:
    for tag, attributes in read(page).tags:
        if tag == "a" and not str(attributes["href"]).startswith("#"):
            assert str(attributes["href"]).startswith("https://")
            assert attributes["rel"] == "noreferrer noopener"


def test_scores_stand_with_interval_mark_and_balance(page: Path) -> None:
    text = " ".join(read(page).texts)
    for shown in (
        "0.500",
        "±.100",
        "0.456",
        "balance (harmonic mean)",
        "jinaai/jina-clip-v1",
        "0.678",
        "-0.200",
    ):
        assert shown in text
    assert "-0.300" in text  # what the evil variant costs
    html = page.read_text(encoding="utf-8")
    assert html.count('class="significant"') == 1
    assert re.search(r'title="differs from the first model [^"]* p &lt; 0.05', html)


def test_how_many_queries_a_score_is_of_stands_beside_it_where_it_is_known(
    tmp_path: Path,
) -> None:
    for num, heads in ((1234, ["BM25", "n"]), (None, ["chance", "BM25"])):
        row = ScoreRow("sections", "ndcg_at_10", 0.8, 0.1, None, num=num)
        result = TaskResult("sections", "text", RetrievalData([], [], []), [row])
        write_report(tmp_path / "page.html", {"": ModelReport([result])}, title="t")
        html = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert re.findall(r'<button type="button">([^<]*)<', html)[-2:] == heads
        assert ('data-value="1234">1,234<' in html) == (num is not None)


def test_what_a_change_costs_is_against_the_same_queries(tmp_path: Path) -> None:
    plain = ScoreRow("sections", "ndcg_at_10", 0.8, 0.1, None)
    changed = [
        ("typos", 0.5),
        ("typos, difference", -0.2),
        ("without overlap", 0.7),
        ("int8", 0.79),
    ]
    rows = [
        plain,
        *(
            dataclasses.replace(plain, value=value, variant=variant)
            for variant, value in changed
        ),
    ]
    result = TaskResult("sections", "text", RetrievalData([], [], []), rows)
    write_report(tmp_path / "page.html", {"": ModelReport([result])}, title="t")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert re.findall(r'<span class="change[^>]*>([^<]*)<', html) == [
        "-0.200",
        "-0.010",
    ]  # those left are other queries


def test_every_column_but_drawings_can_be_sorted_by_key(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    heads = re.findall(r'<th scope="col" class="(\w+)">(<button type="button">)?', html)
    assert heads
    assert {kind for kind, button in heads if not button} == {"drawing"}
    assert {kind for kind, button in heads if button} == {"text", "number"}


def test_failures_show_images_as_small_jpegs(page: Path) -> None:
    sources = [
        str(attributes["src"]) for tag, attributes in read(page).tags if tag == "img"
    ]
    assert len(set(sources)) >= 4
    for source in set(sources):
        content = base64.b64decode(source.partition(",")[2])
        assert content[:2] == b"\xff\xd8"
        assert len(content) < 4000


def test_there_are_no_more_images_than_allowed(tmp_path: Path) -> None:
    write_report(
        tmp_path / "page.html", {"": report(tmp_path)}, title="t", max_images=3
    )
    sources = [
        str(attributes["src"])
        for tag, attributes in read(tmp_path / "page.html").tags
        if tag == "img"
    ]
    assert len(set(sources)) == 2


def test_a_report_of_scores_alone_has_no_empty_section(tmp_path: Path) -> None:
    alone = TaskResult(
        "sections",
        "text",
        RetrievalData([], [], []),
        [ScoreRow("sections", "ndcg_at_10", None, 0.1, None)],
    )
    write_report(tmp_path / "page.html", {"": ModelReport([alone])}, title="t")
    assert [
        one["id"] for tag, one in read(tmp_path / "page.html").tags if tag == "section"
    ] == ["scores"]


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken <b>.png").write_bytes(b"no image")
    shown = show_input(tmp_path / "broken <b>.png", Thumbnails())
    module = make_environment().get_template("inputs.html.j2").module
    html = str(module.show(shown))  # type: ignore[attr-defined]
    assert html.strip() == '<p class="text quiet">broken &lt;b&gt;.png</p>'


def test_a_thumbnail_shows_what_is_transparent_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "nothing.png")
    uri = Thumbnails().uri(tmp_path / "nothing.png")
    shown = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert shown.getcolors() == [(1600, (255, 255, 255))]


def test_a_thumbnail_is_made_once(tmp_path: Path) -> None:
    reads: list[int] = []
    content = image(tmp_path, 1).read_bytes()

    def read() -> bytes:
        reads.append(1)
        return content

    deferred = Deferred("one", read)
    thumbnails = Thumbnails()
    assert thumbnails.uri(deferred) == thumbnails.uri(deferred) != ""
    assert len(reads) == 1


def test_long_texts_are_cut_at_a_word() -> None:
    assert shorten("one  two\nthree", 100) == "one two three"
    assert shorten("one two three", 9) == "one two …"


def test_a_map_knows_what_each_point_shows_and_what_belongs_to_it(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    (first, _) = re.findall(
        r'<script type="application/json">(.*?)</script>', html, re.S
    )
    points = json.loads(first)
    assert [point[2] for point in points] == [0] * 6 + [1] * 6
    assert points[2][3] == f"{EVIL} 2"
    assert points[2][5] == [8]
    assert points[8][3:] == [
        "image 2.png",
        Thumbnails().uri(page.parents[1] / "image 2.png"),
        [2],
    ]
    assert all(0 <= x <= 960 and 0 <= y <= 600 for x, y, *_ in points)
    assert html.count('class="point text"') == html.count('class="point image"') == 12


def test_a_map_joins_a_text_to_the_images_that_are_hits(tmp_path: Path) -> None:
    images = [image(tmp_path, number) for number in range(3)]
    graded = RetrievalData(
        ["q"], list(images), [[0, 1, 2]], gains=[[1.0, 0.5, 0.0]], hit_gain=1.0
    )
    points = [
        Point(0.0, 0.0, "text", "q", 0),
        *(Point(1.0, float(n), "image", str(n), n) for n in range(3)),
    ]
    for data, mates in (
        (graded, [1]),
        (dataclasses.replace(graded, hit_gain=0.0), [1, 2]),
    ):
        result = TaskResult("shop/text->image", "cross-modal", data, [])
        space_map = SpaceMap("shop", "pca", points, None)
        (figure,) = map_figures([space_map], [result], Thumbnails())
        assert figure.points[0][5] == mates


def test_a_map_keeps_distances_as_they_are(tmp_path: Path) -> None:
    points = [
        Point(x, y, "text", "", 0) for x, y in ((0.0, 0.0), (3.0, 0.0), (0.0, 4.0))
    ]
    result = results(tmp_path)[0]
    space_map = SpaceMap("flickr30k", "umap", points, None)
    (figure,) = map_figures([space_map], [result], Thumbnails())
    (a, b, c) = (np.array(place) for place in figure.texts)
    assert np.linalg.norm(a - b) * 4 == pytest.approx(
        np.linalg.norm(a - c) * 3, rel=1e-2
    )
    assert figure.method == "UMAP"
    assert figure.explained is None


def test_clusters_and_near_duplicates_show_what_is_in_them(page: Path) -> None:
    text = " ".join(read(page).texts)
    for shown in (
        "50.0% of the documents",
        "no words of its own",
        "2 near-duplicates",
        "100.0% have another at a cosine of 0.95",
    ):
        assert shown in text


def test_a_summary_of_one_model_is_escaped(tmp_path: Path) -> None:
    write_report(tmp_path / "page.html", {"": report(tmp_path)}, title="t")
    assert [one for tag, one in read(tmp_path / "page.html").tags if tag == "script"][
        -1
    ] == {}
    assert "onerror" not in [
        name for _, one in read(tmp_path / "page.html").tags for name in one
    ]


def test_documents_that_several_tasks_search_are_shown_once(tmp_path: Path) -> None:
    scored = results(tmp_path)[0]
    tasks = [
        dataclasses.replace(scored, name=f"shop/{asked}->image")
        for asked in ("text", "photo")
    ]
    groups = [Duplicates(result.name, 0.95, 0.5, [[0, 1, 2]]) for result in tasks]
    (section,) = duplicate_sections(groups, tasks, Thumbnails())
    assert [task.direction for task in section.tasks] == [
        "text → image",
        "photo → image",
    ]
    other = Duplicates(tasks[1].name, 0.95, 0.5, [[3, 4]])
    assert len(duplicate_sections([groups[0], other], tasks, Thumbnails())) == 2
