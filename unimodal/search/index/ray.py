"""The same partitions on a Ray cluster: CPU workers read and decode, GPU actors hold the model.

The blocks of a partition come back to this process in any order; it writes the partition's file
when all are there. So resuming depends on the files alone, and a run killed at any moment redoes
the partitions that were in flight.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .decode import decode_partition
from .embed import check_skipped, embed, known_vectors, write_partition
from .plan import Job, Plan
from .skipped import Skipped

if TYPE_CHECKING:
    from unimodal.embedder import Embedder

Columns = Mapping[str, Any]  # a batch of Ray's: a column's name -> its values


def embed_jobs_on_ray(
    plan: Plan,
    jobs: Sequence[Job],
    model: str,
    dtype: str,
    advance: Callable[[int], None],
) -> None:
    """As `embed_jobs`, on the cluster that $RAY_ADDRESS names, or on one on this machine.

    model: every actor loads it, so it has to be on every node under the same name, as do the input
        and the folder of the embeddings.
    """
    if not jobs:
        return
    ray = _import_ray()
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(logging_level="error", log_to_driver=False)
    try:
        num_rows = 0
        blocks: dict[int, dict[int, Columns]] = defaultdict(dict)
        for row in _embedded(ray, plan, list(jobs), model, dtype).iter_rows():
            number = row["job"]
            blocks[number][row["block"]] = row
            num_rows += row["rows"]
            advance(num_rows)
            ordered = _in_order(blocks[number])
            if ordered is not None:
                _finish(plan, jobs, jobs[number], ordered)
                del blocks[number]
    finally:
        if is_ours:
            ray.shutdown()


def _finish(
    plan: Plan, jobs: Sequence[Job], job: Job, blocks: Sequence[Columns]
) -> None:
    """Write the file of a job; blocks: all of it."""
    skipped = []
    for block in blocks:
        for values in json.loads(block["skipped"]):
            skipped.append(Skipped(*values))
    check_skipped(plan, jobs, job, skipped)
    tables = [_as_table(block["table"]) for block in blocks]
    write_partition(plan, job, tables, skipped)


def _embedded(ray: Any, plan: Plan, jobs: list[Job], model: str, dtype: str) -> Any:
    """A data set of blocks with vectors, which is computed as it is read."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    resources = ray.cluster_resources()
    need: dict[str, float]
    if resources.get("GPU"):
        # As many actors as there are, or come to be, GPUs.
        actors = ray.data.ActorPoolStrategy(min_size=1)
        need = {"num_gpus": 1}
    else:
        # Half of the cores: decoding needs some too, and waits for ever if it gets none.
        cores = int(resources["CPU"])
        actors = ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, cores // 2))
        # Ray makes one stage of two that need the same, which is right where there is one core.
        need = {"num_cpus": 0.99 if cores > 1 else 1}
    numbers = ray.data.from_items(
        [{"job": number} for number in range(len(jobs))], override_num_blocks=len(jobs)
    )
    decoded = numbers.map_batches(_Decoder(plan, jobs), batch_size=1, num_cpus=1)
    return decoded.map_batches(
        _Encoder,
        fn_constructor_args=(plan, model, dtype),
        batch_size=1,
        compute=actors,
        **need,
    )


def _in_order(blocks: Mapping[int, Columns]) -> list[Columns] | None:
    """The blocks of a partition in order; None while some are missing."""
    last = next((number for number, block in blocks.items() if block["is_last"]), None)
    if last is None or len(blocks) <= last:
        return None
    return [blocks[number] for number in range(last + 1)]


class _Decoder:
    """A job's number -> the partition's blocks, decoded, one after the other as they are ready."""

    def __init__(self, plan: Plan, jobs: list[Job]) -> None:
        self.plan = plan
        self.jobs = jobs

    def __call__(self, batch: Columns) -> Iterator[dict[str, list[Any]]]:
        for number in batch["job"]:
            blocks = decode_partition(self.plan, self.jobs[number].partition)
            block = next(blocks)
            position = 0
            while True:
                coming = next(blocks, None)
                yield {
                    "job": [int(number)],
                    "block": [position],
                    "is_last": [coming is None],
                    "rows": [block.rows],
                    "skipped": [json.dumps(block.skipped)],
                    "table": [_as_bytes(block.table)],
                }
                if coming is None:
                    break
                block = coming
                position += 1


class _Encoder:
    """Holds a model, and adds vectors to decoded blocks."""

    def __init__(self, plan: Plan, model: str, dtype: str) -> None:
        from unimodal.embedder import load

        self.plan = plan
        self.known = known_vectors(plan)
        self.embedder: Embedder = load(
            model, dtype=dtype, calibrated=plan.config.calibrated
        )

    def __call__(self, batch: Columns) -> dict[str, Any]:
        tables = []
        for content in batch["table"]:
            table = embed(self.plan, _as_table(content), self.embedder, self.known)
            tables.append(_as_bytes(table))
        return {**batch, "table": tables}


def _as_bytes(table: Any) -> bytes:
    import pyarrow as pa

    file = io.BytesIO()
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def _as_table(content: bytes) -> Any:
    import pyarrow as pa

    return pa.ipc.open_stream(content).read_all()


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise ImportError(
            'embedding on a cluster needs Ray: pip install "unimodal[ray]"'
        ) from None
    return ray
