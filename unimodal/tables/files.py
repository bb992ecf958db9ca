"""Files of a folder as inputs: which are read, which are images, and names that are not Unicode."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from urllib.parse import unquote_to_bytes

from ..preprocess.image_formats import IMAGE_ENDINGS

# Unicode's control characters, surrogates, line and paragraph separators: not in a line of text.
CONTROL_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")

# What macOS's archives and Windows' folders hold besides.
_SYSTEM_FILES = ("__macosx", "thumbs.db", "desktop.ini")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is not an input: hidden (.x), macOS's or Windows'."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def files_below(folder: Path) -> list[Path]:
    """The files of a folder and of the folders in it, sorted by name, without hidden ones.

    Raises ValueError for a folder that cannot be read: its files would be left out silently.
    """
    files: list[Path] = []
    for top, folders, names in os.walk(folder, onerror=_refuse_unreadable):
        folders[:] = [name for name in folders if not is_hidden(name)]
        files += [Path(top, name) for name in names if not is_hidden(name)]
    return sorted(files)


def _refuse_unreadable(error: OSError) -> None:
    raise ValueError(
        f"the folder {error.filename} cannot be read ({error.strerror}); allow reading it, or "
        "move it away."
    ) from None


def is_image_name(path: Path) -> bool:
    """Whether the name of a file ends as that of an image."""
    return path.suffix.lower() in IMAGE_ENDINGS


def written_name(name: str) -> str:
    """A file name as one line of Unicode text: what an id, JSON and a store can hold.

    Nearly always it is the name itself. A name is bytes; where they are not UTF-8, or hold a line
    break or another control character, each such byte is written %XX, and a percent sign of that
    name %25.
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
    return unicodedata.category(letter) in CONTROL_CATEGORIES


def _percent(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in os.fsencode(letter))
