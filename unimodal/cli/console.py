"""What the commands share: overrides, the keys in --help, and lines on stderr."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from unimodal.config import Config

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Change values of the recipe."),
]
Device = Annotated[
    str | None,
    typer.Option(help="Run on this device; default: a GPU where there is one."),
]


def set_text(key: str, path: Path) -> str:
    """An override whose value stays text whatever it looks like: JSON's strings are YAML's."""
    return f"{key}={json.dumps(str(path))}"


def with_keys_of(module: str, name: str, but: set[str]) -> type[TyperCommand]:
    """Return a command class whose --help lists the keys of a configuration.

    The configuration is imported only then. but: keys that are arguments of the command.
    """

    class WithKeys(TyperCommand):
        def format_help(self, ctx: Any, formatter: Any) -> None:
            super().format_help(ctx, formatter)
            print_keys(getattr(importlib.import_module(module), name), but)

    return WithKeys


def print_keys(cls: type[Config], but: set[str]) -> None:
    """Print every key with its default and type, and its description below them."""
    from rich.console import Console, Group
    from rich.padding import Padding
    from rich.panel import Panel
    from rich.text import Text

    from unimodal.config_keys import keys_of

    lines: list[Text | Padding] = []
    for key in keys_of(cls):
        if key.name in but:
            continue
        default = (f"={key.default}", "cyan")
        lines.append(
            Text.assemble((key.name, "bold cyan"), default, (f"  {key.type}", "dim"))
        )
        lines.append(Padding(Text(key.description), (0, 0, 0, 4)))
    title = "Keys, their defaults and types"
    panel = Panel(Group(*lines), title=title, title_align="left", border_style="dim")
    Console().print(panel)


def say(message: str) -> None:
    """Print a line for people, on stderr."""
    typer.echo(message, err=True)
