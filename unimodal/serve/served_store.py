"""The store that a server searches; it may be written to, rebuilt or moved while it is served.

The store is checked every few seconds, and whenever a search of it fails. While it cannot be read,
or holds vectors of another model, searches are answered 503 and the server is not ready; both end
as soon as the store is right again. Messages of the storage libraries contain the store's path:
they go to the log, and never into an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from ..search.stores.base import VectorStore
from ..search.stores.open import open_store
from ..search.stores.schema import ForeignModelError, check_model
from .api.errors import ApiError, UnavailableError
from .config import ServeConfig
from .engine.engine import Engine, load_embedder
from .engine.errors import OverloadedError
from .engine.pool import BoundedPool

WATCH_SECONDS = 2.0  # between two checks of the store
UNREADABLE = "the store cannot be read now"
OTHER_MODEL = "the store holds vectors of another model than the one that is served"
LOADING = "the model that the store was indexed with is being loaded"

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class ServedStore:
    """A store and the model that it is searched with.

    fingerprint: of the served model; only its vectors may be compared with the store's.
    """

    def __init__(
        self,
        store: VectorStore,
        engine: Engine,
        config: ServeConfig,
        threads: BoundedPool,
    ) -> None:
        """Raises ValueError if the store's vectors are another model's than the engine's."""
        self.fingerprint = engine.embedder.fingerprint()
        check_model(store.schema, self.fingerprint)
        self._store = store
        self._owned_by_caller = store  # the caller closes it
        self._engine = engine
        self._config = config
        self._threads = threads
        self._url = config.store or store.place()
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._turn = asyncio.Lock()
        # the state of the model's files that did not fit the store
        self._rejected_state: object = None

    @asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        """Check the store until the end."""
        watch = asyncio.ensure_future(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
            self._checker.shutdown(wait=False, cancel_futures=True)
            if self._store is not self._owned_by_caller:
                self._store.close()

    @property
    def store(self) -> VectorStore:
        """The store, as last checked; raises UnavailableError while it cannot be searched."""
        if self._engine.lifecycle.store_fault:
            raise UnavailableError(self._engine.lifecycle.store_fault)
        return self._store

    async def run(self, call: Callable[[VectorStore], Result]) -> Result:
        """Call with the store, in a thread; a second time if the store failed and was reopened.

        Raises ApiError with 400 for what the store refuses, and UnavailableError if it cannot be
        read.
        """
        for is_last in (False, True):
            store = self.store
            try:
                return await self._threads.run(partial(call, store))
            except (ApiError, OverloadedError):
                raise
            except Exception as error:
                if _is_refusal(error):
                    raise ApiError(400, str(error)) from None
                log.warning("the store was not searched", exc_info=error)
                await self.check()
                if is_last:
                    reason = self._engine.lifecycle.store_fault or UNREADABLE
                    raise UnavailableError(reason) from None
        raise AssertionError

    async def check(self) -> None:
        """Find out whether the store can be searched; load its model if that is allowed."""
        async with self._turn:
            loop = asyncio.get_running_loop()
            fault = await loop.run_in_executor(self._checker, self._find_fault)
            if fault == OTHER_MODEL and self._config.reload and self._has_changed():
                self._note(LOADING)
                if await self._reload_model():
                    fault = ""
            self._note(fault)

    def _note(self, fault: str) -> None:
        """Set the fault of the store, and log when it changes."""
        before = self._engine.lifecycle.store_fault
        self._engine.lifecycle.store_fault = fault
        if fault == before:
            return
        if fault:
            log.error(
                "%s (%s); searches are answered 503 until it is right", fault, self._url
            )
        else:
            log.info("the store is searched again")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await self.check()
            except Exception as error:  # whatever it is, the next check may succeed
                log.warning("the store was not checked", exc_info=error)

    def _find_fault(self) -> str:
        """Why the store cannot be searched, or nothing.

        Reads the store again, and opens it again if that fails.
        """
        try:
            schema = self._store.refresh()
        except Exception as error:
            log.debug("the store is opened again", exc_info=error)
            try:
                reopened = open_store(self._url)
            except Exception as open_error:
                log.debug("the store was not opened", exc_info=open_error)
                return UNREADABLE
            broken = self._store
            self._store = reopened
            schema = reopened.schema
            with suppress(Exception):  # whatever is left of it
                broken.close()
        return "" if schema.fingerprint == self.fingerprint else OTHER_MODEL

    def _has_changed(self) -> bool:
        """Whether the model's files or the store's model have changed since the last mismatch."""
        files = _state_of(Path(self._config.model))
        state = (self._store.schema.fingerprint, files)
        has_changed = state != self._rejected_state
        self._rejected_state = state
        return has_changed

    async def _reload_model(self) -> bool:
        """Load the model again, and serve it if it is the store's -> whether it is served."""
        loop = asyncio.get_running_loop()
        expected = self._store.schema.fingerprint
        try:
            embedder = await loop.run_in_executor(
                self._checker, load_embedder, self._config
            )
            fingerprint = await loop.run_in_executor(
                self._checker, embedder.fingerprint
            )
        except Exception as error:
            log.error("the model was not loaded again", exc_info=error)
            return False
        if fingerprint != expected:
            log.error(
                "the model was loaded again, but the store was indexed with another one"
            )
            return False
        if not await self._engine.replace(embedder):
            return False
        self.fingerprint = fingerprint
        log.info("the model was loaded again, and its store is searched")
        return True


def _state_of(folder: Path) -> object:
    """What changes when the files of a model do."""
    state = []
    # not a folder, or one whose files are being replaced: the next check sees another state
    with suppress(OSError):
        for entry in folder.iterdir():
            status = entry.stat()
            state.append((entry.name, status.st_mtime_ns, status.st_size))
    return sorted(state)


def _is_refusal(error: Exception) -> bool:
    """Whether this package refused the request, in its own words.

    Messages of libraries may contain a path.
    """
    if not isinstance(error, ValueError) or isinstance(error, ForeignModelError):
        return False
    origin: TracebackType | None = error.__traceback__
    while origin is not None and origin.tb_next is not None:
        origin = origin.tb_next
    if origin is None:
        return False
    module = str(origin.tb_frame.f_globals.get("__name__", ""))
    return module.startswith("unimodal.")
