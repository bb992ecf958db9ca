"""The sidecar says what tarfile and webdataset say, for whole tars and for cut ones."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from unimodal.shards import index as index_module
from unimodal.shards.find import find_shards
from unimodal.shards.index import SUFFIX, ShardIndex, load_index

MEMBERS = {
    "a.JPG": b"x" * 700,
    "a.json": b"{}",
    "b.seg.png": b"",
    "b.json": b"[]" * 400,
    "sub.dir/c.txt": "käse".encode(),
    f"{'long' * 40}.txt": b"a name beyond 100 bytes needs another header",
}
SAMPLES = {
    "a": ["jpg", "json"],
    "b": ["seg.png", "json"],
    "sub.dir/c": ["txt"],
    "long" * 40: ["txt"],
}


def write_tar(path: Path, members: dict[str, bytes] = MEMBERS) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def build_index(path: Path) -> ShardIndex:
    with path.open("rb") as file:
        return index_module.build_index(file, str(path))


def test_the_index_is_what_tarfile_sees(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "s.tar", {"__meta__/x.json": b"{}", ".hidden": b"", **MEMBERS}
    )
    index = build_index(path)
    assert {index.key(n): list(index.parts(n)) for n in range(len(index))} == SAMPLES
    assert not index.truncated
    with tarfile.open(path) as tar:
        places = [
            (member.offset_data, member.size)
            for member in tar
            if member.name in MEMBERS
        ]
    assert [
        place for n in range(len(index)) for place in index.parts(n).values()
    ] == places


def test_the_sidecar_is_used_until_the_tar_changes(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar")
    sidecar = tmp_path / f"s.tar{SUFFIX}"
    built = load_index(path)
    stamp = sidecar.stat().st_mtime_ns
    assert load_index(path).key(3) == built.key(3)
    assert sidecar.stat().st_mtime_ns == stamp
    write_tar(
        path, {name.replace("a.", "z."): content for name, content in MEMBERS.items()}
    )  # of the same size
    assert load_index(path).key(0) == "z"
    sidecar.write_bytes(sidecar.read_bytes()[:100])
    assert load_index(path).key(0) == "z"
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "s.tar",
        f"s.tar{SUFFIX}",
    ]


def test_a_damaged_sidecar_is_none(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar")
    load_index(path)
    whole = (tmp_path / f"s.tar{SUFFIX}").read_bytes()
    for place in range(0, len(whole), 5):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        (tmp_path / "damaged.npz").write_bytes(content)
        index_module.read_sidecar(
            tmp_path / "damaged.npz"
        )  # the index, or None; nothing is raised


def test_every_cut_is_flagged_and_only_whole_samples_remain(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar")
    content = path.read_bytes()
    whole = build_index(path)
    end = content.rstrip(b"\0")  # what follows are the end mark's zeros
    for cut in range(512, len(end), 256):
        path.write_bytes(content[:cut])
        index = build_index(path)
        assert index.truncated, cut
        assert all(
            offset + size <= cut
            for n in range(len(index))
            for offset, size in index.parts(n).values()
        )
        assert [index.parts(n) for n in range(len(index))] == [
            whole.parts(n) for n in range(len(index))
        ]


def test_a_damaged_header_is_flagged(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar")
    content = bytearray(path.read_bytes())
    start = build_index(path).parts(1)["json"][0] - 512
    content[start : start + 100] = b"#" * 100
    path.write_bytes(content)
    index = build_index(path)
    assert "no end mark" in index.truncated
    assert [index.key(n) for n in range(len(index))] == ["a"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.tar", b"<html>" * 200, "is not a tar file"),
        ("s.tar", b"", "is not a tar file"),
    ],
)
def test_what_is_no_plain_tar_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        build_index(tmp_path / name)


def test_a_name_twice_in_a_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'a\.JSON' twice"):
        build_index(write_tar(tmp_path / "s.tar", {"a.json": b"", "a.JSON": b""}))


def test_shards_are_found_by_file_folder_glob_and_braces(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{n:03d}.tar") for n in range(3)]
    shutil.copy(paths[0], tmp_path / "other.txt")
    assert find_shards(paths[1]) == [paths[1]]
    assert find_shards(tmp_path) == paths
    assert find_shards(f"{tmp_path}/*1.tar") == [paths[1]]
    assert find_shards(f"{tmp_path}/{{000..002}}.tar") == paths
    assert find_shards(f"{tmp_path}/00{{2,0}}.tar") == [paths[0], paths[2]]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{folder}/nowhere.tar", "nowhere.tar' does not exist"),
        ("{folder}/{{000..002}}.tar", "001.tar' does not exist"),
        ("{folder}/empty", "match no .tar file"),
        ("{folder}/x*.tar", "match no .tar file"),
        ("foo://bucket/*.tar", "not a URL that can be read"),
    ],
)
def test_missing_shards_are_named(tmp_path: Path, pattern: str, message: str) -> None:
    write_tar(tmp_path / "000.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        find_shards(pattern.format(folder=tmp_path))
