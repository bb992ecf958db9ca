"""Where a model's files are: in a folder, or in a repository of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "README.md")


def local_folder(name: str, source: str) -> Path:
    """The folder itself, or the snapshot of a hub repository (weights as safetensors,
    configuration, tokenizer).

    name: a folder or a hub id.
    source: the name as it was given, for what goes wrong.

    Raises ValueError if there is no such folder and the hub gives none.
    """
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise ValueError(
            f"model {source!r} is not a folder, and a hub id looks like owner/name; check the path."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OSError,
    ) as error:
        raise _not_there(f"model {source!r}", error) from None


def check_files(name: str, source: str, patterns: Sequence[str]) -> None:
    """Ask whether files are there, without fetching one.

    name: a folder or a hub id, with an owner or without.
    source: what names it, for what goes wrong: "init 'owner/name'".
    patterns: of the files, one of which must be there.

    Raises ValueError unless the folder has one, or the hub has the repository, or a copy of it on
    this machine has one.
    """
    if Path(name).is_dir():
        if not _has_any(Path(name), patterns):
            raise ValueError(
                f"{source} has none of {', '.join(patterns)}; copy the whole folder."
            )
        return

    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(
            f"{source} is not there; check the path, or give a hub id such as owner/name."
        )

    from huggingface_hub import model_info, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        if _has_any(folder, patterns):
            return
    except (LocalEntryNotFoundError, HFValidationError):
        pass

    try:
        model_info(name, timeout=10)
    except Exception as error:  # of one of many HTTP clients
        raise _not_there(source, error) from None


def _has_any(folder: Path, patterns: Sequence[str]) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)


def _not_there(source: str, error: Exception) -> ValueError:
    why = shorten(str(error), 160, placeholder=" …")
    return ValueError(
        f"{source} is not a folder here and the hub gave none ({why}); check the name "
        "and the connection."
    )
