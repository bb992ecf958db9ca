"""Remote files (http, s3, gs, ... through fsspec), read with retries up to a deadline.

A file system is opened where it is used: none of fsspec's survives a fork.
"""

from __future__ import annotations

import asyncio
import errno
import random
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, TypeVar

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.core import url_to_fs

BLOCK = 16 << 20  # bytes per request
# Bytes per request on a line that carries few of them in `timeout` seconds.
_SMALLEST = 1 << 18
# Bytes between two ranges that are cheaper to read than another request.
_GAP = 256 << 10
_TRIES_IN_SILENCE = 6  # some three seconds
_LONGEST_PAUSE = 30.0  # seconds between two tries

_T = TypeVar("_T")


class ShardChangedError(OSError):
    """A shard is not what its index says; a retry would not help."""


class FileState(NamedTuple):
    """What a storage reports of a file: equal states hold the same bytes."""

    size: int | None  # bytes; None where the server does not say
    version: str  # an etag, or the time of the last change, or ""


@dataclass(frozen=True)
class Clock:
    """Time as `retry` sees it; a simulation brings its own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Patience:
    """How long to wait for a storage, in seconds."""

    deadline: float = 300.0  # for one file, or one block of a large one, with retries
    timeout: float = 30.0  # for the answer to one request


def is_remote(location: str) -> bool:
    """Whether a location is a URL or `pipe:COMMAND`, not a path."""
    return "://" in location or location.startswith("pipe:")


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the URL's path in it.

    Its options come from fsspec's own configuration: a file, or the environment
    (`FSSPEC_S3_ENDPOINT_URL=...`).

    Raises ValueError for an unknown protocol, ImportError for one whose package is missing.
    """
    try:
        found: tuple[AbstractFileSystem, str] = url_to_fs(url)
    except ImportError as error:
        protocol = url.partition("://")[0]
        extra = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}.get(protocol)
        way_out = f'pip install "unimodal[{extra}]"' if extra else str(error)
        raise ImportError(f"reading {url} needs a package: {way_out}.") from None
    except ValueError as error:
        raise ValueError(
            f"{url} is not a URL that can be read ({error}); use http(s)://, s3:// or gs://."
        ) from None
    return found


def retry(
    action: Callable[[], _T], what: str, deadline: float, clock: Clock | None = None
) -> _T:
    """action(), with retries after a failure that may pass: a 503, a reset, a stall, a short read.

    Pauses double from a tenth of a second to half a minute, with jitter, so that a thousand ranks
    do not come back at one moment.

    what: the file, for the error.
    deadline: seconds, of all tries together.

    Raises OSError that names `what`: at once if waiting will not help (a missing file, no
    permission), else at the deadline. Errors that do not come from a storage go through.
    """
    clock = clock or Clock()
    started = clock.now()
    tries = 0
    while True:
        tries += 1
        try:
            return action()
        except ShardChangedError:
            raise
        except Exception as failure:  # the storages' libraries raise many kinds
            error = _cause(failure)
            if _is_hopeless(error):
                raise _final_error(failure, error, what) from error
            if not _may_pass(error):
                raise
            longest = min(_LONGEST_PAUSE, 0.1 * 2 ** min(tries - 1, 16))
            pause = longest * random.uniform(0.5, 1)
            if clock.now() - started + pause > deadline:
                raise OSError(
                    f"{what} could not be read in {tries} tries over {clock.now() - started:.0f} "
                    f"s, the last because: {_describe(error)}; check the storage, or raise "
                    f"the deadline ({deadline:g} s)."
                ) from error
            if tries == _TRIES_IN_SILENCE:
                warnings.warn(
                    f"{what}: {_describe(error)}; retrying for up to {deadline:g} s.",
                    stacklevel=2,
                )
            clock.sleep(pause)


def _final_error(failure: Exception, cause: Exception, what: str) -> OSError:
    """The error of a file that no retry can read."""
    way_out = "check the URL and your permissions."
    if isinstance(failure, FileNotFoundError):
        return FileNotFoundError(f"{what} cannot be read: it does not exist; {way_out}")
    return OSError(f"{what} cannot be read: {_describe(cause)}; {way_out}")


def _cause(error: Exception) -> Exception:
    """What is behind a FileNotFoundError: fsspec's http raises it when anything hides the size."""
    while isinstance(error, FileNotFoundError) and isinstance(
        error.__cause__, Exception
    ):
        error = error.__cause__
    return error


def _is_hopeless(error: Exception) -> bool:
    """Whether the same request will fail again."""
    if isinstance(
        error,
        (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError),
    ):
        return True
    if isinstance(error, OSError) and error.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EFBIG,
    ):
        return True  # the disk of this machine
    if "Credentials" in type(error).__name__:
        return True
    # aiohttp has `status`, and warns of its `code`; gcsfs has `code`.
    name = "status" if hasattr(error, "status") else "code"
    status = getattr(error, name, None)
    return (
        isinstance(status, int)
        and 400 <= status < 500
        and status not in (408, 425, 429)
    )


def _may_pass(error: Exception) -> bool:
    if isinstance(error, (OSError, EOFError, asyncio.TimeoutError)):
        return True
    return type(error).__module__.partition(".")[0] in (
        "aiohttp",
        "aiobotocore",
        "botocore",
        "gcsfs",
        "google",
    )


