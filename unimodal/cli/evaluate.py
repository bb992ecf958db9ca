"""Commands that put a number on a model."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import say
from .outputs import check_outputs

if TYPE_CHECKING:
    from unimodal.calibration import Calibration
    from unimodal.encoder import Encoder
    from unimodal.eval.analysis.contamination import TaskOverlap
    from unimodal.eval.report.page import ModelReport
    from unimodal.eval.results import TaskResult

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL... [KEY=VALUE]...",
        help="Model directories, hub ids, open_clip:NAME/TAG, hf:NAME or mteb:NAME; then "
        "values laid over the suite (tasks.NAME=null leaves one out).",
    ),
]
Data = Annotated[
    Path, typer.Option(help="The folder that the suite's files are relative to.")
]
Device = Annotated[str | None, typer.Option(help="Default: a GPU where there is one.")]
Dtype = Annotated[str, typer.Option(help="Of the towers: float32, bfloat16, float16.")]
Cache = Annotated[
    Path | None,
    typer.Option(help="Keep vectors in this folder, so that nothing is encoded again."),
]
CacheDtype = Annotated[
    str, typer.Option(help="Keep vectors as float32, or as float16 in half the space.")
]
FormerCache = Annotated[
    Path | None,
    typer.Option("--store", hidden=True, help="The former name of --cache."),
]
FormerCacheDtype = Annotated[
    str | None,
    typer.Option(
        "--store-dtype", hidden=True, help="The former name of --cache-dtype."
    ),
]


def evaluate(
    models: Models,
    suite: Annotated[
        str,
        typer.Option(
            help="A shipped suite (mini, demo, quick, jina, full, shop) or a YAML file."
        ),
    ] = "mini",
    data: Data = Path("."),
    split: Annotated[str, typer.Option(help="val to choose, test to report.")] = "test",
    dims: Annotated[
        str, typer.Option(help="Also score the first so many dimensions: 64,256.")
    ] = "",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the rows there.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Also write a report, one self-contained page.")
    ] = None,
    cache: Cache = None,
    cache_dtype: CacheDtype = "float32",
    store: FormerCache = None,
    store_dtype: FormerCacheDtype = None,
    device: Device = None,
    dtype: Dtype = "float32",
    dry_run: Annotated[
        bool,
        typer.Option(
            help="Say what would be encoded, what is missing and how it is got."
        ),
    ] = False,
) -> None:
    """Score models on a suite: one table, chance and BM25 beside every number, intervals, a test
    between models.
    """
    from unimodal.eval.analysis.analyse import analyse
    from unimodal.eval.analysis.contamination import contamination
    from unimodal.eval.cache import EmbeddingCache
    from unimodal.eval.evaluate import evaluate as score
    from unimodal.eval.plan import make_plan, missing_table, plan_table, summarize
    from unimodal.eval.report.layout import halves_of
    from unimodal.eval.report.page import write_report
    from unimodal.eval.report.terminal import results_table, write_json
    from unimodal.eval.results import compare
    from unimodal.eval.suites import commands_for, load_tasks, missing_of, read_suite
    from unimodal.progress import open_console

    overrides = [word for word in models if "=" in word]
    names = [word for word in models if "=" not in word]
    same = [name.rstrip("/") for name in names]
    if len(set(same)) < len(same):
        raise ValueError(
            f"{next(one for one in same if same.count(one) > 1)} is given twice; name "
            "each model once."
        )
    if not names:
        raise ValueError(
            "no model to score; give a model directory, a hub id, open_clip:NAME/TAG or hf:NAME."
        )
    outputs = {"--json": json_file, "--html": html}
    check_outputs(
        {option: file for option, file in outputs.items() if file is not None}
    )
    asked_dims = _parse_dims(dims)
    tasks = read_suite(
        suite, [*overrides, *([f"analysis.dims={asked_dims}"] if asked_dims else [])]
    )
    if missing := missing_of(tasks, data, split):
        open_console().print(missing_table(missing, data))
        if commands := commands_for(missing, data):
            print(
                "\n".join(["get it with:", *commands])
            )  # not in the table, which would wrap them
        raise ValueError(
            f"{len(missing)} tasks of suite {suite} lack data in {data}; get it, or set "
            "tasks.NAME=null."
        )
    _find_models(names)
    reports: dict[str, ModelReport] = {}
    overlaps: Sequence[TaskOverlap] = ()
    for name, source in zip(_short_names(names), names, strict=True):
        encoder = _load(source, device, dtype)
        _check_dims(asked_dims, encoder, name)
        embeddings = EmbeddingCache(
            encoder,
            cache or _former_cache(store),
            dtype=store_dtype or cache_dtype,
            show_progress=None,
        )
        loaded = load_tasks(
            tasks, data, split, with_images="image" in encoder.modalities
        )
        work = make_plan(embeddings, loaded)
        if dry_run:
            open_console().print(plan_table(work, name))
            continue
        left_out = [
            task
            for task, data_of_it in loaded.items()
            if not data_of_it.inputs_for(embeddings.modalities)
        ]
        if left_out:
            lacks = " or ".join({"text", "image"} - encoder.modalities)
            say(
                f"{name} embeds no {lacks}, so {len(left_out)} tasks have no score: "
                f"{', '.join(left_out)}"
            )
        say(f"{name}: {summarize(work)}")
        results = score(
            encoder,
            tasks,
            data,
            split=split,
            tasks=loaded,
            cache=embeddings,
            show_progress=None,
        )
        if tasks.analysis.contamination and not overlaps:
            overlaps = contamination(results, tasks.analysis.contamination)
        reports[name] = analyse(
            results,
            tasks,
            embeddings,
            facts=_facts(encoder, results),
            calibration=_calibration(source, encoder),
            overlaps=overlaps,
            show_progress=None,
        )
    if dry_run:
        return
    first, *others = reports
    comparisons = {
        name: compare(reports[first].results, reports[name].results) for name in others
    }
    rows = {name: report.all_rows for name, report in reports.items()}
    halves = {
        task: half
        for report in reports.values()
        for task, half in halves_of(report.results).items()
    }
    shown = rows if others else rows[first]
    open_console().print(
        results_table(
            shown, f"{suite}, {split}", halves=halves, comparisons=comparisons
        )
    )
    facts = {
        name: {**report.facts, "suite": suite, "split": split}
        for name, report in reports.items()
    }
    if json_file is not None:
        write_json(rows, json_file, facts)
    if html is not None:
        title = f"{', '.join(reports)} on {suite}"
        said = f"Suite {suite}, split {split}, {date.today().isoformat()}."
        write_report(
            html,
            reports,
            title=title,
            introduction=said,
            overlaps=overlaps,
            comparisons=comparisons,
        )
        say(f"the report is {html}")


def prepare(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="A data set, or a group such as beir."),
    ],
    data: Annotated[
        Path, typer.Option(help="The folder that they are laid out in, NAME/ each.")
    ] = Path("data"),
    overwrite: Annotated[
        bool, typer.Option(help="Replace what another version has prepared.")
    ] = False,
) -> None:
    """Fetch data sets from their public origins and lay them out where the suites look for them."""
    from unimodal.eval.prepare.prepare import prepare as fetch

    for name in names:
        for folder in fetch(name, data, overwrite=overwrite):
            say(f"{folder} is there")


def mteb(
    model: Annotated[
        str,
        typer.Argument(
            help="A model directory, hub id, open_clip:NAME/TAG or hf:NAME."
        ),
    ],
    tasks: Annotated[
        list[str],
        typer.Argument(metavar="TASK...", help="mteb's tasks, or benchmark:NAME."),
    ],
    out: Annotated[Path, typer.Option(help="mteb's results go there.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Data sets laid out as on the hub; default: mteb's cache."),
    ] = None,
    dims: Annotated[
        str, typer.Option(help="Also score the first so many dimensions: 64,256.")
    ] = "",
    cache: Cache = None,
    store: FormerCache = None,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Let mteb score a model of ours: its official result files, under a revision that is the
    model's fingerprint.
    """
    from unimodal.embedder import load
    from unimodal.eval.cache import EmbeddingCache
    from unimodal.eval.report.terminal import results_table
    from unimodal.eval.with_mteb.run import mteb_name, run_mteb
    from unimodal.progress import open_console

    cut = _parse_dims(dims)
    embedder = load(model, device=device, dtype=dtype)
    embeddings = EmbeddingCache(
        embedder, cache or _former_cache(store), show_progress=None
    )
    rows = run_mteb(
        embedder,
        tasks,
        out,
        name=mteb_name(model),
        dims=cut,
        data=data,
        cache=embeddings,
        show_progress=None,
    )
    open_console().print(results_table(rows, "mteb"))


