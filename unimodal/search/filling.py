"""A folder of embeddings -> a store of the same items, without any model.

A folder fills one store, and a store is filled from one folder: both carry the id of the store's making, and the
folder keeps the record of which of its files are in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import xxhash
from numpy.typing import NDArray

from unimodal.checkpoint import replace_text
from unimodal.progress import progress_bar
from unimodal.rows import pyarrow_parquet

from .bulk import read_head
from .predicate import In
from .rows import vectors_of
from .schema import MADE, Schema, schema_from_json, schema_to_json, vector_column
from .store import VectorStore, create_store, open_store, store_exists

SCHEMA = "index.json"  # of the store that the folder fills
RECORD = ".filled.json"  # a file that is in the store -> its state then
AT_A_TIME = 10_000  # items of an upsert or a deletion

Hashes = NDArray[np.uint64]  # of a file's ids


class Filled(NamedTuple):
    """What a store was told."""

    stored: int  # items that it had not, or had otherwise
    kept: int  # items that it had as they are
    removed: int
    duplicates: dict[Path, frozenset[str]]  # the ids of each file that a file before it has too


def make_store(store_url: str, folder: Path, schema: Schema, *, overwrite: bool = False) -> None:
    """An empty store, which is the one that the folder fills from now on."""
    schema = replace(schema, about={**schema.about, MADE: uuid4().hex})
    create_store(store_url, schema, overwrite=overwrite).close()
    (folder / RECORD).unlink(missing_ok=True)
    replace_text(folder / SCHEMA, schema_to_json(schema))


def check_folder(store_url: str, schema: Schema, folder: Path) -> None:
    """Raises ValueError where a folder does not fill the store of this schema, but another or none."""
    file = folder / SCHEMA
    if not file.is_file() or _read_schema(file).about.get(MADE) != schema.about.get(MADE):
        raise ValueError(
            f"{store_url} is not the store that {folder} fills, and each folder of embeddings fills one; give the "
            "store's own folder with --embeddings, or make the store anew from this one with --overwrite."
        )


def fill(store_url: str, folder: Path, *, show_progress: bool | None = None) -> Filled:
    """Bring a store to the state of a folder of embeddings.

    Files that are in already are passed over, so that a kill costs the file in flight, and so are items of others that
    the store has as they are. Of items with one id the first
    is taken, in the order of the files. What was in a file that is no more, and is in no other, is taken out. A store
    that is not there is made.
    """
    if not store_exists(store_url):
        make_store(store_url, folder, _read_schema(folder / SCHEMA))
    store = open_store(store_url)
    try:
        schema = store.schema
        check_folder(store_url, schema, folder)
        files = sorted(folder.glob("*.parquet"))
        hashes = [_hashes(file) for file in files]
        duplicates = _duplicates(files, hashes)
        states = {file.name: _state(file, duplicates.get(file, frozenset())) for file in files}
        sizes = {file.name: len(one) - len(duplicates.get(file, ())) for file, one in zip(files, hashes, strict=True)}
        there = {name: state for name, state in _filled(folder / RECORD).items() if states.get(name) == state}
        replace_text(folder / RECORD, json.dumps(there))  # before anything of the others is put in or taken out
        missing = [file for file in files if file.name not in there]
        is_new, stored, done = store.count() == 0, 0, 0
        with progress_bar("filling the store", sum(sizes[file.name] for file in missing), show_progress) as advance:
            for file in missing:
                for rows in _rows(file, schema.item_columns, duplicates.get(file, frozenset())):
                    done += rows.num_rows
                    rows = rows if is_new else _changed(store, rows)
                    stored += store.upsert(rows, fingerprint=schema.fingerprint)
                    advance(done)
                there[file.name] = states[file.name]
                replace_text(folder / RECORD, json.dumps(there))
        removed = _take_out(store, folder, hashes)
        if removed or missing:
            store.build()
    finally:
        store.close()
    return Filled(stored, sum(sizes.values()) - stored, removed, duplicates)


def _read_schema(file: Path) -> Schema:
    return schema_from_json(file.read_text(encoding="utf-8"), str(file))


def _ids(file: Path) -> list[str]:
    ids: list[str] = pyarrow_parquet().read_table(file, columns=["id"])["id"].to_pylist()
    return ids


def _hashes(file: Path) -> Hashes:
    """8 bytes an id, for all ids are held at once."""
    return np.array([xxhash.xxh3_64_intdigest(one.encode()) for one in _ids(file)], dtype=np.uint64)


def _duplicates(files: Sequence[Path], hashes: Sequence[Hashes]) -> dict[Path, frozenset[str]]:
    """The ids of each file that a file before it has too."""
    found, counts = np.unique(np.concatenate([*hashes, np.zeros(0, np.uint64)]), return_counts=True)
    twice = found[counts > 1]
    seen, duplicates = set[str](), dict[Path, frozenset[str]]()
    for file, of_file in zip(files, hashes, strict=True):
        if twice.size and (suspects := np.isin(of_file, twice)).any():
            ids = [one for one, suspect in zip(_ids(file), suspects, strict=True) if suspect]
            duplicates[file] = frozenset(seen.intersection(ids))
            seen.update(ids)
    return {file: ids for file, ids in duplicates.items() if ids}


def _state(file: Path, duplicates: frozenset[str]) -> str:
    """What of a file goes into a store, as a name."""
    return f"{read_head(file)['digest']} {xxhash.xxh3_64_hexdigest(repr(sorted(duplicates)).encode())}"


def _filled(record: Path) -> dict[str, str]:
    return dict(json.loads(record.read_text(encoding="utf-8"))) if record.is_file() else {}


def _rows(file: Path, columns: list[str], duplicates: frozenset[str]) -> Iterator[Any]:
    """Tables of at most AT_A_TIME rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for batch in pyarrow_parquet().ParquetFile(file).iter_batches(AT_A_TIME, columns=columns):
        rows = pa.Table.from_batches([batch])
        if duplicates:
            rows = rows.filter(pc.invert(pc.is_in(rows["id"], pa.array(sorted(duplicates)))))
        if rows.num_rows:
            yield rows


