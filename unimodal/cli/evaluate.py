"""Commands that put a number on a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from .console import Device, say
from .outputs import check_outputs

if TYPE_CHECKING:
    from unimodal.calibration import Calibration
    from unimodal.encoder import Encoder
    from unimodal.eval.analysis.contamination import TaskOverlap
    from unimodal.eval.cache_file import Precision
    from unimodal.eval.data.task_data import TaskData
    from unimodal.eval.report.page import ModelReport
    from unimodal.eval.results import TaskResult
    from unimodal.eval.suites import Suite

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL... [KEY=VALUE]...",
        help="Score model directories, hub ids, open_clip:NAME/TAG, hf:NAME or mteb:NAME; "
        "then change values of the suite (tasks.NAME=null leaves one out).",
    ),
]
Data = Annotated[
    Path, typer.Option(help="Look for the suite's files below this folder.")
]
Dtype = Annotated[str, typer.Option(help="Compute in float32, bfloat16 or float16.")]
Dims = Annotated[
    str,
    typer.Option(
        help="Also score vectors truncated to these lengths (Matryoshka): 64,256."
    ),
]
Json = Annotated[
    Path | None, typer.Option("--json", help="Also write the rows to this file.")
]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="Keep vectors in this folder and reuse them in later runs, also after a kill.",
    ),
]
CacheDtype = Annotated[
    str,
    typer.Option(
        help="Keep vectors as float32, or as float16 in half the space.",
    ),
]

FormerCache = Annotated[
    Path | None,
    typer.Option("--store", hidden=True, help="Use --cache, its name now."),
]
FormerCacheDtype = Annotated[
    str | None,
    typer.Option("--store-dtype", hidden=True, help="Use --cache-dtype, its name now."),
]


def evaluate(
    models: Models,
    suite: Annotated[
        str,
        typer.Option(
            help="Score on a shipped suite (mini, demo, quick, jina, full, shop) or a YAML file."
        ),
    ] = "mini",
    data: Data = Path("."),
    split: Annotated[
        str, typer.Option(help="Score this split: val to choose, test to report.")
    ] = "test",
    dims: Dims = "",
    json_file: Json = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Also write a report to this file, one self-contained page."),
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
            help="Print what would be encoded, what is missing and how to get it."
        ),
    ] = False,
) -> None:
    """Score models on a suite, beside chance and BM25, with confidence intervals and tests."""
    from unimodal.eval.analysis.analyse import analyse
    from unimodal.eval.analysis.contamination import contamination
    from unimodal.eval.cache import EmbeddingCache
    from unimodal.eval.evaluate import evaluate as score
    from unimodal.eval.plan import make_plan, plan_table, summarize
    from unimodal.eval.suites import load_tasks, read_suite
    from unimodal.progress import open_console

    overrides = [word for word in models if "=" in word]
    names = [word for word in models if "=" not in word]
    _check_names(names)
    check_outputs({"--json": json_file, "--html": html})
    lengths = _parse_dims(dims)
    if lengths:
        overrides.append(f"analysis.dims={lengths}")
    tasks = read_suite(suite, overrides)
    _check_data(tasks, suite, data, split)
    _find_models(names)

    reports: dict[str, ModelReport] = {}
    overlaps: Sequence[TaskOverlap] = ()
    for name, source in zip(_short_names(names), names, strict=True):
        encoder = _load(source, device, dtype)
        _check_dims(lengths, encoder, name)
        embeddings = EmbeddingCache(
            encoder,
            cache or _former_cache(store),
            dtype=cast("Precision", store_dtype or cache_dtype),
            show_progress=None,
        )
        has_images = "image" in encoder.modalities
        loaded = load_tasks(tasks, data, split, with_images=has_images)
        work = make_plan(embeddings, loaded)
        if dry_run:
            open_console().print(plan_table(work, name))
            continue

        _report_tasks_without_score(name, encoder, loaded)
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
    if not dry_run:
        _write_reports(reports, suite, split, json_file, html, overlaps)


def _check_names(names: Sequence[str]) -> None:
    """Raise ValueError where no model is given, or one is given twice."""
    if not names:
        raise ValueError(
            "no model to score; give a model directory, a hub id, open_clip:NAME/TAG or hf:NAME."
        )
    known: set[str] = set()
    for name in names:
        plain = name.rstrip("/")
        if plain in known:
            raise ValueError(f"{plain} is given twice; name each model once.")
        known.add(plain)


def _check_data(tasks: Suite, suite: str, data: Path, split: str) -> None:
    """Raise ValueError where data is missing, once the commands that get it are printed."""
    from unimodal.eval.plan import missing_table
    from unimodal.eval.suites import commands_for, missing_of
    from unimodal.progress import open_console

    missing = missing_of(tasks, data, split)
    if not missing:
        return
    open_console().print(missing_table(missing, data))
    commands = commands_for(missing, data)
    if commands:  # not in the table, which would wrap them
        print("\n".join(["get it with:", *commands]))
    raise ValueError(
        f"{len(missing)} tasks of suite {suite} lack data in {data}; get it, or set "
        "tasks.NAME=null."
    )


def _report_tasks_without_score(
    name: str, encoder: Encoder, loaded: Mapping[str, TaskData]
) -> None:
    """Name the tasks that need a half of the model which it does not have."""
    left_out = [
        task for task, data in loaded.items() if not data.inputs_for(encoder.modalities)
    ]
    if left_out:
        lacks = " or ".join({"text", "image"} - encoder.modalities)
        say(
            f"{name} does not embed {lacks}, so {len(left_out)} tasks have no score: "
            f"{', '.join(left_out)}"
        )


def _write_reports(
    reports: Mapping[str, ModelReport],
    suite: str,
    split: str,
    json_file: Path | None,
    html: Path | None,
    overlaps: Sequence[TaskOverlap],
) -> None:
    """Print the table of scores, and write the files that are asked for."""
    from unimodal.eval.report.layout import halves_of
    from unimodal.eval.report.page import write_report
    from unimodal.eval.report.terminal import results_table, write_json
    from unimodal.eval.results import compare
    from unimodal.progress import open_console

    first, *others = reports
    comparisons = {
        name: compare(reports[first].results, reports[name].results) for name in others
    }
    rows = {name: report.all_rows for name, report in reports.items()}
    halves: dict[str, str] = {}
    for report in reports.values():
        halves |= halves_of(report.results)
    table = results_table(
        rows if others else rows[first],
        f"{suite}, {split}",
        halves=halves,
        comparisons=comparisons,
    )
    open_console().print(table)
    if json_file is not None:
        facts = {
            name: {**report.facts, "suite": suite, "split": split}
            for name, report in reports.items()
        }
        write_json(rows, json_file, facts)
    if html is not None:
        write_report(
            html,
            reports,
            title=f"{', '.join(reports)} on {suite}",
            introduction=f"Suite {suite}, split {split}, {date.today().isoformat()}.",
            overlaps=overlaps,
            comparisons=comparisons,
        )
        say(f"the report is in {html}")


def prepare(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...", help="Fetch data sets, or groups such as beir."
        ),
    ],
    data: Annotated[
        Path, typer.Option(help="Put each into NAME/ of this folder.")
    ] = Path("data"),
    overwrite: Annotated[
        bool, typer.Option(help="Replace what another version has prepared.")
    ] = False,
) -> None:
    """Fetch data sets from their public origins, into the layout that the suites read."""
    from unimodal.eval.prepare.prepare import prepare as fetch

    for name in names:
        for folder in fetch(name, data, overwrite=overwrite):
            say(f"{folder} is there")


def mteb(
    model: Annotated[
        str,
        typer.Argument(
            help="Score a model directory, hub id, open_clip:NAME/TAG or hf:NAME."
        ),
    ],
    tasks: Annotated[
        list[str],
        typer.Argument(
            metavar="TASK...", help="Score on mteb's tasks, or benchmark:NAME."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Write mteb's results to this folder.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Read data sets, laid out as on the hub, from this folder; default: mteb's cache."
        ),
    ] = None,
    dims: Dims = "",
    cache: Cache = None,
    store: FormerCache = None,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Score a model with mteb, which writes its official result files."""
    from unimodal.embedder import load
    from unimodal.eval.cache import EmbeddingCache
    from unimodal.eval.report.terminal import results_table
    from unimodal.eval.with_mteb.run import mteb_name, run_mteb
    from unimodal.progress import open_console

    lengths = _parse_dims(dims)
    embedder = load(model, device=device, dtype=dtype)
    embeddings = EmbeddingCache(
        embedder, cache or _former_cache(store), show_progress=None
    )
    rows = run_mteb(
        embedder,
        tasks,
        out,
        name=mteb_name(model),
        dims=lengths,
        data=data,
        cache=embeddings,
        show_progress=None,
    )
    open_console().print(results_table(rows, "mteb"))


