"""The files that a command writes at its end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def check_outputs(files: Mapping[str, Path]) -> None:
    """Refuse, before the work begins, files that could not be written at the end.

    files: by the option that names each.

    Raises ValueError for two options of one file, for a folder, and for what cannot be written.
    """
    if len(set(files.values())) < len(files):
        raise ValueError(
            f"{' and '.join(files)} name the same file, {next(iter(files.values()))}; "
            "give each its own."
        )
    for option, file in files.items():
        if file.is_dir():
            raise ValueError(
                f"{option} {file} is a folder; name a file in it, such as {file / 'scores'}."
            )
        there = next(parent for parent in file.absolute().parents if parent.exists())
        if not there.is_dir():
            raise ValueError(
                f"{option} {file} would lie below {there}, which is a file; choose another path."
            )
        if not os.access(there, os.W_OK):
            raise ValueError(
                f"{option} {file} cannot be written: {there} is not writable; choose another path."
            )
