"""Which files of a folder are inputs, and names that are not Unicode text."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from unimodal.tables.fields import image_of
from unimodal.tables.files import (
    files_below,
    is_hidden,
    is_image_name,
    read_name,
    written_name,
)


@pytest.mark.parametrize(
    "name", [".a.jpg", "._a.jpg", ".DS_Store", "__MACOSX", "Thumbs.db", "desktop.ini"]
)
def test_what_a_system_puts_into_a_folder_is_not_an_input(
    tmp_path: Path, name: str
) -> None:
    assert is_hidden(name)
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.jpg").touch()
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / name).touch()
    assert files_below(tmp_path) == [tmp_path / "a.jpg"]


def test_the_files_of_a_hidden_folder_that_is_named_are_inputs(tmp_path: Path) -> None:
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "a.jpg").touch()
    assert files_below(tmp_path / ".cache") == [tmp_path / ".cache" / "a.jpg"]


def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        ValueError,
        match=r"the folder .*/gone cannot be read \(No such file or directory\)",
    ):
        files_below(tmp_path / "gone")


def test_an_image_is_known_by_its_ending() -> None:
    assert is_image_name(Path("a.JPG"))
    assert not is_image_name(Path("jpg"))


@pytest.mark.parametrize("name", ["a.jpg", "grün 50%.jpg", "50%25.jpg", "写真/1.png"])
def test_a_name_of_unicode_text_is_written_as_it_is(name: str) -> None:
    assert written_name(name) == name


@pytest.mark.parametrize(
    ("name", "written"),
    [
        (b"caf\xe9.jpg", "caf%E9.jpg"),
        (b"50% caf\xe9.jpg", "50%25 caf%E9.jpg"),
        (b"two\nlines.jpg", "two%0Alines.jpg"),
        ("gr\u00fcn\u2028\n.jpg".encode(), "grün%E2%80%A8%0A.jpg"),
    ],
)
def test_another_name_is_written_with_its_bytes_and_comes_back_as_it_was(
    tmp_path: Path, name: bytes, written: str
) -> None:
    assert written_name(os.fsdecode(name)) == written
    assert (
        json.loads(json.dumps(written, ensure_ascii=False).encode().decode()) == written
    )
    assert os.fsencode(read_name(written)) == name
    (tmp_path / os.fsdecode(name)).touch()
    assert image_of({"photo": written}, "photo", tmp_path) == tmp_path / os.fsdecode(
        name
    )


def test_a_written_name_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match="is not below"):
        image_of({"photo": "%2E%2E/a.png"}, "photo", tmp_path / "shop")
