"""The command line: the one place that names the library, training and evaluation.

Everything is imported where it is used, so that `unimodal --help` is instant and a search backend
needs no training dependency.
"""

from __future__ import annotations

import sys
import warnings

import typer

from .bench import bench
from .console import with_keys_of
from .demo import demo
from .evaluate import evaluate, mteb, prepare
from .library import calibrate, check, embed, index, pack
from .schema import schema
from .search import index as index_items
from .search import search, why
from .serve import serve
from .train import plot, train

app = typer.Typer(
    help="Train, measure and serve one embedding space for text and images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
shards_app = typer.Typer(help="Pack and check WebDataset shards.", no_args_is_help=True)

app.command(cls=with_keys_of("unimodal.training.config", "TrainConfig", set()))(train)
app.command()(plot)
app.command("eval", cls=with_keys_of("unimodal.eval.suites", "Suite", set()))(evaluate)
app.command()(prepare)
app.command()(mteb)
app.command(cls=with_keys_of("unimodal.search.index.items", "ItemsConfig", {"input"}))(
    embed
)
app.command()(calibrate)
app.command(
    "index", cls=with_keys_of("unimodal.search.index.items", "IndexConfig", {"input"})
)(index_items)
app.command()(search)
app.command()(why)
app.add_typer(shards_app, name="shards")
shards_app.command(cls=with_keys_of("unimodal.shards.config", "PackConfig", {"input"}))(
    pack
)
shards_app.command()(check)
shards_app.command()(index)
app.command(
    cls=with_keys_of("unimodal.serve.config", "ServeConfig", {"model", "store"})
)(serve)
app.command()(schema)
app.command()(bench)
app.command()(demo)


def main() -> None:
    """Run the command line; what a user can get wrong is one line on stderr and exit status 1."""
    warnings.formatwarning = lambda message, *_, **__: (
        f"warning: {message}\n"
    )  # where in the code helps nobody here
    try:
        app()
    except (ValueError, ImportError, FloatingPointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
