"""What the commands take and say in the same way."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from unimodal.config import Config

# A key of a configuration in its source: name, type and default on one line, and a comment behind
# them.
_KEY = re.compile(r"^    (\w+): .*?  # (.+)$", re.MULTILINE)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Values laid over the recipe."),
]


def set_text(key: str, path: Path) -> str:
    """An override whose value stays text whatever it looks like: JSON's strings are YAML's."""
    return f"{key}={json.dumps(str(path))}"


def with_keys_of(module: str, name: str, but: set[str]) -> type[TyperCommand]:
    """A command whose --help lists the keys of a configuration, which is imported only then; but:
    the arguments.
    """

    class WithKeys(TyperCommand):
        def format_help(self, ctx: Any, formatter: Any) -> None:
            super().format_help(ctx, formatter)
            print_keys(getattr(importlib.import_module(module), name), but)

    return WithKeys


def print_keys(cls: type[Config], but: set[str]) -> None:
    """Every key with its default and what its comment in the source says."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold cyan")
    for key, default, comment in _keys(cls):
        if key not in but:
            table.add_row(Text(f"{key}={default}"), Text(comment))
    Console().print(
        Panel(
            table,
            title="Keys and their defaults",
            title_align="left",
            border_style="dim",
        )
    )


def _keys(cls: type[Config], above: str = "") -> list[tuple[str, str, str]]:
    """(key, default, comment) of a configuration and those within it."""
    from unimodal.config import Config

    comments: dict[str, str] = {}
    for parent in reversed(cls.__mro__[: cls.__mro__.index(Config)]):
        comments |= dict(_KEY.findall(inspect.getsource(parent)))
    keys = []
    for name, field in cls.model_fields.items():
        if isinstance(field.default, Config):
            keys += _keys(type(field.default), f"{above}{name}.")
        else:
            choices = (
                get_args(field.annotation)
                if get_origin(field.annotation) is Literal
                else ()
            )
            keys.append(
                (
                    above + name,
                    _as_written(field.default),
                    comments.get(name, " | ".join(choices)),
                )
            )
    return keys


def _as_written(default: Any) -> str:
    """A default as it would be written after the =; nothing for what is empty or
    has to be given.
    """
    from pydantic_core import PydanticUndefined

    if default in (None, "", (), {}, PydanticUndefined):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return (
        f"[{','.join(map(str, default))}]"
        if isinstance(default, tuple)
        else str(default)
    )


def say(message: str) -> None:
    typer.echo(message, err=True)
