"""Write checkpoints in the background: copied at the step, then written and checked by a thread.

RUN/checkpoints/step-N is a model directory with optimizer/ (the moments), state.json and
checksums.json. It is written as step-N.part, flushed to disk (fsync) and renamed, so that a process
killed at any point leaves whole checkpoints and a .part. An older one is removed only once the new
one has been read back.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor

from unimodal import distributed
from unimodal.files import Checksum, checksum_of, part_of, remove_folder, replace_folder
from unimodal.formats.native import model_writers
from unimodal.model_config import ModelConfig
from unimodal.preprocess.tokenizers import Tokenizer

from .checksums import problem_of, write_checksums
from .moments import FOLDER, Moments, write_moments
from .resume import (
    RunState,
    checkpoint_folder,
    checkpoints,
    remove_leftovers,
    step_of,
    write_state,
)
from .uploads import Abandoned, Uploads


class Snapshot(NamedTuple):
    """The contents of a checkpoint in host memory, which later steps do not change."""

    config: ModelConfig
    weights: dict[str, Tensor]  # whole; on rank 0
    moments: Moments  # this rank's
    state: RunState
    card: str  # README.md

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return self.state.step


class Saver:
    """One rank's thread that writes checkpoints, one at a time.

    Unless the weights are sharded, only rank 0 writes. Every rank calls save, wait, abandon and
    close at the same steps. A full disk, or a mirror that cannot be reached, is a message in
    `failures`, and training continues.
    """

    def __init__(
        self,
        run: Path,
        tokenizer: Tokenizer | None,
        keep: int,
        mirror: str,
        newest: Path | None,
        sharded: bool,
    ) -> None:
        """newest: the checked checkpoint that the run resumes from. sharded: every rank writes."""
        self._run = run
        self._tokenizer = tokenizer
        self._keep = keep
        self._uploads = (
            Uploads(run, mirror, keep) if mirror and distributed.rank() == 0 else None
        )
        self.newest = newest  # on rank 0: the newest that is whole
        self._good = {newest.name} if newest is not None else set()
        self._last: Snapshot | None = None  # passed to `save` last, finished or not
        self._thread: threading.Thread | None = None
        self._abandon = threading.Event()
        self._hurries = False
        self._failures: list[str] = []
        self._errors: list[BaseException] = []
        self._writes = sharded or distributed.rank() == 0
        if distributed.rank() == 0:
            # No other rank can write yet: it waits for this one in the next lines.
            remove_leftovers(run)
        # The threads of all ranks have a process group of their own. A dead peer is detected by
        # the main threads.
        self._group: Any = None
        if sharded and distributed.world_size() > 1:
            self._group = dist.new_group(backend="gloo", timeout=timedelta(days=7))

    @property
    def newest_step(self) -> int:
        """On rank 0: the step of the newest checkpoint that is whole; 0 if there is none."""
        return step_of(self.newest) if self.newest is not None else 0

    def save(self, snapshot: Snapshot) -> None:
        """Start to write a snapshot; call `wait` first."""
        self._abandon.clear()
        self._last = snapshot
        if self._writes:
            self._thread = threading.Thread(
                target=self._work, args=(snapshot,), daemon=True, name="saver"
            )
            self._thread.start()

    @property
    def spare(self) -> Snapshot | None:
        """The last snapshot; the next one may reuse its memory after `wait`."""
        return self._last

    def wait(self) -> None:
        """Wait until every rank has finished writing; does not wait for the mirror."""
        while True:
            if self._thread is not None:
                self._thread.join(timeout=5.0)
            is_busy = self._thread is not None and self._thread.is_alive()
            if not distributed.all_reduce_sum([is_busy])[0]:
                return

    def abandon(self, step: int) -> None:
        """Cancel the write in progress, unless it is of this step: a later step will be written.

        From now on uploads have little time, and those of other steps are cancelled.
        """
        self._hurries = True
        if self._last is not None and self._last.step != step:
            self._abandon.set()
        if self._uploads is not None:
            self._uploads.give_up(
                "the run stops", but=checkpoint_folder(self._run, step)
            )

    def close(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Wait until all is written and, for a limited time, until the mirror has its copy.

        should_stop: whether this rank was asked to stop, which shortens the wait.
        """
        self.wait()
        started = time.monotonic()
        uploads = self._uploads
        allowed = uploads.time_left(self._hurries) if uploads is not None else 0.0
        while True:
            left = started + allowed - time.monotonic()
            is_busy = uploads is not None and not uploads.wait(min(1.0, max(0.0, left)))
            num_busy, num_asked = distributed.all_reduce_sum(
                [is_busy and left > 0, should_stop()]
            )
            if not num_busy:
                break
            if num_asked and uploads is not None:
                allowed = min(allowed, uploads.time_left(is_stopping=True))
        if uploads is not None:
            uploads.give_up(f"not within {allowed:g} s of the end")
            uploads.report_unfinished()
            newest = (
                f"the newest is {self.newest.name}"
                if self.newest is not None
                else "there is none"
            )
            with self._noting_failure("older checkpoints could not be removed", newest):
                self._prune()  # the one that was being copied may be one too many

    def failures(self) -> list[str]:
        """One message for each failed write since the last call.

        Raises an error of the thread that is not the fault of the storage.
        """
        if self._errors:
            raise self._errors.pop()
        uploads = self._uploads.failures if self._uploads is not None else []
        messages = []
        for failures in (self._failures, uploads):
            # The threads append meanwhile: take only what is there now.
            for _ in range(len(failures)):
                messages.append(failures.pop(0))
        return messages

    def _work(self, snapshot: Snapshot) -> None:
        try:
            folder = checkpoint_folder(self._run, snapshot.step)
            newest = (
                f"the newest is {self.newest.name}"
                if self.newest is not None
                else "there is none yet"
            )
            with self._noting_failure(
                f"checkpoint {folder.name} could not be written", newest
            ):
                self._write(folder, snapshot)
            if distributed.rank() or self.newest != folder:
                return
            if self._uploads is not None:
                self._uploads.add(folder)
            with self._noting_failure(
                "older checkpoints could not be removed", f"the newest is {folder.name}"
            ):
                self._prune()
        except Abandoned:
            pass
        except BaseException as error:  # handed to the main thread, which raises it
            self._errors.append(error)

    @contextmanager
    def _noting_failure(self, failed: str, state: str) -> Iterator[None]:
        try:
            yield
        except Abandoned:
            raise
        except OSError as error:
            self._failures.append(
                f"{failed} ({error}); {state}, and training continues."
            )

    def _write(self, folder: Path, snapshot: Snapshot) -> None:
        """Write this rank's files of step-N.part; rank 0 renames it once all ranks have written."""
        part = part_of(folder)
        checksums: dict[str, Checksum] = {}
        failure: Exception | None = None
        try:
            for write in self._writers(part, snapshot):
                self._check_abandoned()
                write()
            for file in self._own_files(part):
                self._check_abandoned()
                checksums[file.relative_to(part).as_posix()] = checksum_of(file)
        except (OSError, Abandoned) as error:
            failure = error
        results = self._gather((failure, checksums))
        if distributed.rank():
            return
        try:
            for other, of_rank in results:
                if other is not None:
                    raise other
                checksums.update(of_rank)
            self._complete(part, folder, checksums)
        except (OSError, Abandoned):
            shutil.rmtree(part, ignore_errors=True)
            raise
        self._good.add(folder.name)
        self.newest = folder

    def _writers(self, part: Path, snapshot: Snapshot) -> list[Callable[[], None]]:
        """The calls that write this rank's files, one per file."""
        writers: list[Callable[[], None]] = [
            lambda: (part / FOLDER).mkdir(parents=True, exist_ok=True),
            lambda: write_moments(part, snapshot.moments),
        ]
        if distributed.rank() == 0:
            writers += model_writers(
                part, snapshot.config, snapshot.weights, self._tokenizer, snapshot.card
            )
            writers.append(lambda: write_state(part, snapshot.state))
        return writers

    def _own_files(self, part: Path) -> list[Path]:
        pattern = f"{FOLDER}/rank-{distributed.rank():05d}-of-*"
        if distributed.rank():
            return list(part.glob(pattern))
        return [
            *part.glob(pattern),
            *(file for file in part.iterdir() if file.is_file()),
        ]

    def _complete(
        self, part: Path, folder: Path, checksums: dict[str, Checksum]
    ) -> None:
        self._check_abandoned()
        write_checksums(part, checksums)
        replace_folder(part, folder)
        problem = problem_of(folder)  # read back before anything older is removed
        if problem:
            remove_folder(folder)
            raise OSError(
                f"the checkpoint read back differs from what was written: {problem}"
            )

    def _gather(self, value: Any) -> list[Any]:
        """The values of all ranks that write; also a barrier, since all must have written."""
        if self._group is None:
            return [value]
        return distributed.all_gather_objects(
            value, "writing a checkpoint", self._group
        )

    def _check_abandoned(self) -> None:
        if self._abandon.is_set():
            raise Abandoned

    def _prune(self) -> None:
        """Keep the newest `keep` good checkpoints and the one being uploaded; remove the others.

        A checkpoint that is not known to be good is verified first.
        """
        num_good = 0
        for folder in reversed(checkpoints(self._run)):
            is_wanted = (
                step_of(folder) <= step_of(self.newest or folder)
                and num_good < self._keep
            )
            if is_wanted and (folder.name in self._good or not problem_of(folder)):
                self._good.add(folder.name)
                num_good += 1
            elif self._uploads is None or folder != self._uploads.current:
                remove_folder(folder)
