"""Files of a folder as inputs: which of them are images, and their names where they are not Unicode
text.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from urllib.parse import unquote_to_bytes

# The endings of files that are images, in lower case. Of one that cannot be read here (HEIC) the
# reader says so: nothing in a folder of images is left out without a word.
IMAGE_EXTENSIONS = (
    "jpg",
    "jpeg",
    "jpe",
    "jfif",
    "png",
    "apng",
    "webp",
    "gif",
    "bmp",
    "tif",
    "tiff",
    "avif",
    "heic",
    "heif",
)
IMAGE_ENDINGS = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)

_OF_SYSTEMS = (
    "__macosx",
    "thumbs.db",
    "desktop.ini",
)  # what macOS's archives and Windows' folders hold besides
_UNWRITABLE = (
    "Cc",
    "Cs",
    "Zl",
    "Zp",
)  # Unicode's control characters, surrogates, line and paragraph separators


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is not an input: hidden (.x), a Mac's (._x.jpg), or the
    system's.
    """
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def files_below(folder: Path) -> list[Path]:
    """The files of a folder and of the folders in it, in the order of their names, without hidden
    ones.

    Raises ValueError for a folder that cannot be read: without its files the others would look like
        all.
    """
    found: list[Path] = []
    for top, folders, names in os.walk(folder, onerror=_refuse_unreadable):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [Path(top, name) for name in names if not is_hidden(name)]
    return sorted(found)


def _refuse_unreadable(error: OSError) -> None:
    raise ValueError(
        f"the folder {error.filename} cannot be read ({error.strerror}); allow it, or move it away."
    ) from None


def is_image_name(path: Path) -> bool:
    """Whether a file is taken for an image by the ending of its name."""
    return path.suffix.lower() in IMAGE_ENDINGS


def written_name(name: str) -> str:
    """A name of a file as one line of Unicode text: what an id, JSON and a store can hold.

    Nearly always it is the name itself. A name is bytes; where they are not UTF-8, or hold a line
    break or another control character, each such byte is written %XX, and a percent sign of that
    name as %25.
    """
    if not any(_is_unwritable(letter) for letter in name):
        return name
    return "".join(
        _percent(letter) if letter == "%" or _is_unwritable(letter) else letter
        for letter in name
    )


def read_name(written: str) -> str:
    """The name that `written_name` wrote with %XX."""
    return os.fsdecode(unquote_to_bytes(written))


def _is_unwritable(letter: str) -> bool:
    return unicodedata.category(letter) in _UNWRITABLE


def _percent(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in os.fsencode(letter))
