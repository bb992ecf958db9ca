"""What the commands take and say in the same way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values laid over the recipe.")]


def set_text(key: str, path: Path) -> str:
    """An override whose value stays text whatever it looks like: JSON's strings are YAML's."""
    return f"{key}={json.dumps(str(path))}"


def say(message: str) -> None:
    typer.echo(message, err=True)
