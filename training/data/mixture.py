"""Which source when: the batches of a global step, as a pure function of the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..config import Stage
from ..schedule import interleave, place_of, tasks_at
from .order import Order


class BatchPlace(NamedTuple):
    """One global batch: whose, and where in its source."""

    stage: int
    task: str
    source: str
    epoch: int
    step: int  # within the source's epoch


Orders = Mapping[tuple[int, str, str], Order]  # by stage, task and source


def batches_at(stages: Sequence[Stage], orders: Orders, step: int) -> list[BatchPlace]:
    """The global batches of a step: `accumulate` of one task with `schedule: alternate`, of each with `joint`.

    Those of one task are of one source.
    """
    stage_number, stage_step = place_of(stages, step)
    stage = stages[stage_number]
    places = []
    for task, task_step in tasks_at(stage, stage_step):
        sources, accumulate = stage.tasks[task].sources, stage.tasks[task].accumulate
        index, source_step = interleave(task_step, [source.weight for source in sources.values()])
        source = list(sources)[index]
        for batch in range(source_step * accumulate, (source_step + 1) * accumulate):
            epoch, epoch_step = divmod(batch, orders[stage_number, task, source].steps_per_epoch)
            places.append(BatchPlace(stage_number, task, source, epoch, epoch_step))
    return places
