"""A folder of embeddings -> a store of the same items, without any model.

A folder fills one store, and a store is filled from one folder: both carry the same id, and the
folder has a record of which of its files are in the store. Of items with one id in several inputs,
the store has that of the input that was indexed last; of items with one id in one input, the first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import xxhash
from numpy.typing import NDArray

from unimodal.files import replace_text
from unimodal.progress import progress_bar
from unimodal.tables.readers import pyarrow_parquet

from ..filters.tree import In
from ..stores.base import VectorStore
from ..stores.columns import vectors_of
from ..stores.open import create_store, open_store, store_exists
from ..stores.schema import (
    MADE,
    Schema,
    schema_from_json,
    schema_to_json,
    vector_column,
)
from .folder import IndexedInput, find_file, publish, read_head, read_inputs
from .removed import RemovedItem, note_removed

SCHEMA = "_index.json"  # of the store that the folder fills
_SCHEMA_BEFORE = "index.json"  # of an earlier version
RECORD = ".filled.json"  # a file that is in the store -> its state then
AT_A_TIME = 10_000  # items of an upsert or a deletion

Hashes = NDArray[np.uint64]  # of a file's ids


class Filled(NamedTuple):
    """What filling did to a store."""

    stored: int  # items that are new or changed
    kept: int  # items that are as they were
    removed: int
    # The ids of each file that the store has from another file.
    left_out: dict[Path, frozenset[str]]


def make_store(
    store_url: str, folder: Path, schema: Schema, *, overwrite: bool = False
) -> None:
    """Make an empty store, which the folder fills from now on."""
    schema = replace(schema, about={**schema.about, MADE: uuid4().hex})
    create_store(store_url, schema, overwrite=overwrite).close()
    (folder / RECORD).unlink(missing_ok=True)
    replace_text(folder / SCHEMA, schema_to_json(schema))
    (folder / _SCHEMA_BEFORE).unlink(missing_ok=True)


def check_folder(store_url: str, schema: Schema, folder: Path) -> None:
    """Raises ValueError where a folder does not fill the store of this schema."""
    there = _schema_of(folder)
    if there is None or there.about.get(MADE) != schema.about.get(MADE):
        raise ValueError(
            f"{store_url} is not the store that {folder} fills, and each folder of embeddings "
            "fills one; give the store's own folder with --embeddings, or make the store again "
            "from this one with --overwrite."
        )


def fill(store_url: str, folder: Path, *, show_progress: bool | None = None) -> Filled:
    """Bring a store to the state of a folder of embeddings.

    Files that are in the store are skipped, so that a kill costs one file; so are unchanged items
    of other files. Items of files that are not listed any more, and of no other file, are taken
    out. A store that does not exist is made.
    """
    if not store_exists(store_url):
        schema_there = _schema_of(folder)
        if schema_there is None:
            raise ValueError(
                f"{folder} has not filled a store; run `unimodal index` first."
            )
        make_store(store_url, folder, schema_there)
    store = open_store(store_url)
    try:
        check_folder(store_url, store.schema, folder)
        return _fill(store, folder, show_progress)
    finally:
        store.close()


def _fill(store: VectorStore, folder: Path, show_progress: bool | None) -> Filled:
    inputs = read_inputs(folder)
    publish(folder, inputs)
    files = files_by_rank(folder, inputs)
    hashes = [hash_ids(file) for file in files]
    left_out = find_repeated(files, hashes)
    states: dict[str, str] = {}
    num_items = 0
    for file, of_file in zip(files, hashes, strict=True):
        repeated = left_out.get(file, frozenset())
        states[file.name] = _state(file, repeated)
        num_items += len(of_file) - len(repeated)

    record = _read_record(folder)
    gone = [folder / name for name in record if name not in states]
    for file in sorted(folder.glob("*.old")):  # an earlier version's
        if file not in gone:
            gone.append(file)
    missing = [file for file in files if record.get(file.name) != states[file.name]]
    # Before anything is put in or taken out: these may be in the store in part.
    record |= {file.name: "" for file in (*gone, *missing)}
    _write_record(folder, record)

    stored = 0
    for file, num_stored in _store_files(store, missing, left_out, show_progress):
        stored += num_stored
        record[file.name] = states[file.name]
        _write_record(folder, record)
    removed = _take_out(store, folder, gone, hashes, {entry.input for entry in inputs})
    for file in gone:
        del record[file.name]
    _write_record(folder, record)
    for file in gone:
        file.unlink(missing_ok=True)
    if removed or missing:
        store.build()
    return Filled(stored, num_items - stored, removed, left_out)


def _store_files(
    store: VectorStore,
    files: Sequence[Path],
    left_out: Mapping[Path, frozenset[str]],
    show_progress: bool | None,
) -> Iterator[tuple[Path, int]]:
    """Put files into a store -> each file once it is in, and how many items were stored."""
    schema = store.schema
    is_new = store.count() == 0
    total = 0
    for file in files:
        total += len(read_ids(file)) - len(left_out.get(file, ()))
    num_rows = 0
    with progress_bar("filling the store", total, show_progress) as advance:
        for file in files:
            stored = 0
            repeated = left_out.get(file, frozenset())
            for rows in _read_rows(file, schema.item_columns, repeated):
                num_rows += rows.num_rows
                wanted = rows if is_new else _changed(store, rows)
                stored += store.upsert(wanted, fingerprint=schema.fingerprint)
                advance(num_rows)
            yield file, stored


def files_by_rank(folder: Path, inputs: Sequence[IndexedInput]) -> list[Path]:
    """The files of a folder, newest indexing first: of items with one id the first counts."""
    return [
        find_file(folder, name) for entry in reversed(inputs) for name in entry.files
    ]


def hash_ids(file: Path) -> Hashes:
    """8 bytes per id of a file, because all ids of a folder are held at once."""
    return _hashed(read_ids(file))


def _hashed(ids: Sequence[str]) -> Hashes:
    hashes = [xxhash.xxh3_64_intdigest(id_.encode()) for id_ in ids]
    return np.array(hashes, dtype=np.uint64)


def read_ids(file: Path) -> list[str]:
    """The ids of a file's items."""
    ids: list[str] = (
        pyarrow_parquet().read_table(file, columns=["id"])["id"].to_pylist()
    )
    return ids