def _former_cache(folder: Path | None) -> Path | None:
    """Return the folder that was given as --store, and name the new option."""
    if folder is not None:
        say(f"--store {folder} is now --cache {folder}")
    return folder


def _parse_dims(text: str) -> list[int]:
    """Parse "64,256" as [64, 256]."""
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
    """Refuse a missing model before another is scored for hours; one of the hub is fetched."""
    from unimodal.hub import local_folder

    if len(names) < 2:
        return
    for name in names:
        if ":" not in name:
            local_folder(name, name)


def _check_dims(dims: Sequence[int], encoder: Encoder, name: str) -> None:
    """Refuse more dimensions than the model has, where that is known before it encodes."""
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
    """Load a model of ours, or by mteb:NAME one of mteb's.

    Implementations of mteb may run code of the model's repository.
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
        raise ValueError(
            f"{str(error).rstrip('.')}; mteb:{source} is mteb's, whose implementation may run "
            "code of the model's repository."
        ) from None


def _calibration(source: str, encoder: Encoder) -> Calibration | None:
    from unimodal.calibration import CALIBRATION_FILE, load_calibration
    from unimodal.embedder import Embedder

    if isinstance(encoder, Embedder) and (Path(source) / CALIBRATION_FILE).is_file():
        return load_calibration(Path(source), encoder.config.embed_dim)
    return None


def _facts(encoder: Encoder, results: Sequence[TaskResult]) -> dict[str, str]:
    from unimodal.embedder import Embedder
    from unimodal.formats.card import count_parameters

    with_vectors = (result.queries for result in results if result.queries is not None)
    first = next(with_vectors, None)
    dims = "" if first is None else str(first.shape[1])
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
    """The last parts of the paths, as many as make them differ; RUN/model is named by its run."""
    parts = [model.rstrip("/").removesuffix("/model").split("/") for model in models]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return models
