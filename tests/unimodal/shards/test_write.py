"""From rows to shards: the same samples from any kind of table, whole or not at all."""

from __future__ import annotations

import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unimodal.config import parse_config
from unimodal.preprocess.images import decode_image
from unimodal.shards import write as write_module
from unimodal.shards.check import check
from unimodal.shards.config import PackConfig, PackRecipe
from unimodal.shards.index import SUFFIX
from unimodal.shards.read import open_shards
from unimodal.shards.sample import Sample, captions_of, image_bytes_of, text_pair_of
from unimodal.shards.write import RECORD, SKIPPED, PackSummary, pack, pack_all

webdataset = pytest.importorskip("webdataset")


def make_image(n: int, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8 + n, 8), (n * 20, 0, 99)).save(buffer, form)
    return buffer.getvalue()


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path.name


def write_images(folder: Path) -> str:
    (folder / "images").mkdir()
    rows = []
    for n, form in enumerate(["JPEG", "PNG", "WEBP", "GIF", "JPEG", "JPEG"]):
        name = f"images/{n}.{form.lower()}"
        (folder / name).write_bytes(make_image(n, form))
        rows.append(
            {
                "id": f"p.{n}/x",
                "image": name,
                "alt": [f"alt {n}", ""],
                "caption": f"caption {n}",
            }
        )
    return jsonl(folder / "pictures.jsonl", rows)


def samples(out: Path) -> list[Sample]:
    shards = open_shards(out)
    return [
        shards.read(shard, n)
        for shard, count in enumerate(shards.num_samples)
        for n in range(count)
    ]


def run(folder: Path, **options: Any) -> list[Sample]:
    config = parse_config(PackConfig, {"shuffle": False, **options})
    pack(config, folder / "out", folder, overwrite=True)
    return samples(folder / "out")


def test_images_are_packed_byte_for_byte_with_their_captions(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        input=write_images(tmp_path),
        image="image",
        captions=["alt", "caption"],
        key="id",
    )
    assert [(one.key, list(one.parts)) for one in found] == [
        (f"p_{n}_x", sorted([form, "json"]))
        for n, form in enumerate(["jpg", "png", "webp", "png", "jpg", "jpg"])
    ]
    for n, one in enumerate(found):
        assert captions_of(one) == [f"alt {n}", f"caption {n}"]
        if n != 3:  # the GIF became a PNG
            assert (
                image_bytes_of(one)
                == next((tmp_path / "images").glob(f"{n}.*")).read_bytes()
            )


def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    expected = run(
        tmp_path,
        input=write_images(tmp_path),
        image="image",
        captions=["alt"],
        samples_per_shard=4,
    )
    paths = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    assert [Path(path).name for path in paths] == ["000000.tar", "000001.tar"]
    streamed = list(webdataset.WebDataset(paths, shardshuffle=False).decode("pil"))
    assert [one["__key__"] for one in streamed] == [one.key for one in expected]
    assert [one["json"]["captions"] for one in streamed] == [
        captions_of(one) for one in expected
    ]
    assert streamed[1]["png"].size == (9, 8)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "saved"])
def test_text_pairs_from_any_table_are_the_same(tmp_path: Path, name: str) -> None:
    rows = [{"q": f"query, {n}", "d": f"document {n}", "s": n / 2} for n in range(4)]
    if name == "t.csv":
        lines = ["q,d,s"] + [f'"{row["q"]}",{row["d"]},{row["s"]}' for row in rows]
        (tmp_path / name).write_text("\n".join(lines))
    elif name == "t.parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
    else:
        pytest.importorskip("datasets").Dataset.from_list(rows).save_to_disk(
            str(tmp_path / name)
        )
    found = [
        text_pair_of(one)
        for one in run(tmp_path, input=name, query="q", document="d", score="s")
    ]
    assert [tuple(pair)[:4] for pair in found] == [
        (f"query, {n}", f"document {n}", (), n / 2) for n in range(4)
    ]