def find_repeated(
    files: Sequence[Path], hashes: Sequence[Hashes]
) -> dict[Path, frozenset[str]]:
    """The ids of each file that an earlier file has too."""
    found, counts = np.unique(
        np.concatenate([*hashes, np.zeros(0, np.uint64)]), return_counts=True
    )
    several = found[counts > 1]
    seen = set[str]()
    repeated = dict[Path, frozenset[str]]()
    for file, of_file in zip(files, hashes, strict=True):
        if several.size and (suspects := np.isin(of_file, several)).any():
            pairs = zip(read_ids(file), suspects, strict=True)
            ids = [id_ for id_, is_suspect in pairs if is_suspect]
            repeated[file] = frozenset(seen.intersection(ids))
            seen.update(ids)
    return {file: ids for file, ids in repeated.items() if ids}


def _schema_of(folder: Path) -> Schema | None:
    """The schema of the store that a folder fills; None where it fills none."""
    for file in (folder / SCHEMA, folder / _SCHEMA_BEFORE):
        if file.is_file():
            return schema_from_json(file.read_text(encoding="utf-8"), str(file))
    return None


def _state(file: Path, left_out: frozenset[str]) -> str:
    """A checksum of what goes from a file into a store."""
    return (
        f"{read_head(file)['digest']} "
        f"{xxhash.xxh3_64_hexdigest(repr(sorted(left_out)).encode())}"
    )