def _former_cache(folder: Path | None) -> Path | None:
    """The folder that was given as --store, with a word on the new name."""
    if folder is not None:
        say(f"--store {folder} is now --cache {folder}")
    return folder


def _parse_dims(text: str) -> list[int]:
    """[64, 256] of "64,256"."""
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    for word in words:
        if not word.isdecimal() or int(word) == 0:
            raise ValueError(
                f"--dims {text!r} holds {word!r}; give whole numbers above 0 with commas "
                "between: 64,256."
            )
        if words.count(word) > 1:
            raise ValueError(
                f"--dims {text!r} names {word} twice; name each number of dimensions once."
            )
    return [int(word) for word in words]


def _find_models(names: Sequence[str]) -> None:
    """Refuse a model that is not there before another one is scored for hours; one of the hub is
    fetched.
    """
    from unimodal.hub import local_folder

    for name in names if len(names) > 1 else ():
        if ":" not in name:
            local_folder(name, name)


def _check_dims(dims: Sequence[int], encoder: Encoder, name: str) -> None:
    """Refuse more dimensions than the model has, where that is known before it has encoded
    anything.
    """
    from unimodal.embedder import Embedder

    if not isinstance(encoder, Embedder):
        return
    width = encoder.truncate_dim or encoder.config.embed_dim
    longer = [dim for dim in dims if dim > width]
    if longer:
        raise ValueError(
            f"--dims {longer[0]} is more than the {width} dimensions of {name}; leave it out."
        )