@pytest.mark.parametrize("kind", ["image", "images", "bytes"])
def test_images_inside_a_hugging_face_table_keep_their_bytes(
    tmp_path: Path, kind: str
) -> None:
    datasets = pytest.importorskip("datasets")
    feature = {
        "image": datasets.Image(),
        "images": [datasets.Image()],
        "bytes": datasets.Value("binary"),
    }[kind]
    contents = [make_image(n) for n in range(3)]
    cells = [
        {"image": {"bytes": raw}, "images": [{"bytes": raw}], "bytes": raw}[kind]
        for raw in contents
    ]
    features = datasets.Features({"picture": feature, "text": datasets.Value("string")})
    table = datasets.Dataset.from_dict(
        {"picture": cells, "text": ["a", "b", "c"]}, features=features
    )
    table.save_to_disk(str(tmp_path / "saved"))
    found = run(tmp_path, input="saved", image="picture", captions=["text"])
    if kind == "images":  # decoded by the library: packed again without loss
        assert [Image.open(io.BytesIO(image_bytes_of(one))).size for one in found] == [
            (8, 8),
            (9, 8),
            (10, 8),
        ]
    else:
        assert [image_bytes_of(one) for one in found] == contents


def test_paraphrases_are_packed_as_disjoint_pairs(tmp_path: Path) -> None:
    name = jsonl(
        tmp_path / "t.jsonl",
        [{"texts": list("abcde")}, {"texts": ["x", "x"]}, {"texts": ["y", "z"]}],
    )
    found = run(tmp_path, input=name, pairs_of="texts")
    assert [(one.key, *text_pair_of(one)[:2]) for one in found] == [
        ("000000000-0", "a", "b"),
        ("000000000-1", "c", "d"),
        ("000000002-0", "y", "z"),
    ]
    (entry,) = map(json.loads, (tmp_path / "out" / SKIPPED).read_text().splitlines())
    assert entry == {
        "row": 1,
        "key": "000000001",
        "reason": "1 distinct texts in texts, and a pair needs 2",
    }


def test_siblings_give_documents_of_other_queries_as_negatives(tmp_path: Path) -> None:
    rows = [
        {"book": f"b{n // 6}", "title": f"t{n // 2}", "text": f"d{n}"}
        for n in range(12)
    ]
    options = {
        "query": "{book}: {title}",
        "document": "text",
        "negatives_from": "book",
        "num_negatives": 3,
    }
    found = run(tmp_path, input=jsonl(tmp_path / "t.jsonl", rows), **options)
    chosen = [text_pair_of(one) for one in found]
    assert chosen[0].query == "b0: t0"
    assert all(len(pair.negatives) == len(set(pair.negatives)) == 3 for pair in chosen)
    assert set(chosen[0].negatives) <= {"d2", "d3", "d4", "d5"}
    assert [
        text_pair_of(one) for one in run(tmp_path, input="t.jsonl", **options)
    ] == chosen


def test_named_negatives_leave_the_document_out(tmp_path: Path) -> None:
    name = jsonl(
        tmp_path / "t.jsonl", [{"q": "q", "d": "d", "n": ["x", "d", "y", "x"]}]
    )
    (one,) = run(tmp_path, input=name, query="q", document="d", negatives="n")
    assert text_pair_of(one).negatives == ("x", "y")


def test_shuffling_depends_on_the_seed_alone_and_loses_nothing(tmp_path: Path) -> None:
    name = jsonl(tmp_path / "t.jsonl", [{"q": f"q{n}", "d": "d"} for n in range(50)])
    options = {
        "input": name,
        "query": "q",
        "document": "d",
        "shuffle": True,
        "samples_per_shard": 20,
    }
    first = run(tmp_path, **options)
    tars = [path.read_bytes() for path in sorted((tmp_path / "out").glob("*.tar"))]
    assert run(tmp_path, **options) == first
    assert [
        path.read_bytes() for path in sorted((tmp_path / "out").glob("*.tar"))
    ] == tars
    keys = [one.key for one in first]
    assert keys != sorted(keys) == [f"{n:09d}" for n in range(50)]
    assert [one.key for one in run(tmp_path, **options, seed=1)] != keys
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(f"00000{n}.tar{suffix}" for n in range(3) for suffix in ("", SUFFIX)),
        RECORD,
    }


