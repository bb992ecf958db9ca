from __future__ import annotations

import functools
import gzip
import http.server
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.data.folder_tasks import ShardsTask
from eval.data.formats import (
    read_crossmodal3600,
    read_hub_pairs,
    read_shards,
    read_webdataset,
    read_xtd10,
)
from eval.data.inputs import Deferred
from eval.data.pairs import PairData
from eval.data.retrieval import RetrievalData
from eval.data.zero_shot import ZeroShotData
from tests.eval.layouts import (
    make_image,
    write_captioned,
    write_classes,
    write_crossmodal3600,
    write_tar,
    write_xtd10,
)
from unimodal.config import parse_config
from unimodal.shards.config import PackConfig
from unimodal.shards.write import pack

CAPTIONS = [["one", "uno"], ["two"], ["three", "one", "drei"]]


@pytest.mark.parametrize("form", ["jpg", "png", "webp"])
def test_captions_of_a_webdataset_ask_for_their_images(
    tmp_path: Path, form: str
) -> None:
    data = read_webdataset(write_captioned(tmp_path, CAPTIONS, form=form))
    assert isinstance(data, RetrievalData)
    assert data.queries == ["one", "uno", "two", "three", "one", "drei"]
    assert data.relevant == [[0], [0], [1], [2], [2], [2]]
    assert data.both_ways
    kind = {"jpg": "JPEG"}.get(form, form.upper())
    assert [one.read() for one in data.documents if isinstance(one, Deferred)] == [
        make_image(n, kind) for n in range(3)
    ]
    assert data.document_ids == ["0/s0000000", "0/s0000001", "1/s0000002"]
    assert data.check("task") is data


def test_tars_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    data = read_webdataset(
        write_captioned(tmp_path, [[str(number)] for number in range(12)], per_tar=1)
    )
    assert isinstance(data, RetrievalData)
    assert data.queries == [str(number) for number in range(12)]


def test_some_images_of_a_webdataset_by_position(tmp_path: Path) -> None:
    data = read_webdataset(write_captioned(tmp_path, CAPTIONS), images=(1, 2))
    assert isinstance(data, RetrievalData)
    assert (data.queries, data.relevant, len(data.documents)) == (["two"], [[0]], 1)


def test_classes_of_a_webdataset_make_a_zero_shot_task(tmp_path: Path) -> None:
    data = read_webdataset(write_classes(tmp_path, ["1", "0", "1"]))
    assert isinstance(data, ZeroShotData)
    assert data.labels == [1, 0, 1]
    assert data.class_names == ["cat", "dog"]
    assert data.templates == ["a photo of a {c}.", "a drawing of a {c}."]
    assert isinstance(data.images[2], Deferred)
    assert data.images[2].read() == make_image(2, "WEBP")


def test_a_webdataset_of_captions_needs_no_word_that_it_is_one(tmp_path: Path) -> None:
    told = read_webdataset(write_captioned(tmp_path, CAPTIONS))
    (tmp_path / "dataset_type.txt").unlink()
    data = read_webdataset(tmp_path)
    assert isinstance(data, RetrievalData)
    assert isinstance(told, RetrievalData)
    assert (data.queries, data.relevant, data.document_ids) == (
        told.queries,
        told.relevant,
        told.document_ids,
    )


def test_a_class_beside_a_caption_makes_a_zero_shot_task_unless_the_folder_says_retrieval(
    tmp_path: Path,
) -> None:
    write_classes(tmp_path, ["1"])
    write_tar(
        tmp_path / "test" / "0.tar",
        {"a.jpg": make_image(0), "a.cls": b"1", "a.txt": b"a dog"},
    )
    assert isinstance(read_webdataset(tmp_path), ZeroShotData)
    (tmp_path / "dataset_type.txt").write_text("retrieval")
    assert isinstance(read_webdataset(tmp_path), RetrievalData)