def _describe(error: Exception) -> str:
    name = type(error).__name__
    message = " ".join(str(error).split())[:200]
    return f"{name}: {message}" if message else name


def call_method(
    fs: AbstractFileSystem, method: str, *args: Any, timeout: float, **options: Any
) -> Any:
    """fs.METHOD(*args), with a timeout in seconds; a synchronous file system has its own limits."""
    if isinstance(fs, AsyncFileSystem) and hasattr(fs, f"_{method}"):
        return sync(
            fs.loop, getattr(fs, f"_{method}"), *args, timeout=timeout, **options
        )
    return getattr(fs, method)(*args, **options)


def state_of(url: str, patience: Patience) -> FileState:
    """Size and version of a file; raises FileNotFoundError, or OSError, naming it."""

    def look() -> FileState:
        fs, path = filesystem(url)
        fs.invalidate_cache()
        info = call_method(fs, "info", path, timeout=patience.timeout)
        versions = (
            "ETag",
            "etag",
            "Content-MD5",
            "md5Hash",
            "Last-Modified",
            "LastModified",
            "mtime",
            "created",
        )
        return FileState(
            info.get("size"),
            str(next((info[key] for key in versions if info.get(key)), "")),
        )

    return retry(look, url, patience.deadline)


def read_file(url: str, patience: Patience) -> bytes:
    """All of a small file."""

    def read() -> bytes:
        fs, path = filesystem(url)
        content: bytes = call_method(fs, "cat_file", path, timeout=patience.timeout)
        return content

    return retry(read, url, patience.deadline)


def read_ranges(
    requests: Sequence[tuple[str, int, int]], patience: Patience
) -> list[bytes]:
    """The bytes of each (url, start, stop), where neighbours share a request.

    All URLs are of one file system. Only requests that failed are sent again.

    Raises OSError naming a file.
    """
    order = sorted(range(len(requests)), key=lambda number: requests[number])
    runs: list[tuple[str, int, int, list[int]]] = []
    for number in order:
        url, start, stop = requests[number]
        if runs and runs[-1][0] == url and start - runs[-1][2] < _GAP:
            before = runs.pop()
            runs.append((url, before[1], max(before[2], stop), [*before[3], number]))
        else:
            runs.append((url, start, stop, [number]))
    got: dict[int, bytes] = {}

    def read() -> None:
        missing = [run for run in range(len(runs)) if run not in got]
        fs, _ = filesystem(runs[0][0])
        paths = [filesystem(runs[run][0])[1] for run in missing]
        starts = [runs[run][1] for run in missing]
        stops = [runs[run][2] for run in missing]
        found = call_method(
            fs,
            "cat_ranges",
            paths,
            starts,
            stops,
            on_error="return",
            timeout=patience.timeout,
        )
        failure: Exception | None = None
        for run, content in zip(missing, found, strict=True):
            url, start, stop, _ = runs[run]
            if isinstance(content, Exception):
                failure = content
            elif len(content) > stop - start:
                raise ShardChangedError(
                    f"the server of {url} ignores ranges; set storage.cache_gib above 0."
                )
            elif len(content) < stop - start:
                failure = EOFError(
                    f"{stop - start - len(content):,} of {stop - start:,} bytes of {url} "
                    "are missing"
                )
            else:
                got[run] = content
        if failure is not None:
            raise failure

    retry(
        read,
        runs[0][0]
        if len({run[0] for run in runs}) == 1
        else f"one of {len(runs)} ranges, the first of {runs[0][0]},",
        patience.deadline,
    )
    contents = [b""] * len(requests)
    for run, (_, first, _, numbers) in enumerate(runs):
        for number in numbers:
            _, start, stop = requests[number]
            contents[number] = got[run][start - first : stop - first]
    return contents


def download(url: str, file: BinaryIO, state: FileState, patience: Patience) -> int:
    """Copy a whole file, block by block: a failure costs one block. Returns the bytes written.

    A block that fails is requested again in halves, so that a slow line does not time out. A server
    that ignores ranges sends the whole file for the first block, which is used; a server that does
    not report a size gets one request for all.

    Raises OSError naming the file, also when its size is not that of its state.
    """
    if state.size is None:
        content = read_file(url, patience)
        file.write(content)
        return len(content)
    size = state.size
    done = 0
    block = BLOCK

    def read() -> bytes:
        nonlocal block
        fs, path = filesystem(url)
        stop = min(done + block, size)
        try:
            content: bytes = call_method(
                fs, "cat_file", path, start=done, end=stop, timeout=patience.timeout
            )
            if len(content) not in (stop - done, size):
                raise EOFError(
                    f"{len(content):,} bytes came where {stop - done:,} were requested"
                )
        except Exception:
            block = max(_SMALLEST, block // 2)
            raise
        block = min(BLOCK, block * 2)
        return content

    while done < size:
        content = retry(read, url, patience.deadline)
        if len(content) == size and done:  # the server has begun to ignore ranges
            file.seek(0)
            done = 0
        file.write(content)
        done += len(content)
    return done
