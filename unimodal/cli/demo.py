"""The command that runs the demo."""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from .console import say, set_text
from .train import run_training_by


def demo(
    folder: Annotated[
        Path, typer.Argument(help="Put everything into this folder.")
    ] = Path("runs/demo"),
) -> None:
    """Draw a catalogue, train on it, score on unseen products, write a page, and index it."""
    from unimodal.config import read_config
    from unimodal.demo.catalogue import build_catalogue, read_products, training_texts
    from unimodal.demo.page import write_page
    from unimodal.demo.results import build_groups, draw_showcase
    from unimodal.embedder import load
    from unimodal.eval.evaluate import evaluate as score
    from unimodal.eval.report.terminal import results_json, results_table, write_json
    from unimodal.eval.results import rows_of
    from unimodal.eval.suites import read_suite
    from unimodal.formats.card import write_card
    from unimodal.preprocess.tokenizers import train_tokenizer
    from unimodal.progress import open_console
    from unimodal.shards.config import PackRecipe
    from unimodal.shards.write import pack_all
    from unimodal.training.config import TrainConfig

    started = time.perf_counter()
    data = folder / "data"
    catalogue = build_catalogue(data)
    train_tokenizer(training_texts(data), folder / "tokenizer.json", vocab_size=2000)
    pack_all(
        read_config(
            PackRecipe,
            "demo-shards",
            [set_text("data_root", data), set_text("out", folder / "shards")],
        )
    )
    paths = {
        "run": folder,
        "data_root": folder / "shards",
        "eval.data_root": data,
        "model.text.tokenizer": folder / "tokenizer.json",
    }
    config = read_config(
        TrainConfig, "demo", [set_text(key, path) for key, path in paths.items()]
    )
    model = run_training_by(config, resume=True)
    embedder = load(model)
    rows = rows_of(score(embedder, read_suite("demo"), data))
    write_json(rows, folder / "scores.json")
    write_card(
        model,
        scores=results_json(rows),
        trained_on="Trained on the demo's self-drawn catalogue.",
    )
    products = read_products(data, "test")
    groups = build_groups(
        products,
        embedder.encode([data / product.image for product in products]),
        embedder.encode_document([product.description for product in products]),
        embedder.encode,
        size=catalogue.size,
    )
    write_page(
        folder / "index.html",
        title="One space for images and words",
        introduction="A small model, trained on this machine on products that draw themselves, "
        "searches products whose combination of kind, colour and pattern it has never "
        "seen, asked in wordings it has never read.",
        groups=groups,
        scores=results_json(rows),
        facts={
            "products seen in training": f"{catalogue.num_train:,}",
            "products searched": f"{catalogue.num_test:,}",
            "steps": f"{config.total_steps:,}",
        },
        showcase=draw_showcase(products),
    )
    open_console().print(
        results_table(rows, "products and wordings never seen in training")
    )
    say(
        f"{time.perf_counter() - started:.0f} s in all; the model is in {model}, the "
        f"page is {folder / 'index.html'}"
    )
    if find_spec("lancedb") is None:
        say(
            'to search the catalogue yourself: pip install "unimodal[search,serve]", '
            "and this command again"
        )
        return
    index_catalogue(model, data, folder / "store")
    offer_search(model, folder / "store")


def index_catalogue(model: Path, data: Path, store: Path) -> None:
    """Put the test products into a store: title, description and image.

    What was embedded before is not embedded again.
    """
    from unimodal.search.index.items import IndexConfig
    from unimodal.search.index.run import index

    config = IndexConfig.model_validate(
        {
            "input": str(data / "test.jsonl"),
            "id": "id",
            "text": ["title", "description"],
            "image": "image",
            "fields": [
                "title",
                "price:float",
                "category",
                "kind",
                "colour",
                "pattern",
                "material",
            ],
        }
    )
    # overwrite: the model may have been trained again.
    index(str(model), config, str(store), overwrite=True)


def offer_search(model: Path, store: Path) -> None:
    """Print how to search the store; at a terminal, offer to serve it at once."""
    say(
        f'search it: unimodal search {store} "a navy mug with stripes" --where "price < '
        '50" --fields title,price'
    )
    say(f"serve it, with a page: unimodal serve {model} --store {store}")
    if find_spec("uvicorn") is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    if typer.confirm(
        "Serve it now, and search by words and images in your browser?",
        default=True,
        err=True,
    ):
        from unimodal.serve.config import ServeConfig
        from unimodal.serve.server import serve

        # Port 0: any free one, which the server prints. Ctrl-C ends it.
        config = ServeConfig(model=str(model), store=str(store), port=0, log="text")
        raise typer.Exit(serve(config))
