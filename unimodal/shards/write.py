"""From rows of a table to shards: WebDataset tars, each with its index beside it.

An image-caption sample is KEY.jpg|png|webp and KEY.json {"captions": [...]}; a text pair is
KEY.json {"query": ..., "document": ..., "negatives": [...], "score": ...}.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unimodal.config import parse_config
from unimodal.tables.fields import (
    Row,
    UnreadableImageError,
    has_field,
    image_folder,
    missing_field,
)
from unimodal.tables.readers import num_rows, read_numbered_rows
from unimodal.tables.skipped import describe_limit, is_over_limit, json_lines

from ..files import replacing_folder
from ..progress import progress_bar
from .config import PackConfig, PackRecipe
from .convert import (
    Siblings,
    fields_of,
    image_sample,
    key_of,
    pair_sample,
    paraphrase_samples,
)
from .index import load_index
from .read import ShardSet
from .sample import Sample

RECORD = "pack.json"  # the configuration and the summary; where it is, the folder is complete
SKIPPED = "skipped.jsonl"


@dataclass(frozen=True)
class PackSummary:
    """What packing one set did; skipped.jsonl lists the rows that were skipped, and why."""

    samples: int
    shards: int
    skipped: int
    bytes: int


def pack_all(
    recipe: PackRecipe, overwrite: bool = False, show_progress: bool | None = None
) -> dict[str, PackSummary]:
    """Pack every set of a recipe; a complete set of the same configuration is left as it is."""
    summaries: dict[str, PackSummary] = {}
    for name, config in recipe.sets.items():
        out = Path(recipe.out) / name
        packed = None if overwrite else _packed_before(config, out)
        summaries[name] = packed or pack(
            config, out, Path(recipe.data_root), overwrite, show_progress
        )
    return summaries


def pack(
    config: PackConfig,
    out: Path,
    root: Path = Path(),
    overwrite: bool = False,
    show_progress: bool | None = None,
) -> PackSummary:
    """Write OUT/000000.tar, 000001.tar, ... with an index beside each, and OUT/pack.json.

    Rows without text, with an unreadable image, or of a line that is not a row are skipped, counted
    and listed in OUT/skipped.jsonl. All is written into a hidden folder beside OUT, which takes its
    place at the end: OUT is whole or missing.

    overwrite: replace what was packed before, and nothing else.

    Raises ValueError if OUT holds something, if a field is in no row, if two rows share a key, or
    if nothing is left.
    """
    _refuse_to_destroy(out, overwrite)
    skipped: list[dict[str, Any]] = []
    with _replacing(out) as folder:
        samples = _samples(config, root, skipped, show_progress)
        if config.shuffle:
            samples = _shuffled(
                samples, folder / "unshuffled", config.seed, show_progress
            )
        num_samples = _write_tars(samples, folder, config.samples_per_shard)
        if not num_samples:
            reason = skipped[0]["reason"]
            raise ValueError(
                f"all {len(skipped):,} rows of {config.input} had to be skipped; the "
                f"first: {reason}."
            )
        shards = sorted(folder.glob("*.tar"))
        for shard in shards:
            load_index(shard, checksums=True)
        summary = PackSummary(
            num_samples,
            len(shards),
            len(skipped),
            sum(shard.stat().st_size for shard in shards),
        )
        _write_records(folder, config, summary, skipped)
    return summary


def _refuse_to_destroy(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / RECORD).is_file():
        raise ValueError(
            f"{out} holds something that was not packed here (no {RECORD}); pack into "
            "another folder."
        )
    if not overwrite:
        raise ValueError(
            f"{out} is packed already; pass --overwrite or pack into another folder."
        )


def _samples(
    config: PackConfig,
    root: Path,
    skipped: list[dict[str, Any]],
    show_progress: bool | None,
) -> Iterator[Sample]:
    """Every sample in the order of the rows; rows that cannot be packed go to `skipped`."""
    siblings = Siblings(config, root)
    image_root = image_folder(config.input, config.image_root, root)
    unseen = set(fields_of(config))
    row_of_key: dict[str, int] = {}
    row: Row = {}
    num_read = 0
    bad_lines: list[int] = []
    unreadable: list[str] = []

    def skip(number: int, reason: str) -> None:
        bad_lines.append(number)
        skipped.append({"row": number, "key": f"{number:09d}", "reason": reason})
        unreadable.append(f"row {number}: {reason}")

    with progress_bar(
        f"reading {config.input}", num_rows(config, root), show_progress
    ) as advance:
        for number, row in read_numbered_rows(config, root, skip):
            advance(number + 1)
            num_read += 1
            unseen -= {field for field in unseen if has_field(row, field)}
            key = f"{number:09d}"
            try:
                key = key_of(row, config.key) if config.key else key
                samples = _samples_of_row(row, config, key, siblings, image_root)
            except ValueError as reason:
                skipped.append({"row": number, "key": key, "reason": str(reason)})
                if isinstance(reason, UnreadableImageError):
                    unreadable.append(f"row {number}: {reason}")
                continue
            if config.key and row_of_key.setdefault(key, number) != number:
                raise ValueError(
                    f"rows {row_of_key[key]} and {number} of {config.input} have the same key, "
                    f"{key!r}; choose a key that tells rows apart, or none."
                )
            yield from samples
    for field in sorted(unseen) if num_read else ():
        raise missing_field(row, field, f"any row of {config.input}")
    num_read += len(bad_lines)
    if is_over_limit(len(unreadable), num_read, config.max_skipped):
        raise ValueError(
            f"{len(unreadable):,} of {num_read:,} rows of {config.input} cannot be read, or "
            f"their image cannot (the first, {unreadable[0]}), "
            f"{describe_limit(config.max_skipped)}; repair them, or raise max_skipped."
        )


def _samples_of_row(
    row: Row, config: PackConfig, key: str, siblings: Siblings, image_root: Path
) -> list[Sample]:
    if config.image:
        return [Sample(key, image_sample(row, config, image_root))]
    if config.query:
        return [Sample(key, pair_sample(row, config, siblings, key))]
    return [
        Sample(f"{key}-{pair}", parts)
        for pair, parts in enumerate(paraphrase_samples(row, config))
    ]


def _shuffled(
    samples: Iterable[Sample], folder: Path, seed: int, show_progress: bool | None
) -> Iterator[Sample]:
    """The samples in an order that depends only on their number and the seed.

    They go through a tar on disk: a table with its images inside need not fit into memory.
    """
    folder.mkdir()
    _write_tars(samples, folder, 1 << 62)
    staged = ShardSet(sorted(folder.glob("*.tar")))
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(staged))
    starts = np.cumsum([0, *staged.num_samples])
    with progress_bar("writing shards", len(order), show_progress) as advance:
        for done, position in enumerate(order):
            shard = int(np.searchsorted(starts, position, side="right")) - 1
            yield staged.read(shard, int(position - starts[shard]))
            advance(done + 1)
    shutil.rmtree(folder)


def _write_tars(samples: Iterable[Sample], folder: Path, samples_per_shard: int) -> int:
    try:
        from webdataset import ShardWriter
    except ImportError:
        raise ImportError(
            'packing shards needs webdataset: pip install "unimodal[train]"'
        ) from None
    pattern = str(folder.resolve()).replace("%", "%%") + "/%06d.tar"
    count = 0
    # mtime 0: the same rows and configuration give the same bytes.
    with ShardWriter(
        pattern, maxcount=samples_per_shard, verbose=0, encoder=False, mtime=0
    ) as writer:
        for sample in samples:
            writer.write({"__key__": sample.key, **sample.parts})
            count += 1
    return count


def _write_records(
    folder: Path,
    config: PackConfig,
    summary: PackSummary,
    skipped: list[dict[str, Any]],
) -> None:
    if skipped:
        (folder / SKIPPED).write_text(json_lines(skipped), encoding="utf-8")
    record = {"config": config.model_dump(mode="json"), "summary": asdict(summary)}
    # A file's name is bytes, which may not be Unicode.
    is_unicode = not any("\ud800" <= letter <= "\udfff" for letter in config.input)
    (folder / RECORD).write_text(
        json.dumps(record, ensure_ascii=not is_unicode, indent=2) + "\n",
        encoding="utf-8",
    )


def _packed_before(config: PackConfig, out: Path) -> PackSummary | None:
    if not (out / RECORD).is_file():
        return None
    record = json.loads((out / RECORD).read_text(encoding="utf-8"))
    before = parse_config(PackConfig, record["config"], source=str(out / RECORD))
    if before != config:
        keys = ", ".join(
            key
            for key in PackConfig.model_fields
            if getattr(before, key) != getattr(config, key)
        )
        raise ValueError(
            f"{out} was packed with another {keys}; pass --overwrite or pack into another folder."
        )
    return PackSummary(**record["summary"])


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """As `replacing_folder`; also removes what a killed run of an earlier version left."""
    shutil.rmtree(out.with_name(f".{out.name}.partial"), ignore_errors=True)
    with replacing_folder(out, hidden=True) as part:
        yield part
