"""The same units on a Ray cluster: CPU workers read and decode, GPU actors hold the model.

A unit's chunks come back to this process in any order, and its file is put in place by it when all
are there. So resuming depends on the files alone, and a run killed at any moment redoes the units
that were in flight.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .embed import Job, Plan, check_skipped, embed, known_before, prepare, write_unit
from .skipped import Skipped

if TYPE_CHECKING:
    from unimodal.embedder import Embedder

Rows = Mapping[str, Any]  # a batch of Ray's: a column's name -> its values


def embed_jobs_on_ray(
    plan: Plan,
    jobs: Sequence[Job],
    model: str,
    dtype: str,
    advance: Callable[[int], None],
) -> None:
    """As `bulk.embed_jobs`, on the cluster that $RAY_ADDRESS names, or one on this machine.

    model: is loaded by every actor, so it has to be there under the same name on every node, as do
        the input and the folder of the embeddings.
    """
    if not jobs:
        return
    ray = _ray()
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(logging_level="error", log_to_driver=False)
    try:
        done = 0
        parts: dict[int, dict[int, Rows]] = defaultdict(dict)
        for row in _embedded(ray, plan, list(jobs), model, dtype).iter_rows():
            number = row["job"]
            parts[number][row["chunk"]] = row
            done += row["rows"]
            advance(done)
            finished = _finished(parts[number])
            if finished is not None:
                skipped = [
                    Skipped(*one)
                    for part in finished
                    for one in json.loads(part["skipped"])
                ]
                check_skipped(plan, jobs, jobs[number], skipped)
                write_unit(
                    plan,
                    jobs[number],
                    [_table(part["table"]) for part in finished],
                    skipped,
                )
                del parts[number]
    finally:
        if is_ours:
            ray.shutdown()


def _embedded(ray: Any, plan: Plan, jobs: list[Job], model: str, dtype: str) -> Any:
    """A data set of chunks with vectors, which is computed as it is read."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    resources = ray.cluster_resources()
    need: dict[str, float]
    if resources.get("GPU"):  # as many actors as there are, or come to be, GPUs
        actors = ray.data.ActorPoolStrategy(min_size=1)
        need = {"num_gpus": 1}
    else:  # half of the cores: decoding needs some too, and waits for ever if there are none
        cores = int(resources["CPU"])
        actors = ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, cores // 2))
        # Ray makes one stage of two that need the same, as it should where there is but one core.
        need = {"num_cpus": 0.99 if cores > 1 else 1}
    numbers = ray.data.from_items(
        [{"job": number} for number in range(len(jobs))], override_num_blocks=len(jobs)
    )
    chunks = numbers.map_batches(_Decoder(plan, jobs), batch_size=1, num_cpus=1)
    words = (plan, model, dtype)
    return chunks.map_batches(
        _Encoder, fn_constructor_args=words, batch_size=1, compute=actors, **need
    )


def _finished(parts: Mapping[int, Rows]) -> list[Rows] | None:
    """The chunks of a unit in order, once all are there."""
    last = next((number for number, part in parts.items() if part["is_last"]), None)
    return (
        [parts[number] for number in range(last + 1)]
        if last is not None and len(parts) == last + 1
        else None
    )


class _Decoder:
    """A job's number -> the unit's chunks, decoded, one after the other as they are ready."""

    def __init__(self, plan: Plan, jobs: list[Job]) -> None:
        self.plan = plan
        self.jobs = jobs

    def __call__(self, batch: Rows) -> Iterator[dict[str, list[Any]]]:
        for number in batch["job"]:
            chunks = prepare(self.plan, self.jobs[number].unit)
            chunk = next(chunks)
            position = 0
            while True:
                coming = next(chunks, None)
                yield {
                    "job": [int(number)],
                    "chunk": [position],
                    "is_last": [coming is None],
                    "rows": [chunk.rows],
                    "skipped": [json.dumps(chunk.skipped)],
                    "table": [_bytes(chunk.table)],
                }
                if coming is None:
                    break
                chunk = coming
                position = position + 1


class _Encoder:
    """Holds a model, and turns chunks that are decoded into such with vectors."""

    def __init__(self, plan: Plan, model: str, dtype: str) -> None:
        from unimodal.embedder import load

        self.plan, self.before = plan, known_before(plan)
        self.embedder: Embedder = load(
            model, dtype=dtype, calibrated=plan.config.calibrated
        )

    def __call__(self, batch: Rows) -> dict[str, Any]:
        tables = [
            _bytes(embed(self.plan, _table(table), self.embedder, self.before))
            for table in batch["table"]
        ]
        return {**batch, "table": tables}


def _bytes(table: Any) -> bytes:
    import pyarrow as pa

    file = io.BytesIO()
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def _table(content: bytes) -> Any:
    import pyarrow as pa

    return pa.ipc.open_stream(content).read_all()


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise ImportError(
            'embedding on a cluster needs Ray: pip install "unimodal[ray]"'
        ) from None
    return ray
