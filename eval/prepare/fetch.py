"""Files from the hub, from GitHub and from a URL: tried persistently, taken up where they were left, and whole."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unimodal.progress import Advance
from unimodal.shards.storage import Patience, persistently

GITHUB = "https://codeload.github.com"
_NOT_THERE = (401, 403, 404, 410)


def fetch_from_hub(repository: str, revision: str, files: list[str], folder: Path, patience: Patience) -> str:
    """Bring the wanted files of a data set repository into a folder; returns the commit that they are of.

    The hub is that of HF_ENDPOINT, the token that of HF_TOKEN or `hf auth login`. Files that are there already are
    not asked for again, and half of a file is taken up.

    Raises ValueError if the hub has no such repository, revision or files, or does not let us have them; OSError when
    it cannot be reached.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    # Not what the library read when it was imported: that may have been before the variable was set.
    endpoint = os.environ.get("HF_ENDPOINT") or None

    def bring() -> str:
        try:
            commit = HfApi(endpoint=endpoint).dataset_info(repository, revision=revision, timeout=patience.timeout).sha
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
                f"{repository} asks for its terms to be accepted on its page; do so, and set HF_TOKEN."
            ) from None
        except (RepositoryNotFoundError, RevisionNotFoundError):
            raise _RefusedError(
                f"the hub has no data set {repository!r} at {revision!r}; is it private (HF_TOKEN)?"
            ) from None
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 500
            if 400 <= status < 500 and status not in (408, 425, 429):
                raise _RefusedError(
                    f"the hub refuses data set {repository!r} ({status}); check the name and HF_TOKEN."
                ) from None
            raise
        except OSError:
            raise
        except Exception as error:  # of its HTTP client, of which there were three by now
            if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "requests", "urllib3"):
                raise ConnectionError(str(error)) from error
            raise
        return str(commit)

    try:
        commit = persistently(bring, f"data set {repository}", patience.deadline)
    except _RefusedError as refused:
        raise ValueError(str(refused)) from None
    return commit


class _RefusedError(Exception):
    """The hub's last word. No OSError, which would be tried again."""


def fetch_file(
    url: str,
    path: Path,
    patience: Patience,
    max_bytes: int,
    advance: Advance | Callable[[int], Any] = lambda done: None,
) -> None:
    """Download a file; what an earlier try left of it is taken up where the server can do that.

    path: where it goes once it is whole; until then it is PATH.partial. max_bytes: more is refused.
    advance: told the bytes that are there.

    Raises FileNotFoundError or OSError naming the URL, ValueError if it is too large.
    """
    partial, tag = path.with_name(f"{path.name}.partial"), path.with_name(f"{path.name}.etag")
    path.parent.mkdir(parents=True, exist_ok=True)

    def bring() -> None:
        have = partial.stat().st_size if partial.is_file() and tag.is_file() else 0
        headers = {"User-Agent": "unimodal"}
        if have:  # only if the file is still the same
            headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text(encoding="utf-8")}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, headers=headers), timeout=patience.timeout
            ) as answer:
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
                f"{url} has {expected:,} bytes, more than the {max_bytes:,} that it should; is it the right file?"
            )
        etag = answer.headers.get("ETag") or ""
        if etag and not etag.startswith("W/"):  # a weak one says nothing of the bytes
            tag.write_text(etag, encoding="utf-8")
        elif not continues:
            tag.unlink(missing_ok=True)
        done = have if continues else 0
        with partial.open("ab" if continues else "wb") as file:
            while block := answer.read(1 << 18):
                done += len(block)
                if done > max_bytes:
                    raise ValueError(f"{url} has more than {max_bytes:,} bytes; is it the right file?")
                file.write(block)
                advance(done)
        if expected is not None and done != expected:
            raise EOFError(f"{done:,} of {expected:,} bytes came")

    persistently(bring, url, patience.deadline)
    partial.replace(path)
    tag.unlink(missing_ok=True)