def test_what_a_webdataset_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"split 'val' is not in '.*'; there is: test"):
        read_webdataset(write_captioned(tmp_path / "a", CAPTIONS), "val")
    with pytest.raises(ValueError, match=r"image '0/s0000001' has no caption"):
        read_webdataset(write_captioned(tmp_path / "b", [["one"], [" "]]))
    with pytest.raises(
        ValueError, match=r"class of sample '0/s0000001' is 'dog'; it must be a number"
    ):
        read_webdataset(write_classes(tmp_path / "c", ["0", "dog"]))
    (write_classes(tmp_path / "d", ["0"]) / "classnames.txt").unlink()
    with pytest.raises(ValueError, match=r"classnames\.txt' does not exist"):
        read_webdataset(tmp_path / "d")
    write_tar(tmp_path / "e" / "test" / "0.tar", {"a.jpg": make_image(0)})
    (tmp_path / "e" / "test" / "nshards.txt").write_text("2")
    (tmp_path / "e" / "dataset_type.txt").write_text("retrieval")
    with pytest.raises(ValueError, match=r"1\.tar' does not exist"):
        read_webdataset(tmp_path / "e")
    (tmp_path / "e" / "test" / "nshards.txt").write_text("1")
    with pytest.raises(
        ValueError,
        match=r"sample '0/a' of .*0\.tar has no \.txt; its parts are jpg; .*are adjacent",
    ):
        read_webdataset(tmp_path / "e")
    (tmp_path / "e" / "test" / "nshards.txt").write_text("two")
    with pytest.raises(
        ValueError, match=r"nshards\.txt holds 'two', and it is the number of shards"
    ):
        read_webdataset(tmp_path / "e")
    (tmp_path / "f").mkdir()
    with pytest.raises(
        ValueError,
        match=r"f' has no test/nshards\.txt and no test/\*\.tar, which a webdataset",
    ):
        read_webdataset(tmp_path / "f")


def test_a_webdataset_without_its_number_of_shards_is_all_that_are_there(
    tmp_path: Path,
) -> None:
    whole = read_webdataset(write_captioned(tmp_path, CAPTIONS))
    (tmp_path / "test" / "nshards.txt").unlink()
    (tmp_path / "test" / "._0.tar").write_bytes(b"a Mac's")
    with pytest.warns(
        UserWarning,
        match=r"nshards.txt is missing, so the \d shards beside it are taken for all",
    ):
        data = read_webdataset(tmp_path)
    assert isinstance(data, RetrievalData)
    assert isinstance(whole, RetrievalData)
    assert (data.queries, data.document_ids) == (whole.queries, whole.document_ids)


def test_a_webdataset_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    tar = write_captioned(tmp_path, CAPTIONS) / "test" / "0.tar"
    tar.write_bytes(tar.read_bytes()[:2500])
    with pytest.raises(
        ValueError,
        match=r"0\.tar is not whole \(cut after s0000000.*\); fetch it again",
    ):
        read_webdataset(tmp_path)


Pack = Callable[..., Path]


@pytest.fixture
def packed(tmp_path: Path) -> Pack:
    def make(name: str, rows: list[dict[str, Any]], **fields: Any) -> Path:
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
        values = {
            "input": f"{name}.jsonl",
            "samples_per_shard": 2,
            "shuffle": False,
            **fields,
        }
        pack(parse_config(PackConfig, values), tmp_path / name, tmp_path)
        return tmp_path / name

    return make


def test_shards_of_images_with_captions(packed: Pack, tmp_path: Path) -> None:
    rows = []
    for number, captions in enumerate(CAPTIONS):
        (tmp_path / f"{number}.jpg").write_bytes(make_image(number))
        rows.append({"image": f"{number}.jpg", "captions": captions})
    data = read_shards(
        str(packed("pictures", rows, image="image", captions=["captions"]))
    )
    assert isinstance(data, RetrievalData)
    assert data.queries == ["one", "uno", "two", "three", "one", "drei"]
    assert [one.read() for one in data.documents if isinstance(one, Deferred)] == [
        make_image(n) for n in range(3)
    ]
    assert data.both_ways


def test_shards_of_pairs_merge_what_is_the_same_and_have_negatives_in_the_pool(
    packed: Pack,
) -> None:
    rows = [
        {"query": "small", "document": "cells", "negatives": ["moons"]},
        {"query": "small", "document": "atoms", "negatives": []},
        {"query": "tiny", "document": "atoms", "negatives": ["suns"]},
    ]
    data = read_shards(
        str(
            packed(
                "pairs", rows, query="query", document="document", negatives="negatives"
            )
        )
    )
    assert data == RetrievalData(
        ["small", "tiny"], ["cells", "moons", "atoms", "suns"], [[0, 2], [2]]
    )


