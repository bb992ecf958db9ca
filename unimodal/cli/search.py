"""Commands that put items into a store, and find them again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .console import Device, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from unimodal.embedder import Embedder
    from unimodal.search.index.preview import Preview
    from unimodal.search.query.fusion import RankedHit
    from unimodal.search.query.query import Query
    from unimodal.search.stores.base import VectorStore
    from unimodal.search.stores.schema import Schema

LONGEST = 100  # letters that a hit shows of one field


def index(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Embed with this model, as for eval.")
    ] = "",
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Index a folder of images, a table, hf:NAME or shards.",
        ),
    ] = "",
    store: Annotated[
        str,
        typer.Argument(
            metavar="STORE", help="Fill a folder (lance:///dir), or milvus://host:port."
        ),
    ] = "",
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Set the keys listed below: text=\\[title] image=photo fields=\\[price:float].",
        ),
    ] = None,
    engine: Annotated[
        Literal["process", "ray"],
        typer.Option(
            help="Embed in this process (or all that torchrun started), or on a Ray cluster."
        ),
    ] = "process",
    embeddings: Annotated[
        Path | None,
        typer.Option(
            help="Keep the store's Parquet files in this folder; default: beside it."
        ),
    ] = None,
    device: Device = None,
    dtype: Annotated[
        str, typer.Option(help="Compute in float32, bfloat16 or float16.")
    ] = "float32",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Make the store again; unchanged embeddings are kept.",
        ),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove the store's other inputs.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what would change, without changing it."),
    ] = False,
    list_: Annotated[
        bool,
        typer.Option(
            "--list", help="List the inputs of a store: `index --list STORE`."
        ),
    ] = False,
    forget: Annotated[
        str | None,
        typer.Option(
            metavar="INPUT",
            help="Remove an input from a store: `index --forget INPUT STORE`.",
        ),
    ] = None,
) -> None:
    """Embed the items of INPUT into STORE; unchanged items are skipped.

    If several inputs have an item with the same id, the input that was indexed last wins.
    """
    places = [place for place in (model, source, store, *(overrides or [])) if place]
    if list_ or forget is not None:
        if len(places) != 1 or (list_ and forget is not None):
            raise typer.BadParameter(
                "give --list STORE, or --forget INPUT STORE, and nothing else."
            )
        if list_:
            _list(places[0], embeddings)
        else:
            _forget(places[0], str(forget), embeddings)
        return
    if not store:
        name = "MODEL" if not model else "INPUT" if not source else "STORE"
        raise typer.BadParameter(
            f"{name} is missing: unimodal index MODEL INPUT STORE [KEY=VALUE]..."
        )

    from unimodal.config import apply_overrides, parse_config
    from unimodal.search.index import run as indexing
    from unimodal.search.index.inputs import default_folder
    from unimodal.search.index.items import IndexConfig
    from unimodal.search.index.skipped import SKIPPED

    config = parse_config(
        IndexConfig,
        apply_overrides({"input": source}, overrides or []),
        source="options",
    )
    folder = embeddings or default_folder(store)
    if dry_run:
        if engine == "ray":
            raise typer.BadParameter(
                "--dry-run reads in this process; leave out --engine ray."
            )
        found = indexing.dry_run(
            model,
            config,
            store,
            embeddings=folder,
            device=device,
            dtype=dtype,
            overwrite=overwrite,
            replace=replace,
        )
        _print_preview(found, source, store)
        return
    summary = indexing.index(
        model,
        config,
        store,
        embeddings=folder,
        engine=engine,
        device=device,
        dtype=dtype,
        overwrite=overwrite,
        replace=replace,
    )
    if summary.rank:
        return
    units = summary.embedded + summary.reused
    rows = _counted(summary.skipped, "row")
    reasons = f"reasons in {folder / SKIPPED}, where the first row is 0"
    skipped = f"; {rows} of {source} skipped ({reasons})" if summary.skipped else ""
    if summary.without_image:
        skipped += (
            f"; {_counted(summary.without_image, 'item')} without image, which cannot be "
            f"read ({reasons})"
        )
    shared = ""
    if summary.shared:
        shared = (
            f"; {_counted(summary.shared, 'item')} of {source} stand for those of inputs "
            "indexed before"
        )
    say(
        f"{_counted(summary.stored + summary.kept, 'item')} in {store}: {summary.stored:,} new "
        f"or changed, {summary.kept:,} as they were, {summary.removed:,} taken "
        f"out{skipped}{shared}; {summary.embedded:,} of {_counted(units, 'unit')} embedded, "
        f"{summary.seconds:.1f} s"
    )


def _print_preview(found: Preview, source: str, store: str) -> None:
    typer.echo(
        f"{store} would get {found.new:,} new, {found.changed:,} changed and {found.same:,} same "
        f"items, and lose {found.removed:,}; {found.skipped:,} of {_counted(found.rows, 'row')} "
        f"of {source} skipped"
        + (
            f", {_counted(found.without_image, 'item')} without image"
            if found.without_image
            else ""
        )
        + (f" (the first: {found.first_reason})" if found.first_reason else "")
        + f"; {_counted(found.embedded, 'item')} to embed. Nothing was changed."
    )
    if found.refused:
        raise ValueError(f"`index` would refuse this: {found.refused}")


def _list(store: str, embeddings: Path | None) -> None:
    """Print a line per input, the oldest indexing first."""
    from unimodal.search.index.inputs import list_inputs
    from unimodal.tables.files import written_name

    states, others = list_inputs(store, embeddings=embeddings)
    for state in states:
        one = state.entry
        typer.echo(
            f"{one.indexed or 'before'}  {written_name(one.input)}: {_counted(one.items, 'item')}, "
            f"{state.in_store:,} of them in the store, {_counted(one.skipped, 'row')} skipped"
        )
    for name, files in others.items():
        typer.echo(
            f"not in the store  {written_name(name)}: {_counted(files, 'unit')} of a run "
            "that did not finish"
        )
    if not states and not others:
        typer.echo("no inputs")


def _forget(store: str, name: str, embeddings: Path | None) -> None:
    from unimodal.search.index.inputs import forget

    filled = forget(store, name, embeddings=embeddings)
    say(
        f"{_counted(filled.stored + filled.kept, 'item')} in {store} without {name}: "
        f"{filled.removed:,} taken out, {filled.stored:,} as an input indexed before has them, "
        f"{filled.kept:,} as they were"
    )


def why(
    store: Annotated[
        str,
        typer.Argument(
            help="Look into a folder (lance:///dir), or milvus://host:port."
        ),
    ],
    item: Annotated[
        str, typer.Argument(metavar="ID", help="Explain the item with this id.")
    ],
    embeddings: Annotated[
        Path | None,
        typer.Option(
            help="Keep the store's Parquet files in this folder; default: beside it."
        ),
    ] = None,
) -> None:
    """Explain why an item is in STORE, was skipped, or was removed."""
    from unimodal.search.index.inputs import check_listed, default_folder
    from unimodal.search.index.why import explain

    folder = embeddings or default_folder(store)
    check_listed(store, folder)
    for line in explain(store, folder, item):
        typer.echo(line)


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def search(
    store: Annotated[
        str,
        typer.Argument(help="Search a folder (lance:///dir), or milvus://host:port."),
    ],
    words: Annotated[
        str,
        typer.Argument(metavar="[WORDS]", help="Find items that match these words."),
    ] = "",
    image: Annotated[
        Path | None,
        typer.Option(help="Find items similar to this image; WORDS refine the query."),
    ] = None,
    like: Annotated[
        str,
        typer.Option(
            metavar="ID", help="Find items similar to ID; WORDS refine the query."
        ),
    ] = "",
    weight: Annotated[
        float,
        typer.Option(help="Weigh the image or item against WORDS, from 0 to 1."),
    ] = 0.5,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="WORDS", help="Steer away from these words (repeatable)."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="Filter by fields: price < 50 and category = 'Gear/Bags'."),
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Return this many items.")] = 10,
    min_score: Annotated[
        float | None, typer.Option(help="Require at least this cosine similarity.")
    ] = None,
    group_by: Annotated[
        str,
        typer.Option(
            metavar="FIELD", help="Return only the best item per value of this field."
        ),
    ] = "",
    hybrid: Annotated[
        bool, typer.Option(help="Search the full text for WORDS too.")
    ] = False,
    vectors: Annotated[
        str,
        typer.Option(
            metavar="text,image",
            help="Search these vectors; default: fused, or all there are.",
        ),
    ] = "",
    coarse: Annotated[
        str,
        typer.Option(
            metavar="prefix:DIMS|binary",
            help="Search shorter copies of the vectors first.",
        ),
    ] = "",
    fields: Annotated[
        str,
        typer.Option(metavar="title,price", help="Show these fields; default: all."),
    ] = "",
    model: Annotated[
        str,
        typer.Option(help="Load the store's model from here, if it was moved."),
    ] = "",
    device: Device = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
) -> None:
    """Find items by words, an image, both, or an item: `search STORE "red" --image bag.jpg`."""
    from unimodal.progress import open_console
    from unimodal.search.filters.parser import parse_where
    from unimodal.search.query.query import Query, check_query, inputs_of
    from unimodal.search.query.search import find
    from unimodal.search.stores.open import open_store
    from unimodal.search.stores.schema import check_model

    query = Query(
        text=words,
        image=image,
        like=like,
        weight=weight,
        negatives=without or (),
        k=k,
        min_score=min_score,
        where=None if where is None else parse_where(where),
        group_by=group_by,
        hybrid=hybrid,
        vectors=_listed(vectors),
        coarse=coarse,
    )
    opened = open_store(store)
    schema = opened.schema
    check_query(schema, query, _listed(fields) or None)
    if not opened.count():
        if json_output:
            _print_json([], {"embed": 0.0, "search": 0.0})
        raise ValueError(
            f"the store {store} is empty; run `unimodal index` to put items into it."
        )
    parts = inputs_of(query)
    fingerprint = schema.fingerprint
    started = time.perf_counter()
    asked: Any = []
    if parts:  # an item's own vectors are in the store
        embedder = _model_of(schema, model, device)
        check_model(schema, fingerprint := embedder.fingerprint())
        started = time.perf_counter()
        asked = embedder.encode_query([item for _, item in parts], show_progress=False)
    embedded = time.perf_counter()
    found = find(
        opened, query, asked, fingerprint=fingerprint, fields=_listed(fields) or None
    )
    took = {
        "embed": 1e3 * (embedded - started),
        "search": 1e3 * (time.perf_counter() - embedded),
    }
    if json_output:
        _print_json(found, took)
    elif found:
        _print(found, open_console())
    message = (
        f"{len(found)} of {opened.count():,} items; {took['embed']:.0f} ms to embed, "
        f"{took['search']:.0f} ms to search"
    )
    say(message if found else message + _advice(opened, query))
    opened.close()


def _model_of(schema: Schema, given: str, device: str | None) -> Embedder:
    from unimodal.embedder import load
    from unimodal.progress import progress_bar
    from unimodal.search.query.ranking import is_calibrated

    name = given or schema.about.get("model", "")
    if not name:
        raise ValueError("the store does not record its model; give it with --model.")
    try:
        with progress_bar(f"loading {name}", None):
            return load(
                name,
                device=device,
                dtype=schema.about.get("dtype", "float32"),
                calibrated=is_calibrated(schema),
            )
    except ValueError as error:
        if given:
            raise
        raise ValueError(
            f"the store's model cannot be loaded: {error} Give its new place with --model."
        ) from None


def _advice(store: VectorStore, query: Query) -> str:
    """The options that may have excluded everything."""
    if query.where is not None and not store.count(query.where):
        return "; nothing matches --where"
    bounds = [("--where", query.where), ("--min-score", query.min_score)]
    set_bounds = [option for option, value in bounds if value is not None]
    return f"; loosen {' or '.join(set_bounds)}" if set_bounds else ""


def _print_json(found: Sequence[RankedHit], took: dict[str, float]) -> None:
    import orjson

    hits = [
        {
            "id": hit.id,
            "score": hit.score,
            "cosine": hit.cosine,
            "vector": hit.vector,
            "more": hit.more,
            "fields": hit.fields,
        }
        for hit in found
    ]
    typer.echo(
        orjson.dumps(
            {"hits": hits, "count": len(hits), "took_ms": took},
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
    )


def _print(found: Sequence[RankedHit], console: Console) -> None:
    """Print one line per hit; if one would not fit, the fields go below the title."""
    table = _table(found, "  ", 0)
    widest = console.measure(
        table, options=console.options.update(max_width=10_000)
    ).maximum
    console.print(
        table if widest <= console.width else _table(found, "\n", console.width // 2)
    )


def _table(found: Sequence[RankedHit], between: str, half: int) -> Table:
    """A hit is rank, score, id, title and fields; what is the same for all hits has no column."""
    from rich.table import Table
    from rich.text import Text

    ranked_otherwise = any(hit.cosine != hit.score for hit in found)
    by_several = len({hit.vector for hit in found}) > 1
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "score", *(["cosine"] if ranked_otherwise else [])):
        table.add_column(name, justify="right", no_wrap=True)
    if by_several:
        table.add_column("by", no_wrap=True)
    longest = max(len(_one_line(hit.id)) for hit in found)
    # In one piece, to be copied, where it fits.
    table.add_column("id", overflow="fold", no_wrap=longest <= half)
    table.add_column("", overflow="fold")
    for rank, hit in enumerate(found, start=1):
        score = f"{hit.score:.4f}" if ranked_otherwise else f"{hit.score:.3f}"
        cosine = (
            ["" if hit.cosine is None else f"{hit.cosine:.3f}"]
            if ranked_otherwise
            else []
        )
        by = [hit.vector] if by_several else []
        table.add_row(
            str(rank),
            score,
            *cosine,
            *by,
            Text(_one_line(hit.id)),
            _described(hit, between),
        )
    return table


def _described(hit: RankedHit, between: str) -> Text:
    """An item's first text, then its other fields, dim.

    Numbers carry the names of their fields; texts explain themselves.
    """
    from rich.text import Text

    there = {
        name: value for name, value in hit.fields.items() if value not in (None, "", [])
    }
    title = next((name for name, value in there.items() if isinstance(value, str)), "")
    others = [
        _shown(value) if isinstance(value, (str, list)) else f"{name} {_shown(value)}"
        for name, value in there.items()
        if name != title
    ]
    others += [f"+{hit.more} more"] if hit.more else []
    # As Text: a catalogue's own square brackets are not markup.
    parts = [Text(_shown(there.get(title, ""))), Text(" · ".join(others), style="dim")]
    return Text(between).join(part for part in parts if part)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    if isinstance(value, bool):
        value = str(value).lower()
    text = _one_line(f"{value:.10g}" if isinstance(value, float) else str(value))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _one_line(text: str) -> str:
    """The text without line breaks and control characters."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


def _listed(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())