def _load(source: str, device: str | None, dtype: str) -> Encoder:
    """A model of ours, or by mteb:NAME one of mteb's, whose implementation may run code of the
    model's repository.
    """
    from importlib.util import find_spec

    from unimodal.embedder import load

    kind, colon, name = source.partition(":")
    if colon and kind == "mteb":
        if dtype != "float32":
            raise ValueError(
                f"--dtype {dtype} is for models of ours; leave it out for {source}, "
                "whose precision is mteb's."
            )
        from unimodal.eval.with_mteb.models import load_mteb_model

        encoder: Encoder = load_mteb_model(name, device=device)
        return encoder
    try:
        return load(source, device=device, dtype=dtype)
    except ValueError as error:
        if colon or Path(source).exists() or find_spec("mteb") is None:
            raise
        from unimodal.eval.with_mteb.models import is_mteb_model

        if not is_mteb_model(source):
            raise
        asked = (
            f"mteb:{source} is mteb's, whose implementation may run code of the model's "
            "repository"
        )
        raise ValueError(f"{str(error).rstrip('.')}; {asked}.") from None


def _calibration(source: str, encoder: Encoder) -> Calibration | None:
    from unimodal.calibration import CALIBRATION_FILE, load_calibration
    from unimodal.embedder import Embedder

    if isinstance(encoder, Embedder) and (Path(source) / CALIBRATION_FILE).is_file():
        return load_calibration(Path(source), encoder.config.embed_dim)
    return None


def _facts(encoder: Encoder, results: Sequence[TaskResult]) -> dict[str, str]:
    from unimodal.embedder import Embedder
    from unimodal.formats.card import count_parameters

    dims = next(
        (str(one.queries.shape[1]) for one in results if one.queries is not None), ""
    )
    size = (
        f"{count_parameters(encoder.models[0]) / 1e6:.1f} M"
        if isinstance(encoder, Embedder)
        else ""
    )
    facts = {
        "dimensions": dims,
        "parameters": size,
        "fingerprint": encoder.fingerprint(),
    }
    return {key: value for key, value in facts.items() if value}


def _short_names(models: list[str]) -> list[str]:
    """The last parts of the paths, as many as it takes to tell them apart; RUN/model is named by
    its run.
    """
    parts = [model.rstrip("/").removesuffix("/model").split("/") for model in models]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return models
