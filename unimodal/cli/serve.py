"""The command that serves a model."""

from __future__ import annotations

from typing import Annotated

import typer


def serve(
    model: Annotated[
        str,
        typer.Argument(
            help="Serve a model directory, a hub id, open_clip:NAME or hf:NAME."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Set the keys listed below."),
    ] = None,
    store: Annotated[
        str,
        typer.Option(
            help="Search this store, which was indexed with the model, with a page."
        ),
    ] = "",
) -> None:
    """Serve a model over HTTP: `serve MODEL --store STORE port=8080 host=0.0.0.0`."""
    from unimodal.config import apply_overrides, parse_config

    try:
        from unimodal.serve.server import serve as serve_config
    except ModuleNotFoundError as error:
        raise ImportError(
            f'{error.name} is missing; install it with pip install "unimodal[serve]".'
        ) from None
    from unimodal.serve.config import ServeConfig

    values = apply_overrides({"model": model, "store": store}, overrides or [])
    raise typer.Exit(serve_config(parse_config(ServeConfig, values, source="options")))
