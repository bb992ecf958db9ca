"""Which source comes when: a pure function of the position, in stretches of constant weights.

A stretch ends where a source has had its `epochs`, or where a run was resumed with other weights.
It is stored with the counts at its start, so that the past is never computed from weights that it
did not have.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from ..config import Stage, TaskConfig
from ..schedule import counts_before, interleave, place_of, task_steps_before, tasks_at
from .order import Order


class BatchPlace(NamedTuple):
    """One global batch: its task and source, and where in the source it lies.

    A mixed batch names all its sources, and `step` is its number.
    """

    stage: int
    task: str
    source: str
    epoch: int
    step: int  # within the source's epoch


def make_order(
    name: str,
    task: TaskConfig,
    source: str,
    sizes: Sequence[int],
    key: tuple[object, ...],
) -> Order:
    """The order of one source of a task.

    sizes: samples in each shard. Raises ValueError, with a way out that works, if they do not fill
        one batch.
    """
    num_samples = sum(sizes)
    num_streams = task.num_streams
    # In mixed batches a source gives each stream one sample at a time.
    batch = num_streams if task.mixed else task.global_batch
    if num_samples // num_streams < batch // num_streams:
        if task.mixed:
            wanted = f"streams {num_streams}"
            way_out = _way_out_mixed(task, num_samples)
        else:
            wanted = f"global_batch {task.global_batch}"
            way_out = _way_out(task, num_samples)
        raise ValueError(
            f"{wanted} of task {name!r} is larger than the source {source!r} of "
            f"{num_samples:,} samples; {way_out}"
        )
    return Order(sizes, batch, num_streams, key)


def _way_out(task: TaskConfig, num_samples: int) -> str:
    if num_samples < 2:
        return "pack more of them: a batch needs at least 2."
    fitting = num_samples // task.num_streams * task.num_streams
    if fitting:
        return f"set global_batch to {fitting}."
    if task.streams is None:
        return f"set global_batch to {num_samples}."
    return f"set global_batch to {num_samples} and streams to {num_samples}."


def _way_out_mixed(task: TaskConfig, num_samples: int) -> str:
    fitting = [
        count for count in range(1, num_samples + 1) if task.global_batch % count == 0
    ]
    if not fitting:
        return "pack some, or remove the source."
    return f"set streams to {fitting[-1]}."


Orders = Mapping[tuple[int, str, str], Order]  # by stage, task and source


class Stretch(NamedTuple):
    """Positions from `start` onwards, where the sources have these weights."""

    start: int
    weights: tuple[float, ...]
    # By stream: how often each source was drawn before `start`.
    counts: tuple[tuple[int, ...], ...]


class Mixture:
    """The sources of one task by position.

    Positions are the task's steps; where batches are mixed, the rows of each canonical stream.
    The streams of mixed batches follow the same sequence, each one position ahead of the previous
    stream: so every batch nearly has the shares of the weights, and every stream has them exactly
    in the long run.
    """

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self.stretches = tuple(stretches)
        self._starts = [stretch.start for stretch in stretches]

    def source_at(self, position: int, stream: int = 0) -> tuple[int, int]:
        """The index of the source at a position, and how often it was drawn before."""
        stretch = self.stretches[bisect_right(self._starts, position) - 1]
        index, count = interleave(position - stretch.start + stream, stretch.weights)
        if stream:
            count -= counts_before(stream, stretch.weights)[index]
        return index, count + stretch.counts[stream][index]

    def counts_at(self, position: int) -> tuple[tuple[int, ...], ...]:
        """How often each source was drawn before a position, by stream."""
        stretch = self.stretches[max(0, bisect_right(self._starts, position - 1) - 1)]
        totals = []
        for stream, counts in enumerate(stretch.counts):
            later = counts_before(position - stretch.start + stream, stretch.weights)
            sooner = counts_before(stream, stretch.weights)
            columns = zip(counts, later, sooner, strict=True)
            totals.append(tuple(count + end - start for count, end, start in columns))
        return tuple(totals)


def lay_out(
    task: TaskConfig,
    limits: Sequence[int | None],
    steps: int,
    past: Sequence[Stretch] = (),
    start: int = 0,
) -> Mixture:
    """The mixture of a task from the position `start` onwards, after its past.

    limits: steps that each source can provide; None: any number. steps: all steps of the task.
    Raises ValueError if the sources provide fewer.
    """
    stretches = list(past)
    num_streams = task.num_streams if task.mixed else 1
    counts = ((0,) * len(task.sources),) * num_streams
    if past:
        counts = Mixture(past).counts_at(start)
    weights = [source.weight for source in task.sources.values()]
    while True:
        for index, limit in enumerate(limits):
            if limit is not None and counts[0][index] >= limit:
                weights[index] = 0.0
        if not any(weights):
            way_out = (
                "lower steps or raise epochs"
                if start
                else "raise epochs or lower accumulate"
            )
            raise ValueError(
                f"the sources {', '.join(task.sources)} provide only {start} of the {steps} steps "
                f"of their task within their epochs; {way_out}."
            )
        stretch = Stretch(start, tuple(weights), counts)
        stretches.append(stretch)
        ends = [
            _first_with(stretch, index, limit)
            for index, limit in enumerate(limits)
            if limit is not None and weights[index]
        ]
        if min(ends, default=steps) >= steps:
            return Mixture(stretches)
        start = min(ends)
        counts = Mixture([stretch]).counts_at(start)


def _first_with(stretch: Stretch, index: int, limit: int) -> int:
    """The first position before which a source was drawn `limit` times."""
    mixture = Mixture([stretch])
    low = stretch.start
    high = stretch.start + 1
    while mixture.counts_at(high)[0][index] < limit:
        high += high - stretch.start
    while low + 1 < high:
        middle = (low + high) // 2
        if mixture.counts_at(middle)[0][index] >= limit:
            high = middle
        else:
            low = middle
    return high


class StepPlan:
    """The batches of every step of a run."""

    def __init__(self, stages: Sequence[Stage], orders: Orders) -> None:
        self.stages = stages
        self.orders = orders
        self.mixtures: dict[tuple[int, str], Mixture] = {}
        for (stage, name), steps in self._tasks().items():
            self.mixtures[stage, name] = lay_out(
                stages[stage].tasks[name], self._limits(stage, name), steps
            )

    def _tasks(self) -> dict[tuple[int, str], int]:
        return task_steps_before(self.stages, sum(stage.steps for stage in self.stages))

    def _limits(self, stage: int, name: str) -> list[int | None]:
        """Steps that each source can provide; None: any number."""
        task = self.stages[stage].tasks[name]
        limits: list[int | None] = []
        for source, settings in task.sources.items():
            if settings.epochs is None:
                limits.append(None)
                continue
            order = self.orders[stage, name, source]
            limits.append(settings.epochs * order.steps_per_epoch // task.accumulate)
        return limits

    def batches_at(self, step: int) -> list[BatchPlace]:
        """The global batches of a step.

        `schedule: alternate` has `accumulate` batches of one task, `joint` of each task. All
        batches of a task come from one source, unless the task mixes its sources.
        """
        number, stage_step = place_of(self.stages, step)
        stage = self.stages[number]
        places = []
        for name, task_step in tasks_at(stage, stage_step):
            task = stage.tasks[name]
            if task.mixed:
                batches = range(
                    task_step * task.accumulate, (task_step + 1) * task.accumulate
                )
                places += [
                    BatchPlace(number, name, " + ".join(task.sources), 0, batch)
                    for batch in batches
                ]
                continue
            index, source_step = self.mixtures[number, name].source_at(task_step)
            source = list(task.sources)[index]
            for batch in range(
                source_step * task.accumulate, (source_step + 1) * task.accumulate
            ):
                epoch, epoch_step = divmod(
                    batch, self.orders[number, name, source].steps_per_epoch
                )
                places.append(BatchPlace(number, name, source, epoch, epoch_step))
        return places

    def slot_at(self, place: BatchPlace, slot: int) -> tuple[BatchPlace, int]:
        """Where a slot of a batch lies in its own source.

        `sample_at(epoch, step, slot)` of the result is its sample.
        """
        task = self.stages[place.stage].tasks[place.task]
        if not task.mixed:
            return place, slot
        rows = task.global_batch // task.num_streams
        stream = slot % task.num_streams
        position = place.step * rows + slot // task.num_streams
        index, count = self.mixtures[place.stage, place.task].source_at(
            position, stream
        )
        source = list(task.sources)[index]
        epoch, row = divmod(
            count, self.orders[place.stage, place.task, source].steps_per_epoch
        )
        return BatchPlace(place.stage, place.task, source, epoch, row), stream

    def resume(self, saved: Mapping[str, Any], step: int) -> list[str]:
        """Resume the mixtures of a checkpoint at a step.

        Returns one sentence for each source whose settings changed there.
        """
        changes = []
        done = task_steps_before(self.stages, step)
        for (stage, name), steps in self._tasks().items():
            before = saved[f"{stage}/{name}"]
            task = self.stages[stage].tasks[name]
            past = [
                Stretch(
                    stretch["start"],
                    tuple(stretch["weights"]),
                    tuple(map(tuple, stretch["counts"])),
                )
                for stretch in before["stretches"]
            ]
            changed = {}
            for source, new in _settings(task).items():
                old = before["sources"][source]
                if new != old:
                    changed[source] = (old, new)
            # A task that has finished keeps its mixture.
            if not changed or done[stage, name] == steps:
                self.mixtures[stage, name] = Mixture(past)
                continue
            position = self._position(task, done[stage, name])
            past = [stretch for stretch in past if stretch.start < position]
            self.mixtures[stage, name] = lay_out(
                task, self._limits(stage, name), steps, past, position
            )
            for source, (old, new) in changed.items():
                changes.append(
                    f"from step {step} on, source {source!r} of task {name!r} in stage "
                    f"{self.stages[stage].name!r} has {new} instead of {old}."
                )
        return changes

    def state(self) -> dict[str, Any]:
        """The mixtures for a checkpoint."""
        state = {}
        for (stage, name), mixture in self.mixtures.items():
            state[f"{stage}/{name}"] = {
                "sources": _settings(self.stages[stage].tasks[name]),
                "stretches": [stretch._asdict() for stretch in mixture.stretches],
            }
        return state

    def seen(self, step: int) -> list[dict[str, Any]]:
        """What a model has seen before a step: samples of each source in each of its epochs.

        Neighbouring epochs with equal counts are one row: each epoch from `epoch` to `last_epoch`
        had `samples`.
        """
        rows = []
        for (number, name), done in task_steps_before(self.stages, step).items():
            task = self.stages[number].tasks[name]
            counts = self.mixtures[number, name].counts_at(self._position(task, done))
            for index, source in enumerate(task.sources):
                order = self.orders[number, name, source]
                batches = [
                    stream[index] * (1 if task.mixed else task.accumulate)
                    for stream in counts
                ]
                size = 1 if task.mixed else task.global_batch
                for first, last, num_steps in _epochs(
                    [divmod(count, order.steps_per_epoch) for count in batches],
                    order.steps_per_epoch,
                ):
                    rows.append(
                        {
                            "number": number,
                            "stage": self.stages[number].name,
                            "task": name,
                            "source": source,
                            "epoch": first,
                            "last_epoch": last,
                            "samples": num_steps * size,
                            "of": order.num_samples,
                        }
                    )
        return rows

    @staticmethod
    def _position(task: TaskConfig, task_step: int) -> int:
        if not task.mixed:
            return task_step
        return task_step * task.accumulate * task.global_batch // task.num_streams


def _epochs(
    done: Sequence[tuple[int, int]], steps_per_epoch: int
) -> list[tuple[int, int, int]]:
    """(first epoch, last epoch, steps in each epoch) of each run of equal epochs.

    done: by stream, its complete epochs and its steps in the next one.
    """
    changes = sorted(
        {0, *(whole for whole, _ in done), *(whole + 1 for whole, _ in done)}
    )
    epochs = []
    for first, end in pairwise(changes):
        steps = 0
        for whole, rest in done:
            if first < whole:
                steps += steps_per_epoch
            elif first == whole:
                steps += rest
        if steps:
            epochs.append((first, end - 1, steps))
    return epochs


def _settings(task: TaskConfig) -> dict[str, dict[str, Any]]:
    return {
        source: {"weight": at.weight, "epochs": at.epochs}
        for source, at in task.sources.items()
    }
