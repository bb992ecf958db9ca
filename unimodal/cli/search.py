"""Put items into a store, and find them again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .console import say

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
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As for eval.")] = "",
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="A folder of images, a table, hf:NAME or shards."
        ),
    ] = "",
    store: Annotated[
        str,
        typer.Argument(
            metavar="STORE", help="A folder (lance:///dir), or milvus://host:port."
        ),
    ] = "",
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="text=\\[title,description] image=photo fields=\\[price:float]",
        ),
    ] = None,
    engine: Annotated[
        Literal["process", "ray"],
        typer.Option(
            help="This process (or all that torchrun started), or a Ray cluster."
        ),
    ] = "process",
    embeddings: Annotated[
        Path | None,
        typer.Option(
            help="The folder of this store's Parquet files; default: beside it."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Default: a GPU where there is one.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16.")
    ] = "float32",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Make the store again; embeddings that still hold are kept.",
        ),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Forget the store's other inputs.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what would change, and change nothing."),
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
            help="Take an input out of a store: `index --forget INPUT STORE`.",
        ),
    ] = None,
) -> None:
    """Embed the items of INPUT and put them into STORE; what is there and has not changed is not
    done again.

    Of items with one id in several inputs, the store has that of the input that was indexed last.
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
    """A line per input, the oldest indexing first."""
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
        str, typer.Argument(help="A folder (lance:///dir), or milvus://host:port.")
    ],
    item: Annotated[str, typer.Argument(metavar="ID", help="Of the item.")],
    embeddings: Annotated[
        Path | None,
        typer.Option(
            help="The folder of this store's Parquet files; default: beside it."
        ),
    ] = None,
) -> None:
    """Say what became of an item: in STORE from which input, skipped and why, or taken out and
    when.
    """
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
        str, typer.Argument(help="A folder (lance:///dir), or milvus://host:port.")
    ],
    words: Annotated[
        str, typer.Argument(metavar="[WORDS]", help="What to look for.")
    ] = "",
    image: Annotated[
        Path | None,
        typer.Option(help="An image to look for; with WORDS, both together."),
    ] = None,
    like: Annotated[
        str,
        typer.Option(
            metavar="ID", help="More like this item; with WORDS, but as they say."
        ),
    ] = "",
    weight: Annotated[
        float,
        typer.Option(help="The image's share (0 to 1), or the item's, beside WORDS."),
    ] = 0.5,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORDS", help="What is not wanted; may be given several times."
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="A filter: price < 50 and category = 'Gear/Bags'."),
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="How many.")] = 10,
    min_score: Annotated[float | None, typer.Option(help="The least cosine.")] = None,
    group_by: Annotated[
        str, typer.Option(metavar="FIELD", help="The best item of each of its values.")
    ] = "",
    hybrid: Annotated[
        bool, typer.Option(help="Look for WORDS in the full text too.")
    ] = False,
    vectors: Annotated[
        str,
        typer.Option(
            metavar="text,image",
            help="Which vectors of the items; default: fused, or all there are.",
        ),
    ] = "",
    coarse: Annotated[
        str,
        typer.Option(
            metavar="prefix:DIMS|binary",
            help="A first pass by shorter copies of the vectors.",
        ),
    ] = "",
    fields: Annotated[
        str,
        typer.Option(
            metavar="title,price", help="What to show of an item; default: all."
        ),
    ] = "",
    model: Annotated[
        str,
        typer.Option(help="Where the store's model lies, if no longer where it was."),
    ] = "",
    device: Annotated[
        str | None, typer.Option(help="Default: a GPU where there is one.")
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
) -> None:
    """Find by words, an image, both, or an item: `search STORE "in red" --image bag.jpg --where
    "price < 50"`.
    """
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
    said = (
        f"{len(found)} of {opened.count():,} items; {took['embed']:.0f} ms to embed, "
        f"{took['search']:.0f} ms to search"
    )
    say(said if found else said + _advice(opened, query))
    opened.close()


def _model_of(schema: Schema, given: str, device: str | None) -> Embedder:
    from unimodal.embedder import load
    from unimodal.progress import progress_bar
    from unimodal.search.query.ranking import is_calibrated

    name = given or schema.about.get("model", "")
    if not name:
        raise ValueError(
            "the store does not say which model it was made with; give it with --model."
        )
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
            f"the store's model cannot be loaded: {error} Say where it lies now with --model."
        ) from None


def _advice(store: VectorStore, query: Query) -> str:
    """What kept everything out."""
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
    """A line a hit, or, if one would not fit, the fields on lines of their own below the title."""
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
    table.add_column(
        "id", overflow="fold", no_wrap=longest <= half
    )  # in one piece, to be copied, if it can be
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
    """An item's first text, then its other fields, dim; numbers with their names, since texts
    explain themselves.
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
    # As Text: a catalogue's own square brackets are no markup.
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
    """Without line breaks, and what would steer a terminal."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


def _listed(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())
