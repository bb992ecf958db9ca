"""Checks of the files that a command writes at its end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def check_outputs(files: Mapping[str, Path | None]) -> None:
    """Refuse, before the work begins, files that could not be written at the end.

    files: by the option that names each; None where it is not given.

    Raises ValueError for two options of one file, for a folder, and for what cannot be written.
    """
    given = {option: file for option, file in files.items() if file is not None}
    if len(set(given.values())) < len(given):
        first = next(iter(given.values()))
        raise ValueError(
            f"{' and '.join(given)} name the same file, {first}; give each its own."
        )
    for option, file in given.items():
        _check_output(option, file)


def _check_output(option: str, file: Path) -> None:
    if file.is_dir():
        raise ValueError(
            f"{option} {file} is a folder; name a file in it, such as {file / 'scores'}."
        )
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise ValueError(
            f"{option} {file} would lie below {folder}, which is a file; choose another path."
        )
    if not os.access(folder, os.W_OK):
        raise ValueError(
            f"{option} {file} cannot be written: {folder} is not writable; choose another path."
        )
