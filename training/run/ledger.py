"""What a model has seen: RUN/ledger.json, its sources by epoch, and RUN/shards.jsonl, every shard
with its digest.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unimodal.files import replace_text

from ..data.loader import StepDataset
from .resume import LEDGER, SHARDS


def write_shards(run: Path, dataset: StepDataset) -> None:
    """Write RUN/shards.jsonl: path, name, samples and hashes of every shard, and why it is cut
    short, or "".
    """
    replace_text(
        run / SHARDS, "".join(json.dumps(row) + "\n" for row in dataset.shard_rows())
    )


def write_ledger(
    run: Path, dataset: StepDataset, step: int, skipped: int, changes: Sequence[str]
) -> None:
    """Write RUN/ledger.json: how many samples of which source in which of its epochs the first
    `step` steps had.

    skipped: corrupt samples that others stood in for. changes: of the weights, a sentence each.
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
    """The ledger in a sentence: what a model card says of the data."""
    totals: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for row in dataset.seen(step):
        samples = row["samples"] * (row["last_epoch"] - row["epoch"] + 1)
        totals[row["path"]] = totals.get(row["path"], 0) + samples
        sizes[row["path"]] = row["of"]
    seen = [
        f"{path} ({count:,} samples, {count / sizes[path]:.2f} epochs)"
        for path, count in sorted(totals.items())
    ]
    return ", ".join(seen)


def check_shards(run: Path, before: dict[str, str], dataset: StepDataset) -> None:
    """Raise ValueError, naming the first shard, unless the shards are those whose fingerprints are
    given.
    """
    now = dataset.fingerprints()
    changed = [path for path in now if before.get(path) != now[path]]
    known = {(row["path"], row["shard"]): row for row in _read(run / SHARDS)}
    rows = {(row["path"], row["shard"]): row for row in dataset.shard_rows()}
    other = [
        key for key, row in rows.items() if key in known and _differ(row, known[key])
    ]
    gone = [key for key in known if key[0] in changed and key not in rows]
    new = [key for key in rows if key[0] in changed and known and key not in known]
    verbs = ((other, "was written again"), (gone, "is gone"), (new, "is new"))
    what = [f"{name} of {path!r} {verb}" for keys, verb in verbs for path, name in keys]
    if changed or what:
        more = f" (and {len(what) - 1} more)" if len(what) > 1 else ""
        raise ValueError(
            f"the shards are not those that {run} was trained on: "
            f"{what[0] if what else repr(changed[0])}{more}; bring those back, or start a new "
            "run."
        )


def _differ(row: dict[str, Any], before: dict[str, Any]) -> bool:
    contents = (row["contents"], before["contents"])
    return bool(
        row["digest"] != before["digest"]
        or (all(contents) and contents[0] != contents[1])
    )


def cut_shards(dataset: StepDataset) -> list[dict[str, Any]]:
    """Rows for RUN/skipped.jsonl of the shards that are cut short, with a warning
    that counts them.
    """
    cut = [
        (str(shard), reason)
        for shards in dataset.shards.values()
        for shard, reason in shards.truncated.items()
    ]
    if cut:
        more = f" and {len(cut) - 1} more" if len(cut) > 1 else ""
        warnings.warn(
            f"{cut[0][0]}{more} is cut short ({cut[0][1]}): its whole samples are used, what was "
            "behind them is lost; fetch or pack it again.",
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