def test_rows_that_cannot_be_packed_are_skipped_counted_and_named(
    tmp_path: Path,
) -> None:
    (tmp_path / "good.jpg").write_bytes(make_image(0))
    (tmp_path / "page.jpg").write_bytes(b"<html>not found</html>")
    bomb = bytearray(make_image(0, "PNG"))
    bomb[16:24] = (8_000).to_bytes(4, "big") * 2  # the header claims 64 megapixels
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(bomb)
    names = [
        "good.jpg",
        "page.jpg",
        "bomb.png",
        "nowhere.jpg",
        None,
        "good.jpg",
        "good.jpg",
    ]
    texts = ["fine", "a", "b", "c", "d", " ", "\ud800"]
    name = jsonl(
        tmp_path / "t.jsonl",
        [{"i": image, "t": text} for image, text in zip(names, texts, strict=True)],
    )
    summary = pack(
        PackConfig(input=name, image="i", captions=("t",)), tmp_path / "out", tmp_path
    )
    assert (summary.samples, summary.shards, summary.skipped) == (1, 1, 6)
    entries = [
        json.loads(line)
        for line in (tmp_path / "out" / SKIPPED).read_text().splitlines()
    ]
    assert [entry["row"] for entry in entries] == [1, 2, 3, 4, 5, 6]
    fragments = [
        "page.jpg is not a readable",
        "8000 x 8000",
        "does not exist",
        "no image in i",
        "no text in t",
        "surrog",
    ]
    for entry, fragment in zip(entries, fragments, strict=True):
        assert fragment in entry["reason"]


def test_what_check_calls_broken_is_not_packed(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-400])
    name = jsonl(
        tmp_path / "t.jsonl",
        [{"i": image, "t": "a"} for image in ("whole.jpg", "cut.jpg", "../out.jpg")],
    )
    run(tmp_path, input=name, image="i", captions="t")
    assert check(tmp_path / "out").exit_status == 0
    reasons = [
        json.loads(line)["reason"]
        for line in (tmp_path / "out" / SKIPPED).read_text().splitlines()
    ]
    assert "cut.jpg is not a readable" in reasons[0]
    assert "'../out.jpg' is not below" in reasons[1]


@pytest.mark.parametrize(
    ("name", "lines", "reasons"),
    [
        (
            "t.jsonl",
            [
                '{"q": "a hat", "d": "felt"}',
                '{"q": ',
                "[1]",
                '{"q": "a cup", "d": "clay"}',
            ],
            ["t.jsonl, line 2 is not JSON", "t.jsonl, line 3 is a list"],
        ),
        (
            "t.csv",
            ["q,d", "a hat,felt", "x", "x,y,z", "a cup,clay"],
            ["line 3 cannot be read (1 cell", "(3 cells"],
        ),
    ],
)
def test_a_line_that_cannot_be_read_does_not_end_a_pack(
    tmp_path: Path, name: str, lines: list[str], reasons: list[str]
) -> None:
    (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")

    found = run(
        tmp_path,
        input=name,
        query="q",
        document="d",
        negatives_from="d",
        num_negatives=1,
    )

    assert len(found) == 2
    entries = [
        json.loads(line)
        for line in (tmp_path / "out" / SKIPPED).read_text().splitlines()
    ]
    assert [entry["row"] for entry in entries] == [1, 2]
    for entry, reason in zip(entries, reasons, strict=True):
        assert reason in entry["reason"]
    with pytest.raises(
        ValueError, match=r"2 of 4 rows of .* cannot be read, or their image cannot"
    ):
        run(tmp_path, input=name, query="q", document="d", max_skipped=0)


def test_a_table_of_lines_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("[1]\n[2]\n", encoding="utf-8")
    with pytest.raises(
        ValueError,
        match=r"all 2 rows of t\.jsonl had to be skipped; the first: .*line 1 is a list",
    ):
        run(tmp_path, input="t.jsonl", query="q", document="d")


def test_too_many_unreadable_images_end_a_pack(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(make_image(0))
    rows = [{"i": name, "t": "a"} for name in ("a.jpg", "nowhere.jpg")] + [
        {"i": "a.jpg", "t": None}
    ]
    name = jsonl(tmp_path / "t.jsonl", rows)
    message = r"1 of 3 rows of t.jsonl .*\(the first, row 1: .*max_skipped is 0"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, input=name, image="i", captions="t", max_skipped=0)
    assert not (tmp_path / "out").exists()


def test_missing_values_are_not_packed_as_words(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"t": "Hat", "c": None, "d": ["a", float("nan"), "b"]},
        {"t": "Cap", "c": float("nan"), "d": "NA"},
        {"t": float("nan"), "c": None, "d": "x"},
        {"t": "Bag", "c": "red", "d": " "},
    ]
    name = jsonl(tmp_path / "t.jsonl", rows)
    found = run(tmp_path, input=name, query="{t}, {c}", document="{d}")
    assert [tuple(text_pair_of(one))[:2] for one in found] == [
        ("Hat", "a, b"),
        ("Cap", "NA"),
    ]
    entries = [
        json.loads(line)
        for line in (tmp_path / "out" / SKIPPED).read_text().splitlines()
    ]
    assert [(one["row"], one["reason"]) for one in entries] == [
        (2, "no text in {t}, {c}"),
        (3, "no text in {d}"),
    ]


