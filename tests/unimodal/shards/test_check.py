"""The check finds everything that is broken, and nothing that is not."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from unimodal.shards.check import check, render


def image(form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, form)
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


BOMB = bytearray(image("PNG"))
BOMB[16:24] = (30_000).to_bytes(4, "big") * 2  # the header claims 900 megapixels
BOMB[29:33] = zlib.crc32(BOMB[12:29]).to_bytes(4, "big")

BROKEN = {
    "cut": {"jpg": image()[:-200], "txt": b"a"},
    "html": {"jpg": b"<html>not found</html>", "txt": b"a"},
    "empty": {"jpg": b"", "txt": b"a"},
    "bomb": {"png": bytes(BOMB), "txt": b"a"},
    "flip": {"png": image("PNG")[:60] + b"#" + image("PNG")[61:], "txt": b"a"},
    "utf8": {"jpg": image(), "txt": b"caf\xe9"},
    "silent": {"jpg": image(), "txt": b" "},
    "json": {"json": b'{"query": '},
    "half": {"json": b'{"query": "a"}'},
    "alone": {"txt": b"a"},
}
GOOD = {
    "pair": {
        "json": json.dumps(
            {"query": "a b", "document": "c", "negatives": ["d"], "score": 1}
        ).encode()
    },
    "jpeg": {"jpg": image(), "json": b'{"captions": ["one two three", "four"]}'},
    "webp": {"webp": image("WEBP"), "txt": b"five"},
}


def members(samples: dict[str, dict[str, bytes]]) -> dict[str, bytes]:
    return {
        f"{key}.{name}": content
        for key, parts in samples.items()
        for name, content in parts.items()
    }


def test_good_shards_are_measured(tmp_path: Path) -> None:
    report = check(write_tar(tmp_path / "s.tar", members(GOOD)))
    assert (report.exit_status, report.samples, report.broken) == (0, 3, [])
    assert report.kinds == {"text-pair": 1, "image-caption": 2}
    assert report.bytes == sum(map(len, members(GOOD).values()))
    assert report.measures["width"] == {
        "count": 2,
        "min": 32,
        "median": 32,
        "p95": 32,
        "max": 32,
    }
    words = report.measures["caption, words"]
    assert (words["count"], words["min"], words["median"], words["max"]) == (3, 1, 1, 3)
    assert (
        json.loads(json.dumps(report.to_json()))["measures"]["query, characters"]["max"]
        == 3
    )


def test_every_broken_sample_is_reported_and_no_other(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", members({**GOOD, **BROKEN}))
    report = check(path)
    assert report.exit_status == 1
    assert [entry.key for entry in report.broken] == list(BROKEN)
    assert {entry.shard for entry in report.broken} == {str(path)}


def test_broken_shards_are_reported_beside_the_good_ones(tmp_path: Path) -> None:
    good = write_tar(tmp_path / "0.tar", members(GOOD))
    (tmp_path / "1.tar").write_bytes(good.read_bytes()[:2000])
    (tmp_path / "2.tar").write_bytes(b"<html>" * 200)
    report = check(tmp_path)
    assert report.samples == 4
    assert [(Path(entry.shard).name, entry.key) for entry in report.broken] == [
        ("1.tar", ""),
        ("2.tar", ""),
    ]
    assert report.duplicate_keys == {"pair": 2}
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(report))
    text = console.export_text()
    assert "2 broken" in text
    assert "is not a tar file" in text


def test_no_shard_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="match no"):
        check(tmp_path)
