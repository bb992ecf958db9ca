"""What a store's fields hold, as the page's filters need it: a short list of values, or a range.

A field of texts is a list to choose from if it has few values that repeat (a category, a colour;
not a title or a description). A number is its smallest and largest value. One scan of the store
finds all of it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeAlias

from pydantic import BaseModel

from ...search.stores.base import VectorStore
from ...tables.types import FieldType

MAX_CHOICES = 100  # a longer list is not one to choose from
MAX_CHARS = 60  # a longer value is a text to read
# how long facets are used, if a store cannot tell cheaply whether it has changed
FRESH_SECONDS = 10.0
PATIENCE_SECONDS = 2.0  # to wait for a new scan, while there is an old one
# times the duration of a scan, before the next: a store that always changes is not always scanned
REST = 4.0

log = logging.getLogger(__name__)


class Choice(BaseModel):
    """One value of a field, and how many items have it."""

    value: str | bool
    count: int


class Facet(BaseModel):
    """One field: `choices` if it has a short list of values, `low` and `high` if it is a number."""

    name: str
    type: FieldType
    choices: list[Choice] | None = None
    low: float | None = None
    high: float | None = None


# the number of items, and a facet per field
StoreFacets: TypeAlias = tuple[int, list[Facet]]
Counts: TypeAlias = Counter[str | bool]


class Facets:
    """A store's facets, scanned in a thread at the start and whenever the store has changed.

    Used by one event loop. A request that has waited for new facets for a while gets the old ones.
    """

    def __init__(self, current_store: Callable[[], VectorStore]) -> None:
        """current_store: returns the store as it is now."""
        self._current_store = current_store
        self._facets: StoreFacets | None = None
        self._scan: Future[StoreFacets] | None = None  # the one in progress
        self._version: Hashable | None = None  # of the store that was scanned
        self._scanned_at = -math.inf
        self._next_scan_at = -math.inf

    async def now(self) -> StoreFacets:
        """The number of items, and what their fields hold."""
        if self._facets is None:
            return await asyncio.wrap_future(self.scan())
        may_scan = self._scan is None and time.monotonic() >= self._next_scan_at
        if may_scan and await asyncio.to_thread(self._is_old):
            self.scan()
        scan = self._scan  # read once: its thread may reset it at any moment
        if scan is not None:
            with suppress(asyncio.TimeoutError):
                waiting = asyncio.wrap_future(scan)
                return await asyncio.wait_for(waiting, PATIENCE_SECONDS)
        return self._facets

    def scan(self) -> Future[StoreFacets]:
        """The scan in progress, or a new one."""
        scan = self._scan
        if scan is None:
            scan = Future()
            self._scan = scan
            # running, so that a client that disconnects does not cancel it for the others
            scan.set_running_or_notify_cancel()
            threading.Thread(target=self._run, args=(scan,), name="facets").start()
        return scan

    def _is_old(self) -> bool:
        version = self._current_store().version()
        if version is None:
            return time.monotonic() > self._scanned_at + FRESH_SECONDS
        return version != self._version

    def _run(self, scan: Future[StoreFacets]) -> None:
        started = time.monotonic()
        try:
            store = self._current_store()
            # read before the scan, so that the next scan finds what changes meanwhile
            version = store.version()
            facets = store.count(), find_facets(store)
        except Exception as error:
            log.warning(
                "the fields of the store were not read; the next request to /v1/store tries again",
                exc_info=error,
            )
            self._scan = None
            scan.set_exception(error)
            return
        self._facets = facets
        self._version = version
        self._scanned_at = time.monotonic()
        self._next_scan_at = self._scanned_at + REST * (self._scanned_at - started)
        self._scan = None
        scan.set_result(facets)


def find_facets(store: VectorStore) -> list[Facet]:
    """The facets of all fields, by one scan; the field that groups items has no choices."""
    types = store.schema.fields
    if not types:
        return []
    counts: dict[str, Counts] = {
        name: Counter()
        for name, kind in types.items()
        if kind in ("string", "strings", "bool")
    }
    counts.pop(store.schema.about.get("parent", ""), None)
    ranges: dict[str, tuple[float, float]] = {}
    for batch in store.scan(columns=list(types)):
        _count_batch(counts, batch, types)
        _widen_ranges(ranges, batch, types)
    return [
        _facet(name, kind, counts.get(name), ranges.get(name))
        for name, kind in types.items()
    ]


def _count_batch(
    counts: dict[str, Counts], batch: Any, types: Mapping[str, FieldType]
) -> None:
    """Add the values of a batch, and drop fields that are not lists to choose from."""
    import pyarrow.compute as pc

    for name in list(counts):
        column = batch.column(name)
        if types[name] == "strings":
            column = pc.list_flatten(column)
        counter = counts[name]
        for pair in pc.value_counts(column).to_pylist():
            if pair["values"] not in (None, ""):
                counter[pair["values"]] += pair["counts"]
        is_long = any(len(str(value)) > MAX_CHARS for value in counter)
        if len(counter) > MAX_CHOICES or is_long:
            del counts[name]


def _widen_ranges(
    ranges: dict[str, tuple[float, float]], batch: Any, types: Mapping[str, FieldType]
) -> None:
    """Widen the ranges of numbers to those of a batch."""
    import pyarrow.compute as pc

    for name, kind in types.items():
        if kind not in ("int", "float"):
            continue
        ends = pc.min_max(batch.column(name)).as_py()
        low = ends["min"]
        high = ends["max"]
        if low is None or high is None:
            continue
        if math.isfinite(low) and math.isfinite(high):
            lowest, highest = ranges.get(name, (low, high))
            ranges[name] = min(low, lowest), max(high, highest)


def _facet(
    name: str,
    kind: FieldType,
    counts: Counts | None,
    ends: tuple[float, float] | None,
) -> Facet:
    """The facet of a field; values that rarely repeat are names, however few there are."""
    if counts and (kind == "bool" or 2 * len(counts) <= sum(counts.values())):
        ranked = sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))
        choices = [Choice(value=value, count=count) for value, count in ranked]
        return Facet(name=name, type=kind, choices=choices)
    if ends:
        return Facet(name=name, type=kind, low=ends[0], high=ends[1])
    return Facet(name=name, type=kind)