@pytest.mark.parametrize("score", ["nan", "inf", float("inf"), None])
def test_a_score_that_is_not_a_number_is_not_packed(tmp_path: Path, score: Any) -> None:
    name = jsonl(
        tmp_path / "t.jsonl",
        [{"q": "q", "d": "d", "s": 1}, {"q": "q", "d": "d", "s": score}],
    )
    assert len(run(tmp_path, input=name, query="q", document="d", score="s")) == 1


def test_a_table_whose_name_is_not_utf_8_is_packed_once(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jsonl")
    jsonl(tmp_path / name, [{"q": "q", "d": "d"}])
    pair = {"input": name, "query": "q", "document": "d"}
    values: dict[str, Any] = {
        "data_root": str(tmp_path),
        "out": str(tmp_path / "out"),
        "sets": {"one": pair},
    }
    first = pack_all(parse_config(PackRecipe, values))
    assert pack_all(parse_config(PackRecipe, values)) == first


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_file_that_cannot_be_decoded_to_its_end_is_not_packed(
    tmp_path: Path, form: str
) -> None:
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        buffer, form
    )
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[:-900])
    (tmp_path / "good.png").write_bytes(make_image(0))  # whatever its name says
    rows = [{"i": "cut.jpg", "t": "a"}, {"i": "good.png", "t": "b"}]
    found = run(
        tmp_path, input=jsonl(tmp_path / "t.jsonl", rows), image="i", captions="t"
    )
    assert [captions_of(one) for one in found] == [["b"]]
    assert sorted(found[0].parts) == ["jpg", "json"]
    (entry,) = [
        json.loads(line)
        for line in (tmp_path / "out" / SKIPPED).read_text().splitlines()
    ]
    assert "is not a readable image" in entry["reason"]


def test_what_is_packed_anew_keeps_its_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (8, 6))
    image.putpalette([200, 30, 30, 0, 0, 0])
    image.paste(1, (0, 0, 4, 6))
    image.save(tmp_path / "a.gif", transparency=0)
    Image.new("RGBA", (8, 6), (10, 20, 30, 99)).save(tmp_path / "b.tif")
    rows = [{"i": "a.gif", "t": "a"}, {"i": "b.tif", "t": "b"}]
    found = run(
        tmp_path, input=jsonl(tmp_path / "t.jsonl", rows), image="i", captions="t"
    )
    for name, sample in zip(("a.gif", "b.tif"), found, strict=True):
        assert sorted(sample.parts) == ["json", "png"]
        for transparency in ("white", "black", "drop", "open_clip"):
            before = decode_image(tmp_path / name, transparency=transparency)
            packed = decode_image(image_bytes_of(sample), transparency=transparency)
            assert list(packed.getdata()) == list(before.getdata())
    assert decode_image(image_bytes_of(found[0])).getpixel((7, 0)) == (255, 255, 255)


