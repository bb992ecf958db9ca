"""What a model has seen: RUN/ledger.json (sources by epoch) and RUN/shards.jsonl (shards)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unimodal.files import replace_text

from ..data.dataset import StepDataset
from .resume import LEDGER, SHARDS


def write_shards(run: Path, dataset: StepDataset) -> None:
    """Write RUN/shards.jsonl, a row per shard; see `StepDataset.shard_rows`."""
    lines = [json.dumps(row) + "\n" for row in dataset.shard_rows()]
    replace_text(run / SHARDS, "".join(lines))


def write_ledger(
    run: Path, dataset: StepDataset, step: int, skipped: int, changes: Sequence[str]
) -> None:
    """Write RUN/ledger.json: the samples of each source by epoch in the first `step` steps.

    skipped: corrupt samples that were replaced.
    changes: of the weights at a resume, one sentence per change.
    """
    ledger = {
        "step": step,
        "skipped": skipped,
        "changes": list(changes),
        "shards": dataset.fingerprints(),
        "seen": dataset.seen(step),
    }
    replace_text(run / LEDGER, json.dumps(ledger, indent=1) + "\n")


def describe_seen(dataset: StepDataset, step: int) -> str:
    """Describe the data in a phrase, for the model card."""
    totals: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for row in dataset.seen(step):
        samples = row["samples"] * (row["last_epoch"] - row["epoch"] + 1)
        totals[row["path"]] = totals.get(row["path"], 0) + samples
        sizes[row["path"]] = row["of"]
    parts = []
    for path, count in sorted(totals.items()):
        parts.append(f"{path} ({count:,} samples, {count / sizes[path]:.2f} epochs)")
    return ", ".join(parts)


def check_shards(run: Path, before: dict[str, str], dataset: StepDataset) -> None:
    """Raise ValueError, naming the first shard, unless the fingerprints are as before."""
    now = dataset.fingerprints()
    changed_paths = [path for path in now if before.get(path) != now[path]]
    old_rows = {_key(row): row for row in _read(run / SHARDS)}
    new_rows = {_key(row): row for row in dataset.shard_rows()}

    changes = []
    for key, row in new_rows.items():
        if key in old_rows and _differ(row, old_rows[key]):
            changes.append(_describe_shard(key, "was written again"))
    for key in old_rows:
        if key.path in changed_paths and key not in new_rows:
            changes.append(_describe_shard(key, "is gone"))
    for key in new_rows:
        if key.path in changed_paths and old_rows and key not in old_rows:
            changes.append(_describe_shard(key, "is new"))
    if not changed_paths and not changes:
        return
    first = changes[0] if changes else repr(changed_paths[0])
    more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
    raise ValueError(
        f"the shards are not those that {run} was trained on: {first}{more}; restore those, or "
        "start another run."
    )


class _ShardKey(NamedTuple):
    path: str
    shard: str


def _key(row: dict[str, Any]) -> _ShardKey:
    return _ShardKey(row["path"], row["shard"])


def _describe_shard(key: _ShardKey, change: str) -> str:
    return f"{key.shard} of {key.path!r} {change}"


def _differ(row: dict[str, Any], before: dict[str, Any]) -> bool:
    if row["digest"] != before["digest"]:
        return True
    new = row["contents"]
    old = before["contents"]
    return bool(new and old and new != old)


def cut_shards(dataset: StepDataset) -> list[dict[str, Any]]:
    """Warn of the shards that are cut short; returns rows for RUN/skipped.jsonl."""
    cut = []
    for shards in dataset.shards.values():
        cut += [(str(shard), reason) for shard, reason in shards.truncated.items()]
    if cut:
        more = f" and {len(cut) - 1} more" if len(cut) > 1 else ""
        warnings.warn(
            f"{cut[0][0]}{more} is cut short ({cut[0][1]}): its complete samples are used, the "
            "rest is lost; fetch or pack it again.",
            stacklevel=2,
        )
    return [
        {"step": 0, "shard": shard, "key": "", "reason": reason}
        for shard, reason in cut
    ]


def _read(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