def test_shards_of_pairs_with_scores_are_graded_similarity(packed: Pack) -> None:
    rows = [
        {"query": "a", "document": "b", "score": 0.5},
        {"query": "c", "document": "d", "score": 2},
    ]
    scored = packed("scored", rows, query="query", document="document", score="score")
    assert read_shards(str(scored)) == PairData(["a", "c"], ["b", "d"], [0.5, 2.0])
    plain = packed("plain", rows, query="query", document="document")
    with pytest.raises(
        ValueError, match="2 of 4 pairs have a score; give those with one apart"
    ):
        read_shards([str(plain), str(scored)])


def test_shards_elsewhere_read_as_those_here(
    packed: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "0.jpg").write_bytes(make_image(0))
    folder = packed(
        "pictures",
        [{"image": "0.jpg", "captions": "one"}],
        image="image",
        captions=["captions"],
    )
    monkeypatch.setenv("UNIMODAL_CACHE", str(tmp_path / "cache"))
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(folder)
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{next(folder.glob('*.tar')).name}"
        assert (
            ShardsTask(kind="shards", splits={"test": url}).needs(tmp_path, "test")
            == []
        )
        loaded = ShardsTask(kind="shards", splits={"test": url}).load(tmp_path, "test")[
            ""
        ]
        assert isinstance(loaded, RetrievalData)
        assert isinstance(loaded.documents[0], Deferred)
        assert (loaded.queries, loaded.documents[0].read()) == (["one"], make_image(0))
        server.shutdown()


def test_shards_of_several_kinds_or_cut_short_are_refused(
    packed: Pack, tmp_path: Path
) -> None:
    (tmp_path / "0.jpg").write_bytes(make_image(0))
    pictures = packed(
        "pictures",
        [{"image": "0.jpg", "captions": "one"}],
        image="image",
        captions=["captions"],
    )
    pairs = packed(
        "pairs",
        [{"query": "a", "document": "b"}] * 2,
        query="query",
        document="document",
    )
    with pytest.raises(
        ValueError,
        match="hold both images and pairs of texts; give those of one kind",
    ):
        read_shards([str(pictures), str(pairs)])
    tar = next(pairs.glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:1200])
    with pytest.raises(
        ValueError, match=r"shard .*\.tar is not whole \(.*\); fetch or pack it again"
    ):
        read_shards(str(pairs))


def test_crossmodal3600_has_the_same_images_in_every_language(tmp_path: Path) -> None:
    write_crossmodal3600(tmp_path)
    german, other = read_crossmodal3600(tmp_path, ["de", "en"]).values()
    english = read_crossmodal3600(tmp_path, ["en"], first_caption=True)["en"]
    assert (other.queries[:2], other.documents) == (
        ["en 0 0", "en 0 1"],
        german.documents,
    )
    assert (
        german.documents
        == english.documents
        == [tmp_path / "images" / f"key{n}.jpg" for n in range(3)]
    )
    assert german.queries[:3] == ["de 0 0", "de 0 1", "de 1 0"]
    assert english.queries == ["en 0 0", "en 1 0", "en 2 0"]
    with pytest.raises(
        ValueError, match=r"language 'dn' is not in .*; did you mean '(de|en)'\?"
    ):
        read_crossmodal3600(tmp_path, ["dn"])


def test_xtd10_has_a_caption_an_image_in_each_language(tmp_path: Path) -> None:
    write_xtd10(tmp_path)
    for language in ("en", "de", "jp"):
        data = read_xtd10(tmp_path, language)
        assert data.queries == [f"{language} {number}" for number in range(3)]
        assert data.documents == [
            tmp_path / "images" / name for name in ("a.jpg", "b.jpg", "c.jpg")
        ]
        assert data.relevant == [[0], [1], [2]]
    with pytest.raises(
        ValueError, match=r"language 'ja' is not in .*; did you mean 'jp'\?"
    ):
        read_xtd10(tmp_path, "ja")
    (tmp_path / "MIC" / "test_1kcaptions_de.txt").write_text("eins\n")
    with pytest.raises(
        ValueError, match=r"test_1kcaptions_de\.txt has 1 captions for 3 images"
    ):
        read_xtd10(tmp_path, "de")


def test_pairs_of_the_hub_come_from_a_split_or_a_subset(tmp_path: Path) -> None:
    for name in ("test", "validation", "test/en-en"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.write(
                json.dumps({"sentence1": name, "sentence2": "b", "score": 2.5}) + "\n"
            )
    assert read_hub_pairs(tmp_path, "validation") == PairData(
        ["validation"], ["b"], [2.5]
    )
    assert read_hub_pairs(tmp_path, "test", "en-en").left == ["test/en-en"]
