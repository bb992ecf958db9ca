"""What the served model is called, and which names a client may send."""

from __future__ import annotations

from pathlib import Path

from ..config import ServeConfig
from .errors import ApiError


def shown_name(config: ServeConfig) -> str:
    """The first of the model's names, or the end of its path.

    Where the model lies on the server is not shown.
    """
    for name in config.names:
        if name != "*":
            return name
    kind, colon, path = config.model.rpartition(":")
    return kind + colon + "/".join(Path(path).parts[-2:]).lstrip("/")


def check_name(name: str, config: ServeConfig) -> None:
    """Raise ApiError unless the server answers to this name."""
    if not name or not config.names or "*" in config.names:
        return
    if name in (shown_name(config), config.model, *config.names):
        return
    names = " or ".join(map(repr, config.names))
    raise ApiError(
        404,
        f"model {name[:80]!r} is not served here; send {names} (a server without names accepts "
        "any name).",
        code="model_not_found",
        param="model",
    )