def _read_record(folder: Path) -> dict[str, str]:
    """The files that are in the store -> their states then."""
    record = folder / RECORD
    if not record.is_file():
        return {}
    return dict(json.loads(record.read_text(encoding="utf-8")))


def _write_record(folder: Path, record: Mapping[str, str]) -> None:
    replace_text(folder / RECORD, json.dumps(record))


def _read_rows(
    file: Path, columns: list[str], left_out: frozenset[str]
) -> Iterator[Any]:
    """Tables of at most AT_A_TIME rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for batch in (
        pyarrow_parquet().ParquetFile(file).iter_batches(AT_A_TIME, columns=columns)
    ):
        rows = pa.Table.from_batches([batch])
        if left_out:
            rows = rows.filter(
                pc.invert(pc.is_in(rows["id"], pa.array(sorted(left_out))))
            )
        if rows.num_rows:
            yield rows


def _changed(store: VectorStore, rows: Any) -> Any:
    """The rows that are new to the store or changed."""
    import pyarrow as pa

    ids = rows["id"].to_pylist()
    there = dict[str, bytes]()
    for start in range(0, len(ids), 1000):
        for batch in store.scan(where=In("id", tuple(ids[start : start + 1000]))):
            there |= zip(
                batch["id"].to_pylist(), _digests(batch, store.schema), strict=True
            )
    digests = zip(ids, _digests(rows, store.schema), strict=True)
    return rows.filter(
        pa.array([there.get(id_) != digest for id_, digest in digests], pa.bool_())
    )


def _digests(rows: Any, schema: Schema) -> list[bytes]:
    """A checksum of each row of a table or batch, with its vectors."""
    columns = [vector_column(name) for name in schema.vectors]
    vectors = [vectors_of(rows[column], schema.dim)[0] for column in columns]
    names = [name for name in schema.item_columns if name not in columns]
    checksums = []
    for row, other in enumerate(rows.select(names).to_pylist()):
        parts = [array[row].tobytes() for array in vectors]
        content = b"".join([repr(other).encode(), *parts])
        checksums.append(xxhash.xxh3_128_digest(content))
    return checksums


def _take_out(
    store: VectorStore,
    folder: Path,
    gone: Sequence[Path],
    hashes: Sequence[Hashes],
    inputs: set[str],
) -> int:
    """Delete the items that only these files hold, and note them -> their number.

    inputs: those that the folder still has.
    """
    if not gone:
        return 0
    kept = np.concatenate([*hashes, np.zeros(0, np.uint64)])
    removed = 0
    is_any_unreadable = False
    for file in gone:
        try:
            ids = read_ids(file)
        except (OSError, ValueError, KeyError):
            is_any_unreadable = True
            continue
        source = read_head(file).get("input", "")
        reason = (
            "it is not in the input any more"
            if source in inputs
            else "the input was forgotten"
        )
        removed += _delete(store, folder, _not_in(kept, ids), source, reason)
    if is_any_unreadable:  # the store alone knows what was in it
        stored: list[str] = []
        for rows in store.scan(columns=["id"]):
            stored += rows["id"].to_pylist()
        reason = "its file of embeddings was missing or broken, and no input has it now"
        removed += _delete(store, folder, _not_in(kept, stored), "", reason)
    return removed


def _not_in(kept: Hashes, ids: Sequence[str]) -> list[str]:
    is_kept = np.isin(_hashed(ids), kept)
    return [id_ for id_, stays in zip(ids, is_kept, strict=True) if not stays]


def _delete(
    store: VectorStore, folder: Path, ids: Sequence[str], source: str, reason: str
) -> int:
    """Delete items and note them -> how many were there.

    source: the input that had them, if known.
    """
    removed = 0
    for start in range(0, len(ids), AT_A_TIME):
        some = ids[start : start + AT_A_TIME]
        removed += store.delete(ids=some)
        note_removed(folder, [RemovedItem(id_, source, reason) for id_ in some])
    return removed
