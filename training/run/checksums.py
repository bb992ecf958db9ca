"""What makes a checkpoint whole: checksums.json, written last, with the size and the SHA-256 of
every other file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from unimodal.files import Checksum, checksum_of, replace_text

MANIFEST = "checksums.json"


def write_checksums(folder: Path, checksums: Mapping[str, Checksum]) -> None:
    """Write the manifest; checksums are by path relative to the folder, with '/'
    between its parts.
    """
    files = {name: checksums[name]._asdict() for name in sorted(checksums)}
    replace_text(folder / MANIFEST, json.dumps({"files": files}, indent=2) + "\n")


def parse_checksums(content: bytes) -> dict[str, Checksum]:
    """The manifest's entries; raises ValueError if it is broken or names a file
    outside its folder.
    """
    try:
        files = json.loads(content)["files"]
        found = {
            str(name): Checksum(int(entry["size"]), str(entry["sha256"]))
            for name, entry in files.items()
        }
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"its {MANIFEST} is broken ({type(error).__name__})") from None
    for name in found:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"its {MANIFEST} names {name!r}, which is outside of it")
    return found


def problem_of(folder: Path) -> str:
    """What is wrong with a folder, read through and compared with its manifest, in a few words; ""
    if nothing.
    """
    try:
        checksums = parse_checksums((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return f"it has no {MANIFEST}, so that it is not known whether it is whole"
    except (ValueError, OSError) as error:
        return str(error)
    for name, expected in checksums.items():
        try:
            size = (folder / name).stat().st_size
            if size != expected.size:
                return f"{name} has {size:,} bytes and had {expected.size:,} when it was written"
            if checksum_of(folder / name) != expected:
                return f"{name} is not what was written (its checksum differs)"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error})"
    return ""
