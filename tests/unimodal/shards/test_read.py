"""A random read gives what webdataset streams, in any process, and the parts of a sample mean what
they say.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle
import tarfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from unimodal.shards import index as index_module
from unimodal.shards import read as read_module
from unimodal.shards.index import SUFFIX, load_index
from unimodal.shards.read import ShardSet, open_shards
from unimodal.shards.sample import (
    Sample,
    TextPair,
    captions_of,
    image_bytes_of,
    label_of,
    text_pair_of,
)


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def img2dataset_shard(path: Path, first: int) -> Path:
    """Members as img2dataset writes them: image, caption, metadata."""
    members = {}
    for n in range(first, first + 5):
        metadata = {
            "caption": f"caption {n}",
            "url": f"https://example.org/{n}",
            "status": "success",
            "width": 8,
        }
        members[f"{n:09d}.jpg"] = bytes([n]) * (n + 1)
        members[f"{n:09d}.json"] = json.dumps(metadata).encode()
        members[f"{n:09d}.txt"] = f"caption {n}".encode()
    return write_tar(path, members)


@pytest.fixture
def shards(tmp_path: Path) -> ShardSet:
    for n in range(3):
        img2dataset_shard(tmp_path / f"{n:05d}.tar", n * 5)
    return open_shards(tmp_path)


def everything(shards: ShardSet) -> list[Sample]:
    return [
        shards.read(shard, n)
        for shard, count in enumerate(shards.num_samples)
        for n in range(count)
    ]


def test_random_reads_equal_webdatasets_stream(shards: ShardSet) -> None:
    webdataset = pytest.importorskip("webdataset")
    stream = webdataset.WebDataset(
        [str(path) for path in shards.paths], shardshuffle=False
    )
    streamed = [
        Sample(
            sample["__key__"],
            {name: part for name, part in sample.items() if not name.startswith("__")},
        )
        for sample in stream
    ]
    backwards = [shards.read(shard, n) for shard in (2, 1, 0) for n in (4, 3, 2, 1, 0)]
    assert backwards[::-1] == streamed
    assert [shards.key(0, 0), shards.extensions(0, 0)] == [
        "000000000",
        ("jpg", "json", "txt"),
    ]


def test_an_img2dataset_shard_is_read_as_it_is(shards: ShardSet) -> None:
    sample = shards.read(1, 2)
    assert sample.key == "000000007"
    assert captions_of(sample) == ["caption 7"]
    assert image_bytes_of(sample) == bytes([7]) * 8


def read_one(shards: ShardSet, place: tuple[int, int]) -> Sample:
    return shards.read(*place)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same(shards: ShardSet, method: str) -> None:
    expected = everything(shards)  # the descriptors are open by now
    places = [(shard, n) for shard in range(3) for n in range(5)]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        assert list(pool.map(read_one, [shards] * len(places), places)) == expected


def test_threads_share_a_set_larger_than_the_number_of_open_files(
    shards: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_module, "_max_open", lambda: 1)
    expected = everything(shards)
    places = [(shard, n) for n in range(5) for shard in range(3)] * 20
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda place: shards.read(*place), places))
    assert found == [expected[shard * 5 + n] for shard, n in places]


def test_in_a_read_only_folder_the_index_stays_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(index_module, "write_sidecar", refuse)
    path = img2dataset_shard(tmp_path / "s.tar", 0)
    shards = pickle.loads(pickle.dumps(open_shards(path)))
    monkeypatch.setattr(
        index_module, "build_index", refuse
    )  # it is not built a second time
    assert shards.read(0, 4).key == "000000004"
    assert not (tmp_path / f"s.tar{SUFFIX}").exists()


def test_a_shard_cut_after_it_was_opened_is_an_io_error_that_names_it(
    shards: ShardSet, tmp_path: Path
) -> None:
    shards.read(0, 0)
    (tmp_path / "00000.tar").write_bytes((tmp_path / "00000.tar").read_bytes()[:600])
    with pytest.raises(OSError, match=r"00000\.tar ends .* bytes short"):
        shards.read(0, 4)


def test_a_shard_written_again_after_it_was_opened_is_refused(
    shards: ShardSet, tmp_path: Path
) -> None:
    img2dataset_shard(tmp_path / "00000.tar", 100)
    with pytest.raises(OSError, match="written again"):
        shards.read(0, 0)
    assert open_shards(tmp_path).fingerprint() != shards.fingerprint()


def test_a_shard_is_looked_at_once_however_often_it_is_closed_and_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(9):
        img2dataset_shard(tmp_path / f"{number:05d}.tar", number * 5)
    monkeypatch.setattr(read_module, "_max_open", lambda: 3)
    shards = open_shards(tmp_path)
    looked = 0

    def count(*given: Any) -> bool:
        nonlocal looked
        looked += 1
        return index_module.fits(*given)

    monkeypatch.setattr(read_module, "fits", count)
    for row in range(5):
        for shard in range(9):
            assert shards.read(shard, row).key == f"{shard * 5 + row:09d}"
    assert looked <= 2 * 9


def test_any_flipped_bit_of_a_sample_is_a_fault_once_its_shard_was_indexed_with_checksums(
    tmp_path: Path,
) -> None:
    path = img2dataset_shard(tmp_path / "s.tar", 0)
    index = load_index(path, checksums=True)
    whole = path.read_bytes()
    assert not any(sample.fault for sample in everything(open_shards(path)))
    for offset, size in index.parts(1).values():
        for place in range(offset, offset + size, 7):
            content = bytearray(whole)
            content[place] ^= 1 << place % 8
            path.write_bytes(content)
            faults = [sample.fault for sample in everything(open_shards(path))]
            assert (
                "sample '000000001' is not what was indexed (its checksum differs)"
                in faults[1]
            )
            assert not any(faults[:1] + faults[2:])


def sample(**parts: Any) -> Sample:
    return Sample(
        "k",
        {
            name: part if isinstance(part, bytes) else json.dumps(part).encode()
            for name, part in parts.items()
        },
    )


def test_captions_come_from_the_list_then_the_text_then_the_metadata() -> None:
    assert captions_of(sample(json={"captions": ["a", " ", "b "]}, txt=b"c")) == [
        "a",
        "b",
    ]
    assert captions_of(sample(json={"caption": "d"}, txt=b"c\n")) == ["c"]
    assert captions_of(sample(json={"caption": "d"})) == ["d"]
    assert captions_of(sample(txt="käse".encode())) == ["käse"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"jpg": b"x"}, r"'k' has no caption; its parts are jpg \(1 bytes\)"),
        ({"txt": b" \n"}, "has no caption"),
        ({"json": {"caption": None}}, "has no caption"),
        ({"json": {"captions": []}}, "has no caption"),
        ({"json": {"captions": "a"}}, "not a list of texts"),
        ({"json": {"captions": [1]}}, "not a list of texts"),
        ({"txt": b"\xff"}, "not UTF-8"),
        ({"json": b"\xff"}, "not UTF-8"),
        ({"json": b"{"}, "not JSON"),
        ({"json": b"[]"}, "not an object"),
    ],
)
def test_a_sample_without_captions_says_what_it_has(
    parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        captions_of(sample(**parts))


def test_a_sample_that_lacks_a_part_says_which_rule_it_may_have_broken() -> None:
    with pytest.raises(
        ValueError,
        match=r"webdataset takes only files that are adjacent in the tar for one sample",
    ):
        captions_of(sample(jpg=b"x"))
    with pytest.raises(
        ValueError,
        match=r"ends a key at the first dot of a file's name and takes the rest, '5.jpg'",
    ):
        image_bytes_of(sample(**{"5.jpg": b"x", "5.txt": b"a"}))


def test_a_label_that_is_nan_is_not_a_class() -> None:
    assert (
        label_of(sample(json=b'{"label": NaN}'))
        == label_of(sample(json={"label": None}))
        == ""
    )


def test_a_text_pair_may_have_negatives_and_a_score() -> None:
    record = {"query": "q", "document": "d"}
    assert text_pair_of(sample(json=record)) == TextPair("q", "d", (), None)
    assert text_pair_of(
        sample(json={**record, "negatives": ["n"], "score": 3})
    ) == TextPair("q", "d", ("n",), 3.0)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"txt": b"x"}, "no text pair"),
        ({"json": {"query": "q"}}, "no document"),
        ({"json": {"query": " ", "document": "d"}}, "no query"),
        (
            {"json": {"query": "q", "document": "d", "negatives": "n"}},
            "negatives that are not a list",
        ),
        (
            {"json": {"query": "q", "document": "d", "score": "3"}},
            "a score that is not a finite number \\('3'\\)",
        ),
    ],
)
def test_a_broken_text_pair_says_what_is_wrong(
    parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        text_pair_of(sample(**parts))


def test_a_sample_without_an_image_says_so() -> None:
    with pytest.raises(ValueError, match="has no image"):
        image_bytes_of(sample(txt=b"x"))


def test_half_a_surrogate_pair_in_a_sample_is_a_fault_of_it_alone() -> None:
    record = {"query": "half a pair: \ud83d", "document": "a"}
    broken = Sample("7", {"json": json.dumps(record).encode()})
    for read in (text_pair_of, captions_of):
        with pytest.raises(
            ValueError,
            match=r"sample '7' has a \.json with half a surrogate pair, which is not valid",
        ):
            read(broken)
    whole = Sample(
        "7",
        {"json": json.dumps({**record, "query": "a whole pair: \U0001f600"}).encode()},
    )
    assert text_pair_of(whole).query == "a whole pair: \U0001f600"
