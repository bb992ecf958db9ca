"""Data sets come whole or not at all, once, and lie where the suites look for them."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import tarfile
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eval.data.retrieval import RetrievalData
from eval.prepare.prepare import RECORD, _adopt_earlier_version, prepare
from eval.prepare.table import DataSet, data_sets, names_of
from eval.suites import load_tasks, read_suite
from tests.eval.prepare.conftest import COMMIT, Origins, archive
from unimodal.config import parse_config
from unimodal.files import locked
from unimodal.shards.read import open_shards
from unimodal.shards.sample import text_pair_of
from unimodal.shards.storage import Patience

PRODUCTS = b"""
- {id: a1, name: Red hat, category: hats, style: hat, description: A hat that is red., price: 12.5}
- {id: b2, name: Blue cup, category: cups, style: cup, description: A cup that is blue.,
   gender_affinity: F, price: 3}
"""
SHOP = {
    "LICENSE": b"MIT-0",
    "src/products/data/products.yaml": PRODUCTS,
    "src/other.bin": bytes(1000),
}


def data_set(sources: list[dict[str, Any]], **more: Any) -> DataSet:
    return parse_config(
        DataSet,
        {"about": "x", "licence": "CC0", "megabytes": 1, "sources": sources, **more},
    )


@pytest.fixture
def shop() -> dict[str, DataSet]:
    source = {
        "github": "someone/shop",
        "revision": "abc",
        "files": ["LICENSE", "src/products/data/products.yaml"],
    }
    texts = {
        "texts": {
            "input": "products.jsonl",
            "query": "name",
            "document": "description",
            "key": "id",
        }
    }
    return {"shop": data_set([source], convert="retail_demo_text", shards=texts)}


def everything(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_a_set_of_the_hub_is_scored_from_where_it_was_put(
    origins: Origins, tmp_path: Path, patience: Patience
) -> None:
    image = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(image, "JPEG")
    tar = tar_of({"0.jpg": image.getvalue(), "0.txt": b"a red square\nred\n"})
    origins.repositories["clip-benchmark/wds_flickr30k"] = {
        "test/0.tar": tar,
        "test/nshards.txt": b"1\n",
        "dataset_type.txt": b"retrieval",
        "train/0.tar": b"",
        ".gitattributes": b"",
    }
    (folder,) = prepare("flickr30k", tmp_path, patience=patience, show_progress=False)
    assert folder == tmp_path / "flickr30k"
    assert set(everything(folder)) == {
        "test/0.tar",
        "test/nshards.txt",
        "dataset_type.txt",
        RECORD,
    }
    record = json.loads((folder / RECORD).read_text())
    assert record["commits"] == [COMMIT]
    assert record["licence"] == data_sets()["flickr30k"].licence
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "tasks: {flickr30k: {kind: webdataset, path: flickr30k, get: flickr30k}}"
    )
    (data,) = load_tasks(read_suite(suite), tmp_path, "test").values()
    assert isinstance(data, RetrievalData)
    assert data.queries == ["a red square", "red"]
    assert list(tmp_path.glob(".*")) == []


def test_a_repository_becomes_tables_and_shards(
    origins: Origins, shop: dict[str, DataSet], tmp_path: Path, patience: Patience
) -> None:
    origins.files["/someone/shop/tar.gz/abc"] = archive(SHOP)
    (folder,) = prepare(
        "shop",
        tmp_path,
        github=origins.url,
        patience=patience,
        show_progress=False,
        table=shop,
    )
    rows = [
        json.loads(line)
        for line in (folder / "products.jsonl").read_text().splitlines()
    ]
    assert rows[0] == {
        "id": "a1",
        "name": "Red hat",
        "category": "hats",
        "style": "hat",
        "description": "A hat that is red.",
        "gender_affinity": "",
        "price": "12.5",
    }
    shards = open_shards(folder / "shards" / "texts")
    pairs = {
        text_pair_of(shards.read(0, number)).query for number in range(len(shards))
    }
    assert pairs == {"Red hat", "Blue cup"}
    assert not (folder / "src").exists()
    assert list(tmp_path.glob(".*")) == []


def test_existing_files_are_not_fetched_again(
    origins: Origins, shop: dict[str, DataSet], tmp_path: Path, patience: Patience
) -> None:
    origins.files["/someone/shop/tar.gz/abc"] = archive(SHOP)
    for _ in range(2):
        prepare(
            "shop",
            tmp_path,
            github=origins.url,
            patience=patience,
            show_progress=False,
            table=shop,
        )
    assert len(origins.asked) == 1


def test_another_commit_replaces_a_folder_only_with_overwrite(
    origins: Origins, shop: dict[str, DataSet], tmp_path: Path, patience: Patience
) -> None:
    origins.files["/someone/shop/tar.gz/abc"] = archive(SHOP)
    origins.files["/someone/shop/tar.gz/def"] = archive({**SHOP, "LICENSE": b"CC0"})
    source = shop["shop"].sources[0].model_copy(update={"revision": "def"})
    later = {"shop": shop["shop"].model_copy(update={"sources": [source]})}
    prepare(
        "shop",
        tmp_path,
        github=origins.url,
        patience=patience,
        show_progress=False,
        table=shop,
    )
    with pytest.raises(
        ValueError, match=r"shop was prepared from another origin .*; pass --overwrite"
    ):
        prepare("shop", tmp_path, github=origins.url, patience=patience, table=later)
    prepare(
        "shop",
        tmp_path,
        overwrite=True,
        github=origins.url,
        patience=patience,
        show_progress=False,
        table=later,
    )
    assert (tmp_path / "shop" / "LICENSE.MIT-0.txt").read_bytes() == b"CC0"


def test_other_files_are_not_touched(shop: dict[str, DataSet], tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"shop has files .*prepared\.json"):
        prepare("shop", tmp_path, overwrite=True, table=shop)
    assert everything(tmp_path) == {"shop/mine.txt": b"mine"}


def test_a_failed_conversion_leaves_no_set_and_costs_no_second_download(
    origins: Origins,
    shop: dict[str, DataSet],
    tmp_path: Path,
    patience: Patience,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    origins.files["/someone/shop/tar.gz/abc"] = archive(SHOP)
    with monkeypatch.context() as patch:
        patch.setattr("eval.prepare.prepare.CONVERTERS", {"retail_demo_text": fail})
        with pytest.raises(OSError, match="No space left"):
            prepare(
                "shop",
                tmp_path,
                github=origins.url,
                patience=patience,
                show_progress=False,
                table=shop,
            )
    assert not (tmp_path / "shop").exists()
    prepare(
        "shop",
        tmp_path,
        github=origins.url,
        patience=patience,
        show_progress=False,
        table=shop,
    )
    assert (tmp_path / "shop" / "products.jsonl").is_file()
    assert len(origins.asked) == 1


def test_a_broken_archive_is_fetched_again(
    origins: Origins, shop: dict[str, DataSet], tmp_path: Path, patience: Patience
) -> None:
    origins.files["/someone/shop/tar.gz/abc"] = archive(SHOP)[:200]
    with pytest.raises(ValueError, match=r"someone/shop: .* cannot be unpacked"):
        prepare(
            "shop",
            tmp_path,
            github=origins.url,
            patience=patience,
            show_progress=False,
            table=shop,
        )
    origins.files["/someone/shop/tar.gz/abc"] = archive(SHOP)
    prepare(
        "shop",
        tmp_path,
        github=origins.url,
        patience=patience,
        show_progress=False,
        table=shop,
    )
    assert (tmp_path / "shop" / "products.jsonl").is_file()


def test_a_killed_try_leaves_nothing_half_done_and_the_next_one_goes_on(
    origins: Origins, tmp_path: Path, patience: Patience
) -> None:
    content = os.urandom(20_000_000)
    origins.files["/someone/big/tar.gz/abc"] = archive({"a.bin": content})
    origins.faults = [
        (15_000_000,),
        *[503] * 1000,
    ]  # the line goes dead, and stays so until it is killed
    table = {
        "big": data_set([{"github": "someone/big", "revision": "abc"}], megabytes=30)
    }
    options: dict[str, Any] = {
        "github": origins.url,
        "show_progress": False,
        "table": table,
    }
    process = multiprocessing.get_context("fork").Process(
        target=prepare, args=("big", tmp_path), kwargs=options
    )
    process.start()
    deadline = time.monotonic() + 60
    while len(origins.asked) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.join()
    assert not (tmp_path / "big").exists()
    origins.faults = []
    origins.asked = []
    prepare("big", tmp_path, patience=patience, **options)
    assert (tmp_path / "big" / "a.bin").read_bytes() == content
    assert origins.asked[0][1] == "bytes=15000000-"


def test_single_files_are_fetched_by_their_listed_names(
    origins: Origins,
    tmp_path: Path,
    patience: Patience,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    origins.files["/someone/list/tar.gz/abc"] = archive(
        {"names.txt": b"train_1.jpg\nval_2.jpg\ntrain_3.jpg\n"}
    )
    origins.files |= {
        f"/images/{name}.jpg": name.encode() for name in ("train_1", "train_3", "val_2")
    }
    source = {"github": "someone/list", "revision": "abc"}
    each = {
        "names": "names.txt",
        "like": "train_*",
        "url": "https://x/{name}",
        "into": "images",
    }
    made = data_set([source], each=[each])
    # The server here speaks no https, which a table must ask for.
    made = made.model_copy(
        update={
            "each": [
                made.each[0].model_copy(
                    update={"url": f"{origins.url}/images/{{name}}"}
                )
            ]
        }
    )
    del origins.files["/images/train_3.jpg"]
    with pytest.raises(FileNotFoundError, match=r"train_3\.jpg"):
        prepare(
            "list",
            tmp_path,
            github=origins.url,
            patience=patience,
            show_progress=False,
            table={"list": made},
        )
    origins.files["/images/train_3.jpg"] = b"train_3"
    origins.asked = []
    prepare(
        "list",
        tmp_path,
        github=origins.url,
        patience=patience,
        show_progress=False,
        table={"list": made},
    )
    found = {
        path.name: path.read_bytes()
        for path in (tmp_path / "list" / "images").iterdir()
    }
    assert found == {"train_1.jpg": b"train_1", "train_3.jpg": b"train_3"}
    assert origins.paths() == ["/images/train_3.jpg"]


@pytest.mark.parametrize(
    "name",
    ["train_/../../../evil.jpg", "train_/evil.jpg", "train_\\..\\evil.jpg", "..", "."],
)
def test_listed_names_that_lead_to_another_folder_are_refused(
    origins: Origins, tmp_path: Path, patience: Patience, name: str
) -> None:
    origins.files["/someone/list/tar.gz/abc"] = archive(
        {"names.txt": f"train_1.jpg\n{name}\n".encode()}
    )
    like = "train_*" if name.startswith("train_") else "*"
    each = {
        "names": "names.txt",
        "like": like,
        "url": "https://localhost:9/{name}",
        "into": "images",
    }
    table = {
        "list": data_set([{"github": "someone/list", "revision": "abc"}], each=[each])
    }
    with pytest.raises(
        ValueError, match=r"names\.txt lists .*, which is not a file name"
    ):
        prepare(
            "list",
            tmp_path / "data",
            github=origins.url,
            patience=patience,
            show_progress=False,
            table=table,
        )
    assert not list(tmp_path.rglob("*.jpg*"))


def test_a_full_disk_is_an_error_before_anything_is_fetched(
    origins: Origins,
    shop: dict[str, DataSet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        "shutil.disk_usage", lambda _: usage(10**9, 10**9 - 10**6, 1_900_000)
    )
    with pytest.raises(ValueError, match=r"needs 2 MB and 2 MB are free"):
        prepare("shop", tmp_path / "new", github=origins.url, table=shop)
    assert not origins.asked


def test_two_processes_do_not_prepare_one_set_at_once(
    shop: dict[str, DataSet], tmp_path: Path
) -> None:
    work = tmp_path / ".shop.part"
    work.mkdir()
    with (
        locked(work / "lock"),
        pytest.raises(ValueError, match="another process is preparing"),
    ):
        prepare("shop", tmp_path, table=shop)


def test_an_unfinished_try_of_an_earlier_version_is_taken_over(
    tmp_path: Path,
) -> None:
    (tmp_path / ".shop.partial" / "sources").mkdir(parents=True)
    photo = tmp_path / ".shop.partial" / "sources" / "photo.jpg.partial"
    photo.write_bytes(b"half")
    _adopt_earlier_version(tmp_path / "shop", tmp_path / ".shop.part")
    photo = tmp_path / ".shop.part" / "sources" / "photo.jpg.part"
    assert photo.read_bytes() == b"half"
    assert not (tmp_path / ".shop.partial").exists()


def test_a_group_is_all_of_its_sets(
    origins: Origins, tmp_path: Path, patience: Patience
) -> None:
    origins.repositories["someone/one"] = {"corpus.jsonl": b"1"}
    origins.repositories["someone/two"] = {"corpus.jsonl": b"2"}
    table = {
        f"nano/{name}": data_set([{"hub": f"someone/{name}", "revision": "main"}])
        for name in ("one", "two")
    }
    folders = prepare(
        "nano", tmp_path, patience=patience, show_progress=False, table=table
    )
    assert [(folder / "corpus.jsonl").read_bytes() for folder in folders] == [
        b"1",
        b"2",
    ]
    assert folders == [tmp_path / "nano" / "one", tmp_path / "nano" / "two"]


def test_an_unreachable_origin_ends_the_group_and_leaves_no_folder(
    monkeypatch: pytest.MonkeyPatch, origins: Origins, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(
        OSError,
        match=r"^\S+/\S+ could not be fetched: http://127.0.0.1:9 cannot be reached",
    ):
        prepare(
            "nanobeir",
            tmp_path / "data",
            patience=Patience(deadline=60),
            show_progress=False,
        )
    assert time.monotonic() - started < 15
    assert not list(tmp_path.iterdir())


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="'flicker30k' is unknown; did you mean 'flickr30k'"
    ):
        prepare("flicker30k", tmp_path)


def test_files_that_the_hub_no_longer_has_are_named(
    origins: Origins, tmp_path: Path, patience: Patience
) -> None:
    origins.repositories["someone/set"] = {"data/0.parquet": b""}
    table = {
        "set": data_set(
            [{"hub": "someone/set", "revision": "main", "files": ["test/*", "data/*"]}]
        )
    }
    with pytest.raises(
        ValueError,
        match=r"someone/set \(0123456\) has no file .* 'test/\*'; its layout has changed",
    ):
        prepare("set", tmp_path, patience=patience, show_progress=False, table=table)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("suite", ["mini", "quick", "jina", "full", "shop"])
def test_every_set_that_a_suite_names_can_be_prepared_and_lands_where_it_looks(
    suite: str,
) -> None:
    for task in read_suite(suite).tasks.values():
        if task.get:
            names = names_of(task.get, data_sets())
            for path in task.needs(Path("/data"), "test"):
                assert any(f"{path}/".startswith(f"/data/{name}/") for name in names), (
                    path
                )


def test_commits_are_named_where_they_can_be() -> None:
    for name, one in data_sets().items():
        for source in one.sources:
            assert not source.github or len(source.revision) == 40, name
            assert (
                not source.hub
                or source.revision == "main"
                or len(source.revision) == 40
            ), name


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {"hub": "a/b", "github": "a/b", "revision": "main"},
            "is one of hub, github and url",
        ),
        ({"hub": "a/b"}, "a repository needs a revision"),
        ({"url": "http://example.org/a.zip"}, "https://"),
    ],
)
def test_a_source_that_cannot_be_is_refused(
    source: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        data_set([source])
