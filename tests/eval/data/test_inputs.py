from __future__ import annotations

from pathlib import Path

from eval.data.datasets import Deferred, Fused
from eval.data.inputs import bytes_of, name_of, parts_of


def test_the_three_kinds_of_picture_give_their_bytes_and_a_name(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"abc")
    pictures = (file, b"abc", Deferred("0.tar, a.jpg", lambda: b"abc"))
    assert [bytes_of(picture) for picture in pictures] == [b"abc"] * 3
    assert [name_of(picture) for picture in pictures] == [
        str(file),
        "a picture of 3 bytes",
        "0.tar, a.jpg",
    ]


def test_a_text_with_a_picture_has_two_parts_and_all_else_is_its_own() -> None:
    assert parts_of(Fused("red", b"abc")) == ("red", b"abc")
    assert parts_of("red") == ("red",)
