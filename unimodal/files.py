"""Putting files where they belong: written aside, forced to the disk, and renamed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_text(file: Path, text: str) -> None:
    """Write UTF-8 text, in place."""
    file.write_text(text, encoding="utf-8")


def replace_folder(part: Path, folder: Path) -> None:
    """Put a finished folder in its place; what stood there is removed only once the new one is
    there.

    All of it is forced to the disk first, and its name afterwards.
    """
    for path in part.rglob("*"):
        sync(path)
    sync(part)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(part, folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def replace_text(file: Path, text: str) -> None:
    """Write a text file, whole or not at all, and force it and its name to the disk."""
    part = file.with_name(file.name + ".part")
    try:
        write_text(part, text)
        sync(part)
        os.replace(part, file)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync(file.parent)


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
