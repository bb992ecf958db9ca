"""Commands of the library: embed, calibrate and shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import Device, Overrides, say, set_text

if TYPE_CHECKING:
    from unimodal.shards.write import PackSummary


def embed(
    model: Annotated[
        str,
        typer.Argument(
            help="Embed with a model directory, hub id, open_clip:NAME or hf:NAME."
        ),
    ],
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Embed a folder of images, a .txt of lines, a table, hf:NAME or shards.",
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Write to this folder.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Set the keys listed below: text=\\[title,description] image=photo id=sku.",
        ),
    ] = None,
    text: Annotated[
        str,
        typer.Option(
            help="Take the text of a table from this field or template; or \\[title,description]."
        ),
    ] = "",
    image: Annotated[
        str,
        typer.Option(help="Take the image of a table, or its path, from this field."),
    ] = "",
    device: Device = None,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT if it exists.")] = False,
) -> None:
    """Embed a folder, a list or a table into OUT/vectors.npy and OUT/items.jsonl."""
    from unimodal.embed import embed_source

    texts: str | list[str] = text
    if text.startswith("[") and text.endswith("]"):
        texts = [name.strip() for name in text[1:-1].split(",") if name.strip()]
    embedded = embed_source(
        model,
        source,
        out,
        overrides or [],
        text=texts,
        image=image,
        device=device,
        overwrite=overwrite,
    )
    listed = ""
    if embedded.skipped or embedded.without_image:
        counts = (
            f"rows skipped: {embedded.skipped:,}, without their image: "
            f"{embedded.without_image:,}"
        )
        listed = f"; {counts}; the reasons are in {out / 'skipped.jsonl'}"
    say(f"{embedded.rows:,} vectors of {embedded.dim} dimensions in {out}{listed}")


def calibrate(
    model: Annotated[
        Path, typer.Argument(help="Calibrate a model directory with both towers.")
    ],
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Measure on shards of the training data, or on a table of it.",
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Set the fields of a table: image=photo captions=\\[title].",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=2, metavar="N", help="Use at most N images.")
    ] = 2000,
    device: Device = None,
) -> None:
    """Measure the modality gap of a model, which `load(MODEL, calibrated=True)` then removes."""
    from unimodal.calibrate import calibrate_model

    texts, images = calibrate_model(
        model, source, overrides or [], limit=limit, device=device
    )
    say(f"{model} is calibrated on {texts:,} texts and {images:,} images")


def pack(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="Pack a table, hf:NAME, or the sets of a YAML recipe."
        ),
    ],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Write to this folder; a recipe names its own.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option(help="Replace what is in the folder.")
    ] = False,
) -> None:
    """Pack a table into shards: `pack products.csv image=photo captions=\\[title] --out DIR`."""
    from unimodal.config import apply_overrides, parse_config, read_config, recipe_names
    from unimodal.shards.config import PackConfig, PackRecipe
    from unimodal.shards.write import pack as pack_rows
    from unimodal.shards.write import pack_all

    if source.endswith((".yaml", ".yml")) or source in recipe_names():
        where = [set_text("out", out)] if out is not None else []
        recipe = read_config(PackRecipe, source, [*(overrides or []), *where])
        for name, summary in pack_all(recipe, overwrite=overwrite).items():
            _say_packed(summary, Path(recipe.out) / name)
        return
    if out is None:
        raise ValueError(f"{source} has no folder for its shards; add --out FOLDER.")
    config = parse_config(
        PackConfig,
        apply_overrides({"input": source}, overrides or []),
        source="options",
    )
    _say_packed(pack_rows(config, out, overwrite=overwrite), out)


def check(
    shards: Annotated[
        str,
        typer.Argument(
            help="Check a tar, a folder of tars, a glob, a brace pattern or a URL."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Set keys such as storage.cache_gib=0."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the report to this file.")
    ] = None,
) -> None:
    """Check shards: read every sample, report counts, sizes, text lengths and faults."""
    from unimodal.config import apply_overrides, parse_config
    from unimodal.progress import open_console
    from unimodal.shards.check import check as check_shards
    from unimodal.shards.check import render
    from unimodal.shards.config import ReadConfig

    config = parse_config(
        ReadConfig, apply_overrides({}, overrides or []), source="options"
    )
    report = check_shards(shards, storage=config.storage)
    open_console().print(render(report))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(
            json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8"
        )
    raise typer.Exit(report.exit_status)


def index(
    shards: Annotated[
        str,
        typer.Argument(
            help="Index a local tar, folder of tars, glob or brace pattern."
        ),
    ],
) -> None:
    """Write an index with checksums beside each shard, before it is uploaded."""
    from unimodal.progress import progress_bar
    from unimodal.shards.find import find_shards
    from unimodal.shards.index import load_index
    from unimodal.shards.remote import is_elsewhere

    samples = 0
    paths = [
        path
        for path in find_shards(shards)
        if isinstance(path, Path) and not is_elsewhere(path)
    ]
    if not paths:
        raise ValueError(
            f"{shards} names no plain .tar on this machine; index shards before you "
            "upload or pack them."
        )
    with progress_bar("indexing", len(paths)) as advance:
        for number, path in enumerate(paths):
            samples += len(load_index(path, checksums=True))
            advance(number + 1)
    say(f"{samples:,} samples in {len(paths):,} shards are indexed")


def _say_packed(summary: PackSummary, out: Path) -> None:
    skipped = (
        f"; {summary.skipped:,} rows skipped, the reasons are in {out / 'skipped.jsonl'}"
        if summary.skipped
        else ""
    )
    say(
        f"{summary.samples:,} samples in {summary.shards} shards, "
        f"{summary.bytes / 1e6:.1f} MB, in {out}{skipped}"
    )
