"""What a store's fields hold, as the page's filters need it: the values of a short list, the ends
of a range.

A field of texts is offered as a list to choose from if it has few values and they come again and
again (a category, a colour; not a title, not a description); a number as its smallest and largest
value. One scan finds all of it.
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
from typing import Any

from pydantic import BaseModel

from ...search.stores.base import FieldType, VectorStore

MOST_VALUES = 100  # more is no list to choose from
LONGEST_VALUE = 60  # characters; more is a text to read
# that they are kept where a store does not tell cheaply whether it was written to
FRESH_SECONDS = 10.0
PATIENCE_SECONDS = 2.0  # to wait for new ones, while there are old ones
# times what a scan took, before the next: a store that is always written to is not always scanned
REST = 4.0

log = logging.getLogger(__name__)


class Choice(BaseModel):
    """One value of a field, and how many items have it."""

    value: str | bool
    count: int


class Facet(BaseModel):
    """One field: `choices` where it is a short list, `low` and `high` where it is a number."""

    name: str
    type: FieldType
    choices: list[Choice] | None = None
    low: float | None = None
    high: float | None = None


Found = tuple[int, list[Facet]]


class Facets:
    """A store's facets, found by a thread beside those that search: at the start, and whenever the
    store has changed.

    To be asked by one event loop. Old facets are good enough for who has waited for new ones for a
    while.
    """

    def __init__(self, store_of: Callable[[], VectorStore]) -> None:
        """store_of: gives the store, as it is now."""
        self._store_of = store_of
        self._found: Found | None = None
        self._scan: Future[Found] | None = None  # the one that is under way
        self._version: Hashable | None = None  # of the store that was found
        self._found_at = self._not_before = -math.inf

    async def now(self) -> Found:
        """The number of items, and what their fields hold."""
        if self._found is None:
            return await asyncio.wrap_future(self.scan())
        if (
            self._scan is None
            and time.monotonic() >= self._not_before
            and await asyncio.to_thread(self._is_old)
        ):
            self.scan()
        scan = self._scan  # its thread may end it, and take it away, at any moment
        if scan is not None:
            with suppress(asyncio.TimeoutError):
                return await asyncio.wait_for(
                    asyncio.wrap_future(scan), PATIENCE_SECONDS
                )
        return self._found

    def scan(self) -> Future[Found]:
        """The scan that is under way, or a new one."""
        scan = self._scan
        if scan is None:
            self._scan = scan = Future()
            scan.set_running_or_notify_cancel()  # who goes away does not cancel it for the others
            threading.Thread(target=self._run, args=(scan,), name="facets").start()
        return scan

    def _is_old(self) -> bool:
        version = self._store_of().version()
        if version is None:
            return time.monotonic() > self._found_at + FRESH_SECONDS
        return version != self._version

    def _run(self, scan: Future[Found]) -> None:
        started = time.monotonic()
        try:
            store = self._store_of()
            version = (
                store.version()
            )  # before: what changes in between is found by the next scan
            found = store.count(), find_facets(store)
        except Exception as error:
            log.warning(
                "the fields of the store were not read; /v1/store tries again when it is asked",
                exc_info=error,
            )
            self._scan = None
            scan.set_exception(error)
        else:
            self._found = found
            self._version = version
            self._found_at = time.monotonic()
            self._not_before = self._found_at + REST * (self._found_at - started)
            self._scan = None
            scan.set_result(found)


def find_facets(store: VectorStore) -> list[Facet]:
    """The facets of all fields, by one scan of them; a field that groups items (`parent`) has no
    choices.
    """
    types = store.schema.fields
    if not types:
        return []
    import pyarrow.compute as pc

    values: dict[str, Counter[str | bool]] = {
        name: Counter()
        for name, kind in types.items()
        if kind in ("string", "strings", "bool")
    }
    values.pop(store.schema.about.get("parent", ""), None)
    ends: dict[str, tuple[float, float]] = {}
    for batch in store.scan(columns=list(types)):
        for name in list(values):
            column = batch.column(name)
            _count_values(
                values[name],
                pc.list_flatten(column) if types[name] == "strings" else column,
            )
            if len(values[name]) > MOST_VALUES or any(
                len(str(value)) > LONGEST_VALUE for value in values[name]
            ):
                del values[name]
        for name, kind in types.items():
            if kind in ("int", "float"):
                _widen(ends, name, pc.min_max(batch.column(name)).as_py())
    return [
        _facet(name, kind, values.get(name), ends.get(name))
        for name, kind in types.items()
    ]


def _count_values(counter: Counter[str | bool], column: Any) -> None:
    import pyarrow.compute as pc

    for pair in pc.value_counts(column).to_pylist():
        if pair["values"] not in (None, ""):
            counter[pair["values"]] += pair["counts"]


def _widen(
    ends: dict[str, tuple[float, float]], name: str, found: Mapping[str, float | None]
) -> None:
    low = found["min"]
    high = found["max"]
    if (
        low is not None
        and high is not None
        and math.isfinite(low)
        and math.isfinite(high)
    ):
        lowest, highest = ends.get(name, (low, high))
        ends[name] = min(low, lowest), max(high, highest)


def _facet(
    name: str,
    kind: FieldType,
    values: Counter[str | bool] | None,
    ends: tuple[float, float] | None,
) -> Facet:
    """Values that hardly come twice are names, whatever their number."""
    if values and (kind == "bool" or 2 * len(values) <= sum(values.values())):
        ranked = sorted(values.items(), key=lambda pair: (-pair[1], str(pair[0])))
        return Facet(
            name=name,
            type=kind,
            choices=[Choice(value=value, count=count) for value, count in ranked],
        )
    if ends:
        return Facet(name=name, type=kind, low=ends[0], high=ends[1])
    return Facet(name=name, type=kind)
