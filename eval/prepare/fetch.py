"""Files from the hub, from GitHub and from a URL: retried, resumed, and complete or missing."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from unimodal.files import part_of, sync
from unimodal.progress import Advance
from unimodal.shards.storage import Patience, retry

GITHUB = "https://codeload.github.com"
_NOT_THERE = (401, 403, 404, 410)
# An origin that has never answered is given up after these, whichever comes first.
_FIRST_TRIES = 5
_FIRST_SECONDS = 8.0
_HTTP_CLIENTS = ("httpx", "httpx2", "httpcore", "requests", "urllib3")

_T = TypeVar("_T")


def fetch_from_hub(
    repository: str,
    revision: str,
    files: list[str],
    folder: Path,
    patience: Patience,
    reached: set[str] | None = None,
) -> str:
    """Download the matching files of a data set repository into a folder; returns their commit.

    HF_ENDPOINT names the hub, and the token comes from HF_TOKEN or `hf auth login`. Complete files
    are kept, partial ones are resumed. reached: the origins that have answered, to which this one
    is added; any other that cannot be reached is given up within seconds.

    Raises ValueError if the hub does not have the repository, the revision or the files, or denies
    them; OSError if it cannot be reached.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    # not the library's constant alone: the variable may have been set after its import
    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    reached = set() if reached is None else reached

    def bring() -> str:
        hub = HfApi(endpoint=endpoint)
        with _translate_errors(repository, revision, endpoint):
            commit = hub.dataset_info(
                repository, revision=revision, timeout=patience.timeout
            ).sha
            reached.add(endpoint)
            snapshot_download(
                repository,
                repo_type="dataset",
                revision=commit,
                local_dir=folder,
                allow_patterns=files,
                endpoint=endpoint,
            )
        return str(commit)

    try:
        commit = _fetch(
            bring, repository, f"data set {repository}", endpoint, patience, reached
        )
    except _RefusedError as refused:
        raise ValueError(str(refused)) from None
    return commit


@contextmanager
def _translate_errors(repository: str, revision: str, endpoint: str) -> Iterator[None]:
    """Tell refusals from errors of the network, which are OSError and are retried."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        raise _RefusedError(
            f"{repository} is gated; accept its terms on its page and set HF_TOKEN."
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise _RefusedError(
            f"the hub has no data set {repository!r} at {revision!r}; if it is private, set "
            "HF_TOKEN."
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 500
        if 400 <= status < 500 and status not in (408, 425, 429):
            raise _RefusedError(
                f"the hub refuses data set {repository!r} ({status}); check the name and HF_TOKEN."
            ) from None
        raise
    except OfflineModeIsEnabled:
        raise _UnreachableError(
            f"{repository} could not be fetched: HF_HUB_OFFLINE is set, which forbids "
            f"{endpoint}; unset it."
        ) from None
    except OSError:
        raise
    except Exception as error:  # the library has changed its HTTP client before
        package = type(error).__module__.partition(".")[0]
        if package in _HTTP_CLIENTS:
            raise ConnectionError(str(error)) from error
        raise


class _RefusedError(Exception):
    """The hub refuses for good. Not an OSError, which would be retried."""


class _UnreachableError(Exception):
    """An origin cannot be reached. Not an OSError, which would be retried."""


def fetch_file(
    url: str,
    path: Path,
    patience: Patience,
    max_bytes: int,
    advance: Advance | Callable[[int], Any] = lambda done: None,
    reached: set[str] | None = None,
) -> None:
    """Download a file; resumes an earlier try if the server supports that.

    path: of the complete file; until then it is PATH.part. max_bytes: the largest size allowed.
    advance: called with the bytes so far. reached: see `fetch_from_hub`.

    Raises FileNotFoundError or OSError naming the URL, ValueError if it is too large.
    """
    part = part_of(path)
    tag = path.with_name(f"{path.name}.etag")
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = urllib.parse.urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc}"
    reached = set() if reached is None else reached

    def bring() -> None:
        have = part.stat().st_size if part.is_file() and tag.is_file() else 0
        headers = {"User-Agent": "unimodal"}
        if have:  # only if the file is still the same
            headers |= {
                "Range": f"bytes={have}-",
                "If-Range": tag.read_text(encoding="utf-8"),
            }
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, headers=headers), timeout=patience.timeout
            ) as answer:
                reached.add(origin)
                _receive(answer, have)
        except urllib.error.HTTPError as error:
            # The part is complete, or the file has become shorter.
            if error.code == 416:
                tag.unlink(missing_ok=True)
                raise EOFError("the parts do not match") from None
            if error.code in _NOT_THERE:
                raise FileNotFoundError(url) from error
            raise
        except http.client.HTTPException as error:
            raise EOFError(f"the answer broke off ({type(error).__name__})") from None

    def _receive(answer: Any, have: int) -> None:
        continues = answer.status == 206
        total = answer.headers.get("Content-Length")
        expected = int(total) + (have if continues else 0) if total else None
        if expected is not None and expected > max_bytes:
            raise ValueError(
                f"{url} has {expected:,} bytes, more than the {max_bytes:,} expected; is it the "
                "right file?"
            )
        etag = answer.headers.get("ETag") or ""
        if etag and not etag.startswith("W/"):  # a weak tag does not identify bytes
            tag.write_text(etag, encoding="utf-8")
        elif not continues:
            tag.unlink(missing_ok=True)
        done = have if continues else 0
        with part.open("ab" if continues else "wb") as file:
            while block := answer.read(1 << 18):
                done += len(block)
                if done > max_bytes:
                    raise ValueError(
                        f"{url} has more than {max_bytes:,} bytes; is it the right file?"
                    )
                file.write(block)
                advance(done)
        if expected is not None and done != expected:
            raise EOFError(f"{done:,} of {expected:,} bytes arrived")

    _fetch(bring, url, url, origin, patience, reached)
    sync(part)
    part.replace(path)
    tag.unlink(missing_ok=True)


def _fetch(
    bring: Callable[[], _T],
    name: str,
    what: str,
    origin: str,
    patience: Patience,
    reached: set[str],
) -> _T:
    """retry(bring), but gives up soon on an origin that cannot be reached and has never
    answered.
    """
    started = time.monotonic()
    tries = 0

    def first_contact() -> _T:
        nonlocal tries
        tries += 1
        try:
            return bring()
        except Exception as error:
            cause = _unreachable_cause(error)
            if cause is None or origin in reached:
                raise
            if tries < _FIRST_TRIES and time.monotonic() - started < _FIRST_SECONDS:
                raise
            raise _UnreachableError(
                f"{name} could not be fetched: {origin} cannot be reached ({cause}); is "
                "there a network?"
            ) from error

    try:
        return retry(first_contact, what, patience.deadline)
    except _UnreachableError as error:
        raise OSError(str(error)) from error.__cause__


def _unreachable_cause(error: BaseException | None) -> OSError | None:
    """The unknown name, closed port or missing route that caused an error; None for others."""
    while error is not None:
        if isinstance(error, (socket.gaierror, ConnectionRefusedError)):
            return error
        if isinstance(error, OSError) and error.errno in (
            errno.ENETUNREACH,
            errno.EHOSTUNREACH,
        ):
            return error
        reason = getattr(error, "reason", None)  # of urllib's errors
        if not isinstance(reason, BaseException):
            reason = error.__cause__ or error.__context__
        error = reason
    return None
