"""checksums.json makes a checkpoint whole: it is written last and has a hash of every file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from unimodal.files import Checksum, checksum_of, replace_text

MANIFEST = "checksums.json"


def write_checksums(folder: Path, checksums: Mapping[str, Checksum]) -> None:
    """Write the manifest; the keys are paths relative to the folder, with '/'."""
    files = {name: checksums[name]._asdict() for name in sorted(checksums)}
    replace_text(folder / MANIFEST, json.dumps({"files": files}, indent=2) + "\n")


def parse_checksums(content: bytes) -> dict[str, Checksum]:
    """Parse a manifest; raises ValueError if it is broken or names a file outside its folder."""
    try:
        files = json.loads(content)["files"]
        checksums = {}
        for name, entry in files.items():
            checksums[str(name)] = Checksum(int(entry["size"]), str(entry["sha256"]))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"its {MANIFEST} is broken ({type(error).__name__})") from None
    for name in checksums:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(
                f"its {MANIFEST} names {name!r}, which is outside its folder"
            )
    return checksums


def problem_of(folder: Path) -> str:
    """Read a folder through and compare it with its manifest; returns the problem, or ""."""
    try:
        checksums = parse_checksums((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return f"it has no {MANIFEST}, so it may be incomplete"
    except (ValueError, OSError) as error:
        return str(error)
    for name, expected in checksums.items():
        try:
            size = (folder / name).stat().st_size
            if size != expected.size:
                return f"{name} has {size:,} bytes, but {expected.size:,} were written"
            if checksum_of(folder / name) != expected:
                return f"{name} has changed since it was written (its checksum differs)"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error})"
    return ""