def _changed(store: VectorStore, rows: Any) -> Any:
    """Those of some rows that the store has not, or has otherwise."""
    import pyarrow as pa

    ids, there = rows["id"].to_pylist(), dict[str, bytes]()
    for start in range(0, len(ids), 1000):
        for batch in store.scan(where=In("id", tuple(ids[start : start + 1000]))):
            there |= zip(batch["id"].to_pylist(), _digests(batch, store.schema), strict=True)
    digests = zip(ids, _digests(rows, store.schema), strict=True)
    return rows.filter(pa.array([there.get(one) != digest for one, digest in digests], pa.bool_()))


def _digests(rows: Any, schema: Schema) -> list[bytes]:
    """Of each row of a table or batch, whole."""
    columns = [vector_column(name) for name in schema.vectors]
    vectors = [vectors_of(rows[column], schema.dim)[0] for column in columns]
    others = rows.select([name for name in schema.item_columns if name not in columns]).to_pylist()
    return [
        xxhash.xxh3_128_digest(b"".join([repr(other).encode(), *(array[row].tobytes() for array in vectors)]))
        for row, other in enumerate(others)
    ]


def _take_out(store: VectorStore, folder: Path, hashes: Sequence[Hashes]) -> int:
    """Delete what only files that were put aside hold, and those files -> how many items that were."""
    old = sorted(folder.glob("*.old"))
    if not old:
        return 0
    kept, removed = np.concatenate([*hashes, np.zeros(0, np.uint64)]), 0
    for file in old:
        try:
            ids, gone = _ids(file), ~np.isin(_hashes(file), kept)
        except (OSError, ValueError, KeyError):  # a broken file was never put into a store
            continue
        vanished = [one for one, is_gone in zip(ids, gone, strict=True) if is_gone]
        for start in range(0, len(vanished), AT_A_TIME):
            removed += store.delete(ids=vanished[start : start + AT_A_TIME])
    for file in old:
        file.unlink()
    return removed
