"""Where a model's files are: in a folder, or in a repository of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "README.md")


def local_folder(name: str, source: str) -> Path:
    """Return a model's folder; a hub repository is downloaded first.

    Weights are downloaded as safetensors, with the configuration and the tokenizer.

    name: a folder or a hub id.
    source: the name as the user gave it, for messages.

    Raises ValueError if there is no such folder and the hub does not have it.
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
    """Check that files are available, without downloading them.

    name: a folder or a hub id, with or without an owner.
    source: the subject of messages: "init 'owner/name'".
    patterns: at least one file must match one of them.

    Raises ValueError unless the folder or this machine's copy of the repository has such a file,
    or the hub has the repository.
    """
    if Path(name).is_dir():
        if not _has_any(Path(name), patterns):
            raise ValueError(
                f"{source} has none of {', '.join(patterns)}; copy the whole folder."
            )
        return

    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(
            f"{source} does not exist; check the path, or give a hub id such as owner/name."
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
        f"{source} is not a folder here and the hub did not give it ({why}); check the name "
        "and the connection."
    )
