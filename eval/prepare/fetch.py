"""Files from the hub, from GitHub and from a URL: retried, taken up where they were
left, and whole.
"""

from __future__ import annotations

import errno
import http.client
import os
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from unimodal.files import part_of, sync
from unimodal.progress import Advance
from unimodal.shards.storage import Patience, retry

GITHUB = "https://codeload.github.com"
_NOT_THERE = (401, 403, 404, 410)
_FIRST_TRIES = 5
_FIRST_SECONDS = 8.0  # of an origin that was never reached, whichever comes first

_T = TypeVar("_T")


def fetch_from_hub(
    repository: str,
    revision: str,
    files: list[str],
    folder: Path,
    patience: Patience,
    reached: set[str] | None = None,
) -> str:
    """Bring the wanted files of a data set repository into a folder; returns the commit that they
    are of.

    The hub is that of HF_ENDPOINT, the token that of HF_TOKEN or `hf auth login`. Files that are
    there already are not asked for again, and half of a file is taken up. reached: the origins that
    have answered, this one added; one that is not among them and cannot be reached is given up
    within seconds.

    Raises ValueError if the hub has no such repository, revision or files, or does not let us have
    them; OSError when it cannot be reached.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # Not what the library read when it was imported: that may have been before the variable was
    # set.
    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    reached = set() if reached is None else reached

    def bring() -> str:
        try:
            commit = (
                HfApi(endpoint=endpoint)
                .dataset_info(repository, revision=revision, timeout=patience.timeout)
                .sha
            )
            reached.add(endpoint)
            snapshot_download(
                repository,
                repo_type="dataset",
                revision=commit,
                local_dir=folder,
                allow_patterns=files,
                endpoint=endpoint,
            )
        except GatedRepoError:
            raise _RefusedError(
                f"{repository} asks for its terms to be accepted on its page; do so, and "
                "set HF_TOKEN."
            ) from None
        except (RepositoryNotFoundError, RevisionNotFoundError):
            raise _RefusedError(
                f"the hub has no data set {repository!r} at {revision!r}; is it private (HF_TOKEN)?"
            ) from None
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 500
            if 400 <= status < 500 and status not in (408, 425, 429):
                raise _RefusedError(
                    f"the hub refuses data set {repository!r} ({status}); check the name "
                    "and HF_TOKEN."
                ) from None
            raise
        except OfflineModeIsEnabled:
            raise _UnreachableError(
                f"{repository} could not be fetched: {endpoint} must not be asked "
                "(HF_HUB_OFFLINE is set); unset it."
            ) from None
        except OSError:
            raise
        except (
            Exception
        ) as error:  # of its HTTP client, of which there were three by now
            if type(error).__module__.partition(".")[0] in (
                "httpx",
                "httpx2",
                "httpcore",
                "requests",
                "urllib3",
            ):
                raise ConnectionError(str(error)) from error
            raise
        return str(commit)

    try:
        commit = _fetch(
            bring, repository, f"data set {repository}", endpoint, patience, reached
        )
    except _RefusedError as refused:
        raise ValueError(str(refused)) from None
    return commit


class _RefusedError(Exception):
    """The hub's last word. No OSError, which would be tried again."""


class _UnreachableError(Exception):
    """There is no way to an origin. No OSError, which would be tried again."""


def fetch_file(
    url: str,
    path: Path,
    patience: Patience,
    max_bytes: int,
    advance: Advance | Callable[[int], Any] = lambda done: None,
    reached: set[str] | None = None,
) -> None:
    """Download a file; what an earlier try left of it is taken up where the server can do that.

    path: where it goes once it is whole; until then it is PATH.part. max_bytes: more is refused.
    advance: told the bytes that are there. reached: as for `fetch_from_hub`.

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
            if error.code == 416:  # all of it is here, or it has become shorter
                tag.unlink(missing_ok=True)
                raise EOFError("its parts do not fit together") from None
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
                f"{url} has {expected:,} bytes, more than the {max_bytes:,} that it "
                "should; is it the right file?"
            )
        etag = answer.headers.get("ETag") or ""
        if etag and not etag.startswith("W/"):  # a weak one says nothing of the bytes
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
            raise EOFError(f"{done:,} of {expected:,} bytes came")

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
    """retry(bring), but an origin that no way leads to is given up soon, unless it has
    answered before.
    """
    started = time.monotonic()
    tries = 0

    def first_contact() -> _T:
        nonlocal tries
        tries += 1
        try:
            return bring()
        except Exception as error:
            no_way = _no_way(error)
            if no_way is None or origin in reached:
                raise
            if tries < _FIRST_TRIES and time.monotonic() - started < _FIRST_SECONDS:
                raise
            raise _UnreachableError(
                f"{name} could not be fetched: {origin} cannot be reached ({no_way}); is "
                "there a network?"
            ) from error

    try:
        return retry(first_contact, what, patience.deadline)
    except _UnreachableError as error:
        raise OSError(str(error)) from error.__cause__


def _no_way(error: BaseException | None) -> OSError | None:
    """What stands behind an error if it is an unknown name, a closed port or a missing route."""
    while error is not None:
        if isinstance(error, (socket.gaierror, ConnectionRefusedError)):
            return error
        if isinstance(error, OSError) and error.errno in (
            errno.ENETUNREACH,
            errno.EHOSTUNREACH,
        ):
            return error
        reason = getattr(error, "reason", None)  # urllib's
        error = (
            reason
            if isinstance(reason, BaseException)
            else error.__cause__ or error.__context__
        )
    return None
