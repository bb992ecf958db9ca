from __future__ import annotations

from pathlib import Path

from eval.data.inputs import Deferred, Fused, bytes_of, name_of, split_input


def test_the_three_kinds_of_image_give_their_bytes_and_a_name(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"abc")
    images = (file, b"abc", Deferred("0.tar, a.jpg", lambda: b"abc"))
    assert [bytes_of(image) for image in images] == [b"abc"] * 3
    assert [name_of(image) for image in images] == [
        str(file),
        "an image of 3 bytes",
        "0.tar, a.jpg",
    ]


def test_a_text_with_an_image_has_two_parts_and_all_else_is_its_own() -> None:
    assert split_input(Fused("red", b"abc")) == ("red", b"abc")
    assert split_input("red") == ("red",)
