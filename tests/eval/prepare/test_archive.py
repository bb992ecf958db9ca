"""Archives are unpacked where they should go, and hostile ones not at all."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from eval.prepare.archive import unpack


def tar(path: Path, files: dict[str, bytes], **member: object) -> Path:
    """A .tar.gz; member: attributes of all its members, such as type and linkname."""
    with tarfile.open(path, "w:gz") as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in member.items():
                setattr(info, key, value)
            packed.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, files: dict[str, bytes], mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            packed.writestr(info, content)
    return path


FILES = {
    "top/LICENSE": b"free",
    "top/data/a/1.jpg": b"one",
    "top/data/2.jpg": b"two",
    "top/code.py": b"print()",
}


@pytest.mark.parametrize("make", [tar, zipped])
def test_the_wanted_files_are_written_without_the_leading_folder(
    make: object, tmp_path: Path
) -> None:
    assert callable(make)
    count = unpack(
        make(tmp_path / "archive", FILES),
        tmp_path / "out",
        ["LICENSE", "data/*.jpg"],
        1000,
        strip=1,
    )
    written = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert written == {"LICENSE", "data/a/1.jpg", "data/2.jpg"}
    assert count == 3
    assert (tmp_path / "out" / "data" / "a" / "1.jpg").read_bytes() == b"one"


def test_folders_are_left_out_where_wanted(tmp_path: Path) -> None:
    unpack(tar(tmp_path / "a", FILES), tmp_path / "out", ["*.jpg"], 1000, flat=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "1.jpg",
        "2.jpg",
    ]


def test_two_files_that_would_become_one_without_their_folders_are_an_error(
    tmp_path: Path,
) -> None:
    one = tar(tmp_path / "a", {"a/x.jpg": b"one", "b/y.jpg": b"two"})
    for _ in range(2):  # what an earlier try wrote does not count as a second file
        assert unpack(one, tmp_path / "out", ["*.jpg"], 1000, flat=True) == 2
    both = tar(tmp_path / "b", {"a/x.jpg": b"one", "b/x.jpg": b"two"})
    with pytest.raises(
        ValueError, match=r"b holds 'a/x\.jpg' and 'b/x\.jpg', which would be one file"
    ):
        unpack(both, tmp_path / "out", ["*.jpg"], 1000, flat=True)
    assert unpack(both, tmp_path / "apart", ["*.jpg"], 1000) == 2


@pytest.mark.parametrize("make", [tar, zipped])
@pytest.mark.parametrize(
    "name",
    ["../evil.jpg", "top/../../../evil.jpg", "/tmp/evil.jpg", "top/a\\..\\evil.jpg"],
)
def test_nothing_lands_elsewhere(make: object, name: str, tmp_path: Path) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match="would land elsewhere"):
        unpack(
            make(tmp_path / "a", {name: b"evil"}),
            tmp_path / "deep" / "out",
            ["*"],
            1000,
        )
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds 'x\.jpg', a link or device"):
        unpack(
            tar(tmp_path / "a", {"x.jpg": b""}, type=kind, linkname="/etc/passwd"),
            tmp_path / "out",
            ["*"],
            1000,
        )
    assert not (tmp_path / "out" / "x.jpg").exists()


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    archive = zipped(
        tmp_path / "a", {"x.jpg": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777
    )
    with pytest.raises(ValueError, match="a link or device"):
        unpack(archive, tmp_path / "out", ["*"], 1000)


def test_a_link_that_is_not_wanted_does_no_harm(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a", "w") as packed:
        link = tarfile.TarInfo("docs/latest")
        link.type = tarfile.SYMTYPE
        link.linkname = "1.0"
        packed.addfile(link)
        info = tarfile.TarInfo("LICENSE")
        packed.addfile(info, io.BytesIO())
    assert unpack(tmp_path / "a", tmp_path / "out", ["LICENSE"], 10) == 1


def test_a_bomb_ends_at_the_limit(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a", {"zeros.jpg": bytes(50_000_000)})
    assert archive.stat().st_size < 100_000
    with pytest.raises(ValueError, match="unpacked is over 3,000,000 bytes"):
        unpack(archive, tmp_path / "out", ["*"], 3_000_000)
    assert (tmp_path / "out" / "zeros.jpg").stat().st_size <= 3_000_000


def test_a_changed_layout_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"has no file .* 'data/\*\.png'; its layout has changed"
    ):
        unpack(
            tar(tmp_path / "a", FILES),
            tmp_path / "out",
            ["LICENSE", "data/*.png"],
            1000,
            strip=1,
        )


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>sorry</html>" * 100, None],
    ids=["empty", "a page", "cut short"],
)
def test_a_broken_archive_is_an_error(content: bytes | None, tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar.gz", {"a": os.urandom(5000), "b": os.urandom(5000)})
    path.write_bytes(path.read_bytes()[:6000] if content is None else content)
    with pytest.raises(
        ValueError, match=r"a\.tar\.gz cannot be unpacked .*; fetch it again"
    ):
        unpack(path, tmp_path / "out", ["*"], 100_000)
