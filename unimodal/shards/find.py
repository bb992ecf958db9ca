"""Find the shards that a pattern names, local or remote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from ..tables.files import is_hidden
from .storage import Patience, call_method, filesystem, is_remote, retry

Location: TypeAlias = Path | str  # a local file, or a URL or `pipe:COMMAND`

COMPRESSED = (".gz", ".tgz", ".bz2", ".xz")
_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


def find_shards(
    pattern: str | Path | Sequence[str], patience: Patience | None = None
) -> list[Location]:
    """The tars of a file, folder, glob, brace pattern (`train/{000000..000012}.tar`) or list.

    Each may be a URL (http, s3, gs, ... through fsspec; a server without listings has neither
    folders nor globs), or `pipe:COMMAND` whose output is a tar. They are sorted, so that the order
    of a run does not depend on the pattern.

    Raises ValueError if a local file is missing, or if there is no shard at all.
    """
    if isinstance(pattern, (list, tuple)):
        shards: set[Location] = set()
        for part in pattern:
            shards.update(find_shards(part, patience))
        return sorted(shards, key=str)
    text = str(pattern)
    is_file = not is_remote(text) and Path(text).exists()
    shards = set()
    for name in [text] if is_file else expand_braces(text):
        if is_remote(name):
            shards.update(_find_remote(name, patience or Patience()))
        else:
            shards.update(_find_local(Path(name)))
    if not shards:
        raise ValueError(
            f"shards {text!r} match no .tar file; pack some with `unimodal shards pack`."
        )
    return sorted(shards, key=str)


def is_compressed(location: Location) -> bool:
    """Whether a shard has to be unpacked before samples can be read at random."""
    return str(location).endswith(COMPRESSED)


def below(root: str | Path, path: str) -> str:
    """`path` relative to a folder or URL `root`, unless it is absolute or a URL."""
    if is_remote(path) or Path(path).is_absolute():
        return path
    if is_remote(str(root)):
        return f"{str(root).rstrip('/')}/{path}"
    return str(Path(root) / path)


def _find_local(path: Path) -> list[Location]:
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
        takes_hidden = path.name.startswith(".")
        return [
            file
            for file in anchor.glob(str(path.relative_to(anchor)))
            if file.is_file() and (takes_hidden or not is_hidden(file.name))
        ]
    raise ValueError(
        f"shard {str(path)!r} does not exist; give a .tar file, a folder, a glob or a "
        "brace pattern."
    )


def _find_remote(url: str, patience: Patience) -> list[Location]:
    """The tars of a URL; one that ends like a tar is not looked up before its index is read."""
    if url.startswith("pipe:"):
        return [url]
    is_pattern = any(mark in url for mark in "*[")  # ? begins a URL's query
    if url.partition("?")[0].endswith(_SUFFIXES) and not is_pattern:
        return [url]

    def look() -> list[str]:
        fs, path = filesystem(url)
        if is_pattern:
            found: list[str] = call_method(fs, "glob", path, timeout=patience.timeout)
        else:
            found = call_method(fs, "ls", path, timeout=patience.timeout, detail=False)
        return [str(fs.unstrip_protocol(name)) for name in found]

    return [
        name for name in retry(look, url, patience.deadline) if name.endswith(_SUFFIXES)
    ]


def expand_braces(pattern: str) -> list[str]:
    """The names of a pattern: `{000..012}` counts, `{a,b}` lists, several multiply.

    In a command, `{a,b}` is left to the shell.
    """
    braces = r"\{([^{}]*)\}"
    if pattern.startswith("pipe:"):
        braces = r"\{(\d+\.\.\d+)\}"
    match = re.search(braces, pattern)
    if match is None:
        return [pattern]
    words = match[1].split(",")
    if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", match[1]):
        numbers = range(int(bounds[1]), int(bounds[2]) + 1)
        words = [str(number).zfill(len(bounds[1])) for number in numbers]
    before = pattern[: match.start()]
    after = pattern[match.end() :]
    names: list[str] = []
    for word in words:
        names += expand_braces(before + word + after)
    return names