def test_if_everything_is_skipped_nothing_is_written(tmp_path: Path) -> None:
    name = jsonl(tmp_path / "t.jsonl", [{"q": "", "d": "x"}] * 3)
    with pytest.raises(
        ValueError,
        match=r"all 3 rows of t.jsonl had to be skipped; the first: no text in q",
    ):
        run(tmp_path, input=name, query="q", document="d")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_interrupted_pack_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = jsonl(tmp_path / "t.jsonl", [{"q": "q", "d": "d"}] * 3)
    before = run(tmp_path, input=name, query="q", document="d")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(write_module, "_write_records", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, input=name, query="q", document="d", seed=5)
    assert {path.name for path in tmp_path.iterdir()} == {name, "out"}
    assert samples(tmp_path / "out") == before


def test_a_full_folder_is_refused_and_only_packed_shards_are_overwritten(
    tmp_path: Path,
) -> None:
    name = jsonl(tmp_path / "t.jsonl", [{"q": "q", "d": "d"}])
    config = PackConfig(input=name, query="q", document="d")
    out = tmp_path / "out"
    out.mkdir()
    pack(config, out, tmp_path)
    with pytest.raises(ValueError, match="packed already; pass --overwrite"):
        pack(config, out, tmp_path)
    pack(config, out, tmp_path, overwrite=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="not packed here"):
        pack(config, tmp_path / "home", tmp_path, overwrite=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"query": "q", "document": "dd"},
            "field 'dd' is not in any row of t.jsonl; did you mean 'd'",
        ),
        ({"query": "{q} {x}", "document": "d"}, "field 'x' is not in any row"),
        (
            {"query": "q", "document": "d", "key": "d"},
            "rows 0 and 1 of t.jsonl have .*'d'",
        ),
        ({"query": "q"}, "belong together"),
        ({"image": "q"}, "belong together"),
        ({"image": "q", "captions": ["d"], "pairs_of": "d"}, "set just one"),
        ({}, "set just one"),
        ({"query": "q", "document": "d", "num_negatives": 2}, "belong together"),
        ({"pairs_of": "d", "score": "q"}, "belong to a query"),
    ],
)
def test_errors_name_the_field_and_the_way_out(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    jsonl(tmp_path / "t.jsonl", [{"q": "q", "d": "d"}] * 2)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, input="t.jsonl", **options)
    assert not (tmp_path / "out").exists()


def test_a_recipe_packs_what_is_not_there_yet(tmp_path: Path) -> None:
    jsonl(tmp_path / "t.jsonl", [{"q": "q", "d": "d"}] * 3)
    pair = {"input": "t.jsonl", "query": "q", "document": "d"}
    values: dict[str, Any] = {
        "data_root": str(tmp_path),
        "out": str(tmp_path / "out"),
        "sets": {"one": pair},
    }
    first = pack_all(parse_config(PackRecipe, values))
    assert first["one"] == PackSummary(
        3, 1, 0, (tmp_path / "out" / "one" / "000000.tar").stat().st_size
    )
    stamp = (tmp_path / "out" / "one").stat().st_mtime_ns
    values["sets"]["two"] = {**pair, "shuffle": False}
    assert pack_all(parse_config(PackRecipe, values)) == {
        "one": first["one"],
        "two": first["one"],
    }
    assert (tmp_path / "out" / "one").stat().st_mtime_ns == stamp
    values["sets"]["one"] = {**pair, "seed": 7}
    with pytest.raises(ValueError, match="packed with another seed; pass --overwrite"):
        pack_all(parse_config(PackRecipe, values))
    assert set(pack_all(parse_config(PackRecipe, values), overwrite=True)) == {
        "one",
        "two",
    }
