"""Which shards a pattern names, on this machine's disks and elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from ..tables.files import is_hidden
from .storage import Patience, ask, filesystem, is_remote, persistently

Location: TypeAlias = Path | str  # a file here, or elsewhere: a URL or `pipe:COMMAND`

COMPRESSED = (".gz", ".tgz", ".bz2", ".xz")
_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


def find_shards(
    pattern: str | Path | Sequence[str], patience: Patience | None = None
) -> list[Location]:
    """The tars of a file name, a folder, a glob, a brace pattern (`train/{000000..000012}.tar`) or
    a list of those.

    Each may be a URL (http, s3, gs, ... through fsspec; a server that lists nothing knows no
    folders and no globs), or `pipe:COMMAND` whose output is a tar. They are sorted, so that the
    order of a run does not hang on how it was asked for. Raises ValueError if a named file is
    missing here, or if there is no shard at all.
    """
    if isinstance(pattern, (list, tuple)):
        found = {shard for one in pattern for shard in find_shards(one, patience)}
        return sorted(found, key=str)
    text = str(pattern)
    names = (
        [text] if not is_remote(text) and Path(text).exists() else expand_braces(text)
    )
    shards = {
        location
        for name in names
        for location in (
            _elsewhere(name, patience or Patience())
            if is_remote(name)
            else _here(Path(name))
        )
    }
    if not shards:
        raise ValueError(
            f"shards {text!r} name no .tar file; pack some with `unimodal shards pack`."
        )
    return sorted(shards, key=str)


def is_compressed(location: Location) -> bool:
    """Whether a shard has to be unpacked before it can be read at random."""
    return str(location).endswith(COMPRESSED)


def below(root: str | Path, path: str) -> str:
    """`path` relative to a folder or URL `root`, unless it stands on its own."""
    if is_remote(path) or Path(path).is_absolute():
        return path
    return (
        f"{str(root).rstrip('/')}/{path}"
        if is_remote(str(root))
        else str(Path(root) / path)
    )


def _here(path: Path) -> list[Location]:
    if path.is_dir():
        return [
            found
            for found in path.iterdir()
            if found.name.endswith(_SUFFIXES) and not is_hidden(found.name)
        ]
    if path.is_file():
        return [path]
    if any(mark in str(path) for mark in "*?["):
        anchor = Path(path.anchor)
        found = [
            one for one in anchor.glob(str(path.relative_to(anchor))) if one.is_file()
        ]
        return [
            one for one in found if path.name.startswith(".") or not is_hidden(one.name)
        ]
    raise ValueError(
        f"shard {str(path)!r} does not exist; give a .tar file, a folder, a glob or a "
        "brace pattern."
    )


def _elsewhere(url: str, patience: Patience) -> list[Location]:
    """A URL that ends like a tar is taken as it is: whether it is there shows when its index is
    read.
    """
    if url.startswith("pipe:"):
        return [url]
    is_pattern = any(mark in url for mark in "*[")  # ? begins a URL's query
    if url.partition("?")[0].endswith(_SUFFIXES) and not is_pattern:
        return [url]

    def look() -> list[str]:
        fs, path = filesystem(url)
        if is_pattern:
            found: list[str] = ask(fs, "glob", path, timeout=patience.timeout)
        else:
            found = ask(fs, "ls", path, timeout=patience.timeout, detail=False)
        return [str(fs.unstrip_protocol(name)) for name in found]

    return [
        name
        for name in persistently(look, url, patience.deadline)
        if name.endswith(_SUFFIXES)
    ]


def expand_braces(pattern: str) -> list[str]:
    """`{000..012}` counts, `{a,b}` lists, several multiply; a command's other braces than the first
    are the shell's.
    """
    match = re.search(
        r"\{(\d+\.\.\d+)\}" if pattern.startswith("pipe:") else r"\{([^{}]*)\}", pattern
    )
    if match is None:
        return [pattern]
    words = match[1].split(",")
    if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", match[1]):
        words = [
            str(n).zfill(len(bounds[1]))
            for n in range(int(bounds[1]), int(bounds[2]) + 1)
        ]
    before = pattern[: match.start()]
    after = pattern[match.end() :]
    return [
        expanded for word in words for expanded in expand_braces(before + word + after)
    ]
