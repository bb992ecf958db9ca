"""The command line: the one place that names the library, training and evaluation, and puts the demo together.

Everything is imported where it is used, so that `unimodal --help` is instant and a search backend needs no training
dependency.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from unimodal.embedder import Embedder
    from unimodal.shards.write import PackSummary
    from unimodal.training.config import SourceConfig, TrainConfig
    from unimodal.training.loop import Evaluate

app = typer.Typer(help="Train, measure and serve one embedding space for text and pictures.", no_args_is_help=True,
                  add_completion=False, pretty_exceptions_enable=False)  # fmt: skip
shards_app = typer.Typer(help="Pack and check WebDataset shards.", no_args_is_help=True)
app.add_typer(shards_app, name="shards")

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values laid over the recipe.")]


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint of the run, if there is one.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Remove the run's folder first.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Check the recipe and print what would happen.")] = False,
) -> None:
    """Train a model by a recipe; `torchrun --nproc-per-node N -m unimodal train ...` uses N processes."""
    from unimodal.config import read_config
    from unimodal.training.config import TrainConfig

    config = read_config(TrainConfig, recipe, overrides or [])
    if dry_run:
        _print_plan(config)
        return
    _say(f"model in {_run_training(config, resume=resume, overwrite=overwrite)}")


@app.command()
def plot(run: Annotated[Path, typer.Argument(help="The folder of a run.")]) -> None:
    """Draw the curves of a run into RUN/plots.png."""
    from unimodal.training.plot import plot_run

    _say(f"curves in {plot_run(run)}")


@app.command(name="eval")
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... [KEY=VALUE]...",
            help="Model directories, hub ids, open_clip:NAME[/TAG] or hf:NAME; then "
            "values laid over the suite (tasks.NAME=null leaves one out).",
        ),
    ],
    suite: Annotated[str, typer.Option(help="A shipped suite (mini, demo) or a YAML file.")] = "mini",
    data: Annotated[Path, typer.Option(help="The folder that the suite's files are relative to.")] = Path("."),
    split: Annotated[str, typer.Option(help="val to choose, test to report.")] = "test",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the rows there.")] = None,
    device: Annotated[str | None, typer.Option(help="Default: a GPU where there is one.")] = None,
) -> None:
    """Score models on a suite: one table, chance and BM25 beside every number."""
    from rich.console import Console

    from unimodal.embedder import load
    from unimodal.eval.evaluate import evaluate as score
    from unimodal.eval.evaluate import rows_of
    from unimodal.eval.report import results_table, write_json
    from unimodal.eval.suites import read_suite

    overrides = [word for word in models if "=" in word]
    models = [word for word in models if "=" not in word]
    if not models:
        raise ValueError("no model to score; give a model directory, a hub id, open_clip:NAME[/TAG] or hf:NAME.")
    tasks, bars = read_suite(suite, overrides), sys.stderr.isatty()
    encoders = (load(model, device=device) for model in models)
    scored = [rows_of(score(encoder, tasks, data, split=split, show_progress=bars)) for encoder in encoders]
    results = dict(zip(_short_names(models), scored, strict=True)) if len(models) > 1 else scored[0]
    Console().print(results_table(results, f"{suite}, {split}"))
    if json_file is not None:
        write_json(results, json_file)


@app.command()
def embed(
    model: Annotated[str, typer.Argument(help="As for eval.")],
    source: Annotated[Path, typer.Argument(help="A folder of pictures, a .txt of lines, or a table.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    text: Annotated[str, typer.Option(help="Of a table: the field that holds a text.")] = "",
    image: Annotated[str, typer.Option(help="Of a table: the field that holds a picture's path.")] = "",
    device: Annotated[str | None, typer.Option(help="Default: a GPU where there is one.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT if it exists.")] = False,
) -> None:
    """Embed a folder, a list or a table into OUT/vectors.npy, with what each row is in OUT/items.jsonl."""
    from unimodal.embed import embed_source

    count, dim = embed_source(model, source, out, text=text, image=image, device=device, overwrite=overwrite)
    _say(f"{count:,} vectors of {dim} dimensions in {out}")


@shards_app.command()
def pack(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="A table, hf:NAME, or a YAML recipe of several sets.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write; a recipe names its own.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
) -> None:
    """Pack a table into WebDataset shards: `pack products.csv image=photo captions=\\[title] --out shards`."""
    from unimodal.config import apply_overrides, parse_config, read_config, recipe_names
    from unimodal.shards.config import PackConfig, PackRecipe
    from unimodal.shards.write import pack as pack_rows
    from unimodal.shards.write import pack_all

    if source.endswith((".yaml", ".yml")) or source in recipe_names():
        where = [_set("out", out)] if out is not None else []
        recipe = read_config(PackRecipe, source, [*(overrides or []), *where])
        for name, summary in pack_all(recipe, overwrite=overwrite).items():
            _say_packed(summary, Path(recipe.out) / name)
        return
    if out is None:
        raise ValueError(f"where the shards of {source} go is not said; add --out FOLDER.")
    config = parse_config(PackConfig, apply_overrides({"input": source}, overrides or []), source="options")
    _say_packed(pack_rows(config, out, overwrite=overwrite), out)


@shards_app.command()
def check(
    shards: Annotated[str, typer.Argument(help="A tar, a folder of tars, a glob, a brace pattern or a URL.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="storage.cache_gib=0, ...")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the report there.")] = None,
) -> None:
    """Read every sample and report counts, sizes, text lengths and what is broken."""
    from rich.console import Console

    from unimodal.config import apply_overrides, parse_config
    from unimodal.shards.check import check as check_shards
    from unimodal.shards.check import render
    from unimodal.shards.config import ReadConfig

    config = parse_config(ReadConfig, apply_overrides({}, overrides or []), source="options")
    report = check_shards(shards, storage=config.storage)
    Console().print(render(report))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    raise typer.Exit(report.exit_status)


@shards_app.command()
def index(
    shards: Annotated[str, typer.Argument(help="A tar, a folder of tars, a glob or a brace pattern, on this machine.")],
) -> None:
    """Write an index with checksums beside each shard: for tars that others packed, and before they are uploaded."""
    from unimodal.progress import progress_bar
    from unimodal.shards.find import find_shards
    from unimodal.shards.index import load_index
    from unimodal.shards.remote import is_elsewhere

    samples, paths = 0, [path for path in find_shards(shards) if isinstance(path, Path) and not is_elsewhere(path)]
    if not paths:
        raise ValueError(f"{shards} names no plain .tar on this machine; index shards before you upload or pack them.")
    with progress_bar("indexing", len(paths)) as advance:
        for number, path in enumerate(paths):
            samples += len(load_index(path, checksums=True))
            advance(number + 1)
    _say(f"{samples:,} samples in {len(paths):,} shards are indexed")


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="loss, step or data.")],
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Of which the median is taken. Default: loss 5, others 3.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of torch; 1 counts CPU seconds, more wall time. Default: loss torch's own, others 1."
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the rows there.")] = None,
) -> None:
    """Time what training does beside the libraries that others train with, on this machine and now."""
    from rich.console import Console

    from unimodal.config import nearest
    from unimodal.training.speed.compare import rows_table, write_json

    if name == "loss":
        from unimodal.training.speed.loss import bench_loss as run_bench
    elif name == "step":
        from unimodal.training.speed.step import bench_step as run_bench
    elif name == "data":
        from unimodal.training.speed.data import bench_data as run_bench
    else:
        raise ValueError(f"there is no bench {name!r}; {nearest(name, ['loss', 'step', 'data'])}")
    chosen = {"rounds": rounds, "threads": threads}
    rows = run_bench(**{key: value for key, value in chosen.items() if value is not None})
    Console().print(rows_table(rows, f"bench {name}"))
    if json_file is not None:
        write_json(rows, json_file)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where everything goes.")] = Path("runs/demo"),
) -> None:
    """Draw a catalogue, train on it, score it on products never seen, and write a page of what is found."""
    from rich.console import Console

    from unimodal.checkpoint import write_card
    from unimodal.config import read_config
    from unimodal.demo.catalogue import build_catalogue, read_products, training_texts
    from unimodal.demo.page import write_page
    from unimodal.demo.results import build_groups, draw_showcase
    from unimodal.embedder import load
    from unimodal.eval.evaluate import evaluate as score
    from unimodal.eval.evaluate import rows_of
    from unimodal.eval.report import results_json, results_table, write_json
    from unimodal.eval.suites import read_suite
    from unimodal.preprocess import train_tokenizer
    from unimodal.shards.config import PackRecipe
    from unimodal.shards.write import pack_all
    from unimodal.training.config import TrainConfig

    started, data = time.perf_counter(), folder / "data"
    catalogue = build_catalogue(data)
    train_tokenizer(training_texts(data), folder / "tokenizer.json", vocab_size=2000)
    pack_all(read_config(PackRecipe, "demo-shards", [_set("data_root", data), _set("out", folder / "shards")]))
    paths = {"run": folder, "data_root": folder / "shards", "eval.data_root": data,
             "model.text.tokenizer": folder / "tokenizer.json"}  # fmt: skip
    config = read_config(TrainConfig, "demo", [_set(key, path) for key, path in paths.items()])
    model = _run_training(config, resume=True)
    embedder = load(model)
    rows = rows_of(score(embedder, read_suite("demo"), data))
    write_json(rows, folder / "scores.json")
    write_card(model, scores=results_json(rows), trained_on="Trained on the demo's self-drawn catalogue.")
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
        title="One space for pictures and words",
        introduction="A small model, trained on this machine on products that draw themselves, searches products whose "
        "combination of kind, colour and pattern it has never seen, asked in wordings it has never read.",
        groups=groups,
        scores=results_json(rows),
        facts={
            "products seen in training": f"{catalogue.num_train:,}",
            "products searched": f"{catalogue.num_test:,}",
            "steps": f"{config.total_steps:,}",
        },
        showcase=draw_showcase(products),
    )
    Console().print(results_table(rows, "products and wordings never seen in training"))
    _say(f"{time.perf_counter() - started:.0f} s in all; the model is in {model}, the page is {folder / 'index.html'}")


def main() -> None:
    """Run the command line; what a user can get wrong is one line on stderr and exit status 1."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # where in the code helps nobody here
    try:
        app()
    except (ValueError, ImportError, FloatingPointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _run_training(config: TrainConfig, *, resume: bool, overwrite: bool = False) -> Path:
    from unimodal.training.loop import Stopped
    from unimodal.training.loop import train as run_training

    try:
        model: Path = run_training(config, evaluate=_evaluator(config), resume=resume, overwrite=overwrite)
    except Stopped as stopped:
        _say(str(stopped))
        raise typer.Exit(128 + stopped.signal) from None  # as a shell says that a signal ended a process
    except KeyboardInterrupt:  # before training looks after signals
        raise typer.Exit(130) from None
    return model


def _evaluator(config: TrainConfig) -> Evaluate | None:
    """Validation during training: scores by "task metric" of the suite that the recipe names."""
    if config.eval is None:
        return None
    from unimodal.config import nearest
    from unimodal.eval.evaluate import evaluate as score
    from unimodal.eval.evaluate import rows_of
    from unimodal.eval.suites import load_tasks, read_suite

    settings, suite = config.eval, read_suite(config.eval.suite)
    for name in settings.tasks:
        if name not in suite.tasks:
            raise ValueError(f"eval.tasks: {name!r} is not in suite {settings.suite!r}; {nearest(name, suite.tasks)}")
    left_out = [f"tasks.{name}=null" for name in suite.tasks if settings.tasks and name not in settings.tasks]
    suite = read_suite(settings.suite, left_out)
    root = Path(settings.data_root or config.data_root)
    load_tasks(suite, root, settings.split)  # what is missing is said now, not at the first validation

    def validate(embedder: Embedder, should_stop: Callable[[], bool]) -> Mapping[str, float]:
        rows = rows_of(score(embedder, suite, root, split=settings.split, should_stop=should_stop))
        return {f"{row.task} {row.metric}": row.value for row in rows if row.value is not None}

    return validate


def _print_plan(config: TrainConfig) -> None:
    """What a run would do, from the recipe alone: no data, no model and no torch is needed."""
    import yaml
    from rich.console import Console
    from rich.table import Table

    tasks = [(stage, name, task) for stage in config.plan for name, task in stage.tasks.items()]
    table = Table("task", *(name for _, name, _ in tasks), show_lines=False)
    rows: dict[str, list[str]] = {
        "stage": [f"{stage.name}, {stage.steps:,} steps, {stage.schedule}" for stage, _, _ in tasks],
        "share": [f"{task.share:g}" for _, _, task in tasks],
        "global_batch": [f"{task.global_batch:,} in {task.num_streams} streams" for _, _, task in tasks],
        "max_length": [f"{task.max_length}" for _, _, task in tasks],
        "loss": [task.loss for _, _, task in tasks],
        "temperature": [("from " if task.learns_temperature else "") + f"{task.start_temperature:g}"
                        for _, _, task in tasks],
        "sources": ["\n".join(f"{source}, weight {at.weight:g}{_what_is_missing(config, at)}"
                              for source, at in task.sources.items()) for _, _, task in tasks],
    }  # fmt: skip
    for key, values in rows.items():
        table.add_row(key, *values)
    print(yaml.safe_dump(config.model_dump(mode="json", exclude_defaults=True), sort_keys=False))
    Console().print(table)


def _what_is_missing(config: TrainConfig, source: SourceConfig) -> str:
    """Of shards on this machine; what lies elsewhere is not asked for."""
    from unimodal.shards.find import below, find_shards
    from unimodal.shards.storage import is_remote

    for path in (below(config.data_root, path) for path in source.paths):
        try:
            if not is_remote(path):
                find_shards(path)
        except ValueError:
            return f" ({path} is not there)"
    return ""


def _short_names(models: list[str]) -> list[str]:
    """The last parts of the paths, as many as it takes to tell them apart; RUN/model is named by its run."""
    parts = [model.rstrip("/").removesuffix("/model").split("/") for model in models]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return models


def _set(key: str, path: Path) -> str:
    """An override whose value stays text whatever it looks like: JSON's strings are YAML's."""
    return f"{key}={json.dumps(str(path))}"


def _say_packed(summary: PackSummary, out: Path) -> None:
    skipped = (
        f"; {summary.skipped:,} rows skipped, the reasons are in {out / 'skipped.jsonl'}" if summary.skipped else ""
    )
    _say(f"{summary.samples:,} samples in {summary.shards} shards, {summary.bytes / 1e6:.1f} MB, in {out}{skipped}")


def _say(message: str) -> None:
    typer.echo(message, err=True)


if __name__ == "__main__":
    main()
