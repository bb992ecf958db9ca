"""Sources take turns by a pure function with exact shares; a change of weights leaves the past as
it was.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from tests.conftest import Recipe
from tests.training.runs import dataset_of, global_batches
from training.config import OptimConfig, SourceConfig, Stage, TaskConfig
from training.data.loader import steps_from
from training.data.mixture import StepPlan, lay_out, make_order
from training.data.order import Order
from unimodal.config import parse_config

WEIGHTS = {"a": 5, "b": 2, "c": 1}
STREAMS = 4
BATCH = 16


def _plan(steps: int = 800, sizes: int = 320, **changes: Any) -> StepPlan:
    """One task with sources a, b, c; changes: of the task, or {source}_weight and
    {source}_epochs.
    """
    sources = {
        name: SourceConfig(
            path=name,
            weight=changes.pop(f"{name}_weight", weight),
            epochs=changes.pop(f"{name}_epochs", None),
        )
        for name, weight in WEIGHTS.items()
    }
    task = TaskConfig(
        kind="text-text",
        sources=sources,
        global_batch=BATCH,
        streams=STREAMS,
        **changes,
    )
    stage = Stage(
        name="main",
        steps=steps,
        schedule="alternate",
        tasks={"texts": task},
        optim=OptimConfig(),
    )
    batch = STREAMS if task.mixed else BATCH
    orders = {
        (0, "texts", name): Order([sizes // 2, sizes // 2], batch, STREAMS, (0, name))
        for name in sources
    }
    return StepPlan([stage], orders)


def _sources(plan: StepPlan, start: int = 0, stop: int = 800) -> list[str]:
    return [plan.batches_at(step)[0].source for step in range(start, stop)]


def _slots(plan: StepPlan, step: int) -> list[tuple[str, int, int, int]]:
    place = plan.batches_at(step)[0]
    found = [plan.slot_at(place, slot) for slot in range(BATCH)]
    return [(at.source, at.epoch, at.step, slot) for at, slot in found]


def test_long_run_shares_are_exact_and_epochs_follow_each_other() -> None:
    plan = _plan()
    assert Counter(_sources(plan)) == {"a": 500, "b": 200, "c": 100}
    places = [
        place
        for step in range(800)
        for place in plan.batches_at(step)
        if place.source == "b"
    ]
    assert [(place.epoch, place.step) for place in places] == [
        divmod(n, 20) for n in range(200)
    ]


def test_a_source_of_so_many_epochs_then_leaves_its_part_to_the_others() -> None:
    plan = _plan(a_epochs=3)  # 60 batches
    sources = _sources(plan)
    last = len(sources) - 1 - sources[::-1].index("a")
    assert Counter(sources)["a"] == 60
    assert Counter(sources[: last + 1]) == {
        "a": 60,
        "b": 24,
        "c": 11,
    }  # 5 : 2 : 1 until then
    assert Counter(sources[last + 1 :])["b"] == pytest.approx(
        2 / 3 * (800 - last), abs=2
    )
    counts = Counter[str]()
    for step in range(800):  # nothing is left out or repeated across the change
        place = plan.batches_at(step)[0]
        assert divmod(counts[place.source], 20) == (place.epoch, place.step)
        counts[place.source] += 1


def test_sources_that_are_used_up_before_the_end_are_refused_with_the_step() -> None:
    epochs = {"a_epochs": 1, "b_epochs": 2, "c_epochs": 3}
    _plan(steps=120, **epochs)
    with pytest.raises(
        ValueError,
        match=r"a, b, c .*120 of the 121 steps.*steps.*epochs",
    ):
        _plan(steps=121, **epochs)


def _order_of(sizes: Sequence[int], **changes: Any) -> Order:
    values = {"kind": "text-text", "sources": {"s": {"path": "s"}}, **changes}
    return make_order("texts", parse_config(TaskConfig, values), "s", sizes, (0, "s"))


@pytest.mark.parametrize(
    ("sizes", "changes", "message"),
    [
        (
            [200, 100],
            {"global_batch": 384, "streams": 12},
            "global_batch 384 of task 'texts' is larger than the source 's' of 300 "
            "samples; set global_batch to 300.",
        ),
        ([79], {"global_batch": 240}, "of 79 samples; set global_batch to 64."),
        ([7], {"global_batch": 64}, "of 7 samples; set global_batch to 7."),
        (
            [5],
            {"global_batch": 24, "streams": 12},
            "of 5 samples; set global_batch to 5 and streams to 5.",
        ),
        ([2], {"global_batch": 64}, "of 2 samples; set global_batch to 2."),
        (
            [1],
            {"global_batch": 64},
            "of 1 samples; pack more of them: a batch needs at least 2.",
        ),
        (
            [],
            {"global_batch": 64},
            "of 0 samples; pack more of them: a batch needs at least 2.",
        ),
        (
            [5],
            {"global_batch": 24, "mixed": True},
            "streams 8 of task 'texts' is larger than the source 's' of 5 samples; set "
            "streams to 4.",
        ),
        ([1], {"global_batch": 24, "mixed": True}, "of 1 samples; set streams to 1."),
    ],
)
def test_a_batch_larger_than_the_source_is_refused_and_the_advice_works(
    sizes: list[int], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        _order_of(sizes, **changes)
    advice = {
        key: int(value)
        for key, value in re.findall(
            r"(global_batch|streams) to (\d+)", str(caught.value)
        )
    }
    if advice:
        assert _order_of(sizes, **{**changes, **advice}).steps_per_epoch >= 1


def test_sources_that_have_not_one_step_are_refused_with_advice_that_works() -> None:
    options = {"a_epochs": 1, "b_epochs": 1, "c_epochs": 1, "sizes": 32}
    with pytest.raises(
        ValueError,
        match=r"0 of the 1 steps.*epochs.*accumulate",
    ):
        _plan(steps=1, accumulate=4, **options)
    _plan(steps=1, accumulate=2, **options)
    _plan(steps=1, accumulate=4, **{**options, "a_epochs": 2})


def test_a_source_of_weight_zero_never_comes() -> None:
    assert set(_sources(_plan(b_weight=0))) == {"a", "c"}
    with pytest.raises(ValueError, match="the sources a, b, c all have weight 0"):
        _plan(a_weight=0, b_weight=0, c_weight=0)


@pytest.mark.parametrize("mixed", [False, True])
def test_weights_changed_at_resume_hold_from_there_and_leave_the_past(
    mixed: bool,
) -> None:
    first = _plan(mixed=mixed)
    saved = json.loads(json.dumps(first.state()))
    second = _plan(mixed=mixed, a_weight=1, c_weight=4)
    changes = second.resume(saved, 300)
    assert len(changes) == 2
    assert (
        "from step 300 on, source 'a' of task 'texts' in stage 'main' has" in changes[0]
    )
    before = range(300)
    after = range(300, 800)
    assert [_slots(second, step) for step in before] == [
        _slots(first, step) for step in before
    ]
    # Of each source the samples go on where they were.
    seen = Counter(slot[0] for step in before for slot in _slots(second, step))
    later = Counter(slot[0] for step in after for slot in _slots(second, step))
    assert later["a"] / later["c"] == pytest.approx(1 / 4, rel=0.05)
    assert seen["a"] / seen["c"] == pytest.approx(5, rel=0.05)
    every = [slot for step in range(800) for slot in _slots(second, step)]
    assert len(set(every)) == len(every)
    # A third start with the same weights recomputes nothing.
    third = _plan(mixed=mixed, a_weight=1, c_weight=4)
    assert third.resume(json.loads(json.dumps(second.state())), 500) == []
    assert [_slots(third, step) for step in range(800)] == [
        _slots(second, step) for step in range(800)
    ]


def test_weights_may_change_again_and_epochs_still_bound() -> None:
    plan = _plan(a_epochs=10)
    for step, changes in (
        (100, {"a_weight": 1}),
        (250, {"a_weight": 8}),
        (251, {"b_weight": 1}),
    ):
        saved = json.loads(json.dumps(plan.state()))
        settings = {"a_epochs": 10, "a_weight": 8 if step > 100 else 1, **changes}
        plan = _plan(**settings)
        assert plan.resume(saved, step)
    assert Counter(_sources(plan))["a"] == 200


def test_mixed_batches_hold_the_shares_in_each_and_exactly_in_the_long_run() -> None:
    plan = _plan(mixed=True)
    everything = Counter[str]()
    for step in range(400):
        counts = Counter(source for source, *_ in _slots(plan, step))
        assert counts["a"] == pytest.approx(10, abs=2)
        assert counts["b"] == pytest.approx(4, abs=2)
        everything += counts
    assert everything == {"a": 4000, "b": 1600, "c": 800}


def test_a_mixed_source_gives_each_sample_once_an_epoch() -> None:
    plan = _plan(mixed=True)
    samples: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for step in range(200):
        for source, epoch, row, stream in _slots(plan, step):
            order = plan.orders[0, "texts", source]
            samples.setdefault((source, epoch), []).append(
                order.sample_at(epoch, row, stream)
            )
    for found in samples.values():
        assert len(set(found)) == len(found)
    assert len(samples["a", 0]) == 320


def test_what_was_seen_adds_up_to_the_samples_of_the_batches() -> None:
    for changes in ({}, {"mixed": True}, {"accumulate": 2}, {"a_epochs": 2}):
        plan = _plan(**changes)
        for step in (0, 1, 133, 800):
            counts: Counter[tuple[str, int]] = Counter()
            for before in range(step):
                for place in plan.batches_at(before):
                    slots = [plan.slot_at(place, slot)[0] for slot in range(BATCH)]
                    counts.update((slot.source, slot.epoch) for slot in slots)
            rows = plan.seen(step)
            found = {
                (row["source"], epoch): row["samples"]
                for row in rows
                for epoch in range(row["epoch"], row["last_epoch"] + 1)
            }
            assert found == counts
            assert len(rows) <= 12  # however many epochs


def test_a_stage_that_is_over_stays_as_it_was_at_a_resume_with_other_weights() -> None:
    def plan(weight: float) -> StepPlan:
        task = TaskConfig(
            kind="text-text",
            global_batch=BATCH,
            streams=STREAMS,
            sources={
                "a": SourceConfig(path="a", epochs=1),
                "b": SourceConfig(path="b", epochs=1, weight=weight),
            },
        )
        stages = [
            Stage(
                name=name,
                steps=steps,
                schedule="alternate",
                tasks={"texts": task},
                optim=OptimConfig(),
            )
            for name, steps in (("first", 40), ("second", 30))
        ]
        orders = {
            (number, "texts", source): Order(
                [160, 160], BATCH, STREAMS, (number, source)
            )
            for number in range(2)
            for source in "ab"
        }
        return StepPlan(stages, orders)

    first = plan(1)
    second = plan(0.5)
    (change,) = second.resume(json.loads(json.dumps(first.state())), 45)
    assert "from step 45 on, source 'b' of task 'texts' in stage 'second'" in change
    assert _sources(second, 0, 45) == _sources(first, 0, 45)


def test_epochs_of_a_source_in_mixed_batches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"epochs of a source .* mixed=true"):
        _plan(mixed=True, a_epochs=1)


def test_a_mixture_far_away_costs_nothing() -> None:
    task = _plan().stages[0].tasks["texts"]
    mixture = lay_out(task, [10**14, None, None], 10**15)
    assert mixture.counts_at(10**15)[0][0] == 10**14
    assert sum(mixture.counts_at(10**15)[0]) == 10**15


def test_mixed_batches_are_the_same_for_any_ranks_and_workers_and_train(
    recipe: Recipe,
) -> None:
    sources = {
        "squares": {"path": "pictures", "weight": 2},
        "again": {"path": "pictures", "weight": 1},
    }
    config = recipe(
        {"tasks": {"pictures": {"mixed": True, "sources": sources}, "pairs": None}}
    )
    reference = global_batches(config, world_size=1)
    for world_size, workers, start in ((2, 0, 0), (3, 2, 3), (4, 0, 5)):
        ours = global_batches(config, world_size, workers, start)
        assert [step.keys() for step in ours] == [
            step.keys() for step in reference[start:]
        ]
    batch = next(steps_from(dataset_of(config, 0, 1), 0, 1, 0))[0]
    assert len(batch.keys) == 24
    seen = dataset_of(config, 0, 1).seen(3)
    assert {row["path"] for row in seen} == {"pictures"}
    assert batch.place.source == "squares + again"
