"""The store that a server searches, as it is now: it may be written to, made again or moved while
it is served.

It is looked at every few seconds, and whenever a search of it fails. While it cannot be read, or
holds vectors of another model, searches are answered 503 and the server is not ready; both end as
soon as the store is right again. What a library says of a store holds its path: it goes to the log,
and never into an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from ..search.query.query import check_model
from ..search.stores.base import VectorStore
from ..search.stores.open import open_store
from ..search.stores.schema import ForeignModelError
from .api.errors import ApiError, UnavailableError
from .config import ServeConfig
from .engine.engine import Engine, OverloadedError, load_embedder
from .engine.pool import Waiting

WATCH_SECONDS = 2.0  # between two looks at the store
UNREADABLE = "the store cannot be read now"
OTHER_MODEL = "the store holds vectors of another model than the one that is served"
LOADING = "the model that the store was indexed with is being loaded"

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class ServedStore:
    """A store and the model that it is asked with.

    fingerprint: of the model that is served; of the vectors that may be compared with the store's.
    """

    def __init__(
        self, store: VectorStore, engine: Engine, config: ServeConfig, threads: Waiting
    ) -> None:
        """Raises ValueError if the store's vectors are another model's than the engine's."""
        self.fingerprint = engine.embedder.fingerprint()
        check_model(store.schema, self.fingerprint)
        self._given = self._store = store  # who gave it closes it
        self._engine = engine
        self._config = config
        self._threads = threads
        self._url = config.store or store.place()
        self._looking = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._turn = asyncio.Lock()
        self._tried: object = (
            None  # the state of the model's files that did not fit the store
        )

    @asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        """Look at the store until the end."""
        watch = asyncio.ensure_future(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
            self._looking.shutdown(wait=False, cancel_futures=True)
            if self._store is not self._given:
                self._store.close()

    @property
    def store(self) -> VectorStore:
        """The store, as it was found last; raises UnavailableError while it cannot be searched."""
        if self._engine.lifecycle.store_fault:
            raise UnavailableError(self._engine.lifecycle.store_fault)
        return self._store

    async def run(self, call: Callable[[VectorStore], Result]) -> Result:
        """Call with the store, in a thread; once more if it was made again in between.

        Raises ApiError with 400 for what the store refuses, and UnavailableError if it cannot be
        read.
        """
        for is_last in (False, True):
            store = self.store
            try:
                return await self._threads.run(lambda: call(store))  # noqa: B023  # run before the next turn
            except (ApiError, OverloadedError):
                raise
            except Exception as error:
                if _is_refusal(error):
                    raise ApiError(400, str(error)) from None
                log.warning("the store was not searched", exc_info=error)
                await self.look()
                if is_last:
                    raise UnavailableError(
                        self._engine.lifecycle.store_fault or UNREADABLE
                    ) from None
        raise AssertionError

    async def look(self) -> None:
        """Find out whether the store can be searched, and load its model where that is allowed."""
        async with self._turn:
            loop = asyncio.get_running_loop()
            fault = await loop.run_in_executor(self._looking, self._fault)
            if fault == OTHER_MODEL and self._config.reload and self._is_worth_a_try():
                self._note(LOADING)
                if await self._load_again():
                    fault = ""
            self._note(fault)

    def _note(self, fault: str) -> None:
        before = self._engine.lifecycle.store_fault
        self._engine.lifecycle.store_fault = fault
        if fault != before:
            if fault:
                log.error(
                    "%s (%s); searches are answered 503 until it is right",
                    fault,
                    self._url,
                )
            else:
                log.info("the store is searched again")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await self.look()
            except Exception as error:  # whatever it is, the next look may go well
                log.warning("the store was not looked at", exc_info=error)

    def _fault(self) -> str:
        """Why the store cannot be searched, or nothing; reads it again, and opens it again where
        that fails.
        """
        try:
            schema = self._store.refresh()
        except Exception as error:
            log.debug("the store is opened again", exc_info=error)
            try:
                again = open_store(self._url)
            except Exception as fault:
                log.debug("the store was not opened", exc_info=fault)
                return UNREADABLE
            before = self._store
            self._store = again
            schema = again.schema
            with suppress(Exception):  # whatever is left of it
                before.close()
        return "" if schema.fingerprint == self.fingerprint else OTHER_MODEL

    def _is_worth_a_try(self) -> bool:
        """Whether the model's files or the store's model have changed since they were last found
        not to fit.
        """
        state = (self._store.schema.fingerprint, _state_of(Path(self._config.model)))
        is_new = state != self._tried
        self._tried = state
        return is_new

    async def _load_again(self) -> bool:
        """Load the model again, and serve it if it is the store's."""
        loop = asyncio.get_running_loop()
        wanted = self._store.schema.fingerprint
        try:
            embedder = await loop.run_in_executor(
                self._looking, load_embedder, self._config
            )
            fingerprint = await loop.run_in_executor(
                self._looking, embedder.fingerprint
            )
        except Exception as error:
            log.error("the model was not loaded again", exc_info=error)
            return False
        if fingerprint != wanted:
            log.error(
                "the model was loaded again, and is another than the one that the store "
                "was indexed with"
            )
            return False
        if not await self._engine.replace(embedder):
            return False
        self.fingerprint = fingerprint
        log.info("the model was loaded again, and its store is searched")
        return True


def _state_of(place: Path) -> object:
    """What changes when the files of a model do."""
    state = []
    with suppress(
        OSError
    ):  # not a folder, or one whose files are being replaced: the next look sees another state
        for entry in place.iterdir():
            status = entry.stat()
            state.append((entry.name, status.st_mtime_ns, status.st_size))
    return sorted(state)


def _is_refusal(error: Exception) -> bool:
    """Whether this package refused what was asked for, in a sentence of its own; libraries' may
    hold a path.
    """
    if not isinstance(error, ValueError) or isinstance(error, ForeignModelError):
        return False
    place: TracebackType | None = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and str(
        place.tb_frame.f_globals.get("__name__", "")
    ).startswith("unimodal.")
