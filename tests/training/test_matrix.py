"""The gradients do not depend on how the batch was cut: one table of settings, one float64 process
as the truth.

{1, 2, 4 ranks} x {plain, cached, accumulated} x {plain, tiled} x {pairs, triplets} x {matryoshka} x
{masks} x {ddp, fsdp}, each over four alternating steps of AdamW with an idle tower (images,
texts, images, texts). The truth is written out here: the whole batch through each tower at once,
the loss anchor by anchor.

Tolerances. float64: every parameter's gradient in every step within 1e-12 of the norm of the whole
gradient. float32: the gradients of the four steps no further from the truth than twice what the
truth's own code is in float32. There each step starts from the truth's weights, rounded to float32,
and the truth is computed again from those: AdamW divides a gradient by its own size, and so turns
the rounding of one that is nearly zero into a whole step of the learning rate. From its second step
on, a float32 trajectory would show which processor it ran on, and not what the code does.
"""

from __future__ import annotations

import copy
import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from training.config import OptimConfig, Stage, StepConfig, TaskConfig, TowersConfig
from training.data.collate import NUM_IDS, Batch, TokenLists
from training.data.mixture import BatchPlace
from training.optim import make_optimizer
from training.sharding import full_tensor, shard
from training.step import train_step
from unimodal.config import parse_config
from unimodal.model import DualEncoder, build_model
from unimodal.model_config import ModelConfig
from unimodal.preprocess.tokenizers import pad_ids

GLOBAL = 8
STEPS = 4
DIMS = (5, 10)
MARGIN = 0.1
RATE = 1e-3
OPTIM = OptimConfig(
    lr=RATE, clip_norm=1e9
)  # nothing is clipped, so that the gradients are still there after a step


class Cell(NamedTuple):
    """One place of the table."""

    ranks: int
    step: str
    loss: str
    texts: str
    matryoshka: bool
    masks: bool
    parallel: str

    def __str__(self) -> str:
        extra = f"{'-matryoshka' * self.matryoshka}{'-masks' * self.masks}"
        return (
            f"{self.ranks}-{self.step}-{self.loss}-{self.texts}{extra}-{self.parallel}"
        )


TABLE = [
    Cell(*values)
    for values in itertools.product(
        (1, 2, 4),
        ("plain", "cached", "accumulated"),
        ("plain", "tiled"),
        ("pairs", "triplets"),
        (False, True),
        (False, True),
        ("ddp", "fsdp"),
    )
]


def _pairs(cell: Cell) -> set[tuple[int, object, int, object]]:
    return {
        (i, a, j, b) for (i, a), (j, b) in itertools.combinations(enumerate(cell), 2)
    }


def _sample() -> list[Cell]:
    """Some cells in which each value of each setting stands beside each value of every other one,
    taken greedily.
    """
    chosen = []
    missing = set().union(*map(_pairs, TABLE))
    while missing:
        chosen.append(max(TABLE, key=lambda cell: len(_pairs(cell) & missing)))
        missing -= _pairs(chosen[-1])
    return chosen


SAMPLE = _sample()  # the whole table is for `make matrix`
STEP = {
    "plain": StepConfig(token_budget=10**6, graph_memory=1000),
    "cached": StepConfig(
        token_budget=20, micro_batch=1, graph_memory=1e-9
    ),  # one graph a tower is kept, no more
    "accumulated": StepConfig(token_budget=10**6, graph_memory=1000),
}


@functools.cache
def _model() -> DualEncoder:
    torch.manual_seed(0)
    values = {
        "embed_dim": 16,
        "image": {
            "name": "vit_tiny_patch16_224",
            "kwargs": {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2},
        },
        "text": {
            "name": "bert",
            "max_length": 12,
            "kwargs": {
                "vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 32, "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
                "max_position_embeddings": 16,
            },
        },
        "preprocess": {"image_size": 16},
        "logit_scales": ["pictures", "texts"],
    }  # fmt: skip
    return build_model(parse_config(ModelConfig, values))


def _stage(cell: Cell) -> Stage:
    common = {
        "sources": {"made": {"path": "nowhere"}},
        "global_batch": GLOBAL,
        "accumulate": 1 + (cell.step == "accumulated"),
        "matryoshka_dims": DIMS if cell.matryoshka else (),
        "mask_duplicates": cell.masks,
        "negatives": {"margin": MARGIN if cell.masks else None},
    }
    tasks = {
        "pictures": TaskConfig.model_validate({**common, "kind": "image-text"}),
        "texts": TaskConfig.model_validate(
            {
                **common,
                "kind": "text-text",
                "num_negatives": _num_negatives(cell),
                "learn_temperature": True,
            }
        ),
    }
    return Stage(
        name="main", steps=STEPS, schedule="alternate", tasks=tasks, optim=OPTIM
    )


def _num_negatives(cell: Cell) -> int:
    return 2 if cell.texts == "triplets" else 0


def _batches(cell: Cell, step: int, rank: int = 0, ranks: int = 1) -> list[Batch]:
    """This rank's part of the global batches of a step; texts of many lengths, some contents more
    than once.
    """
    batches = []
    for number in range(1 + (cell.step == "accumulated")):
        draw = np.random.default_rng([step, number])
        is_images = step % 2 == 0
        count = _num_negatives(cell)
        num_sides = 1 if is_images else 2 + count
        texts = [
            [
                draw.integers(4, 60, draw.integers(3, 12)).tolist()
                for _ in range(num_sides)
            ]
            for _ in range(GLOBAL)
        ]
        ids = np.arange(GLOBAL * NUM_IDS).reshape(GLOBAL, NUM_IDS)
        ids[[1, 4], 1] = 999  # the same document
        ids[[0, 6], 2] = 888  # the same label
        hard_ids = 10_000 + np.arange(GLOBAL * count).reshape(GLOBAL, count)
        hard_ids[3:5, :1] = 999  # the document of pairs 1 and 4
        pixels = torch.from_numpy(
            draw.integers(0, 256, (GLOBAL, 3, 16, 16), dtype=np.uint8)
        )
        own = range(rank * GLOBAL // ranks, (rank + 1) * GLOBAL // ranks)
        laid_out = [
            texts[row][side] for side in range(min(2, num_sides)) for row in own
        ]
        laid_out += [
            texts[row][2 + k] for row in own for k in range(count) if not is_images
        ]
        flat = torch.tensor(
            [token for text in laid_out for token in text], dtype=torch.int32
        )
        batches.append(
            Batch(
                place=BatchPlace(
                    0, "pictures" if is_images else "texts", "made", 0, step
                ),
                keys=[str(row) for row in own],
                pixels=pixels[own.start : own.stop] if is_images else None,
                texts=TokenLists(flat, [len(text) for text in laid_out]),
                ids=torch.from_numpy(ids)[own.start : own.stop],
                hard_negative_ids=torch.from_numpy(hard_ids)[
                    own.start : own.stop, : 0 if is_images else count
                ],
                scores=None,
                skipped=[],
            )
        )
    return batches


def _true_loss(
    model: DualEncoder, batch: Batch, cell: Cell, is_reversed: bool = False
) -> Tensor:
    """InfoNCE of one global batch, anchor by anchor, from the definitions alone.

    is_reversed: encode the rows from last to first, which changes nothing but the rounding.
    """

    def turn(rows: Tensor) -> Tensor:
        return rows.flip(0) if is_reversed else rows

    texts = turn(model.encode_text(*map(turn, pad_ids(batch.texts.lists(), 0))))
    is_images = batch.pixels is not None
    query = (
        turn(model.encode_image(turn(batch.pixels)))
        if batch.pixels is not None
        else texts[:GLOBAL]
    )
    document = texts if is_images else texts[GLOBAL : 2 * GLOBAL]
    count = 0 if is_images else _num_negatives(cell)
    hard = texts[2 * GLOBAL :].split(count) if count else ()
    scale = model.logit_scales[batch.place.task].exp()
    total = torch.zeros((), dtype=texts.dtype)
    contents = [set(row.tolist()) for row in batch.ids]

    def seen(anchor: Tensor, candidate: Tensor, dim: int) -> Tensor:
        return nn.functional.cosine_similarity(anchor[:dim], candidate[:dim], dim=0)

    for dim in (*(DIMS if cell.matryoshka else ()), 16):
        for i in range(GLOBAL):
            positive = seen(query[i], document[i], dim)
            limit = float(positive.detach()) + MARGIN if cell.masks else np.inf
            terms = {"query": [positive], "document": [positive]}
            for j in range(GLOBAL):
                is_negative = i != j and not (cell.masks and contents[i] & contents[j])
                for side, cosine in (
                    ("query", seen(query[i], document[j], dim)),
                    ("document", seen(query[j], document[i], dim)),
                ):
                    if is_negative and float(cosine.detach()) <= limit:
                        terms[side].append(cosine)
                for k, vector in enumerate(hard[j] if hard else ()):
                    cosine = seen(query[i], vector, dim)
                    is_positive = int(batch.hard_negative_ids[j, k]) in contents[i]
                    if not (cell.masks and is_positive) and (
                        i == j or float(cosine.detach()) <= limit
                    ):
                        terms["query"].append(cosine)
            for cosines in terms.values():
                total = total + (
                    (scale * torch.stack(cosines)).logsumexp(0) - scale * positive
                ) / (2 * GLOBAL)
    return total


class Point(NamedTuple):
    """Weights before a step, and the gradients there."""

    weights: dict[str, Tensor]
    gradients: dict[str, Tensor]


@functools.cache
def _trajectory(cell: Cell) -> list[Point]:
    """The float64 steps by the code above in one process; `cell` has one rank,
    plain loss and ddp.
    """
    model = copy.deepcopy(_model()).double().train()
    optimizer = make_optimizer(model, OPTIM, TowersConfig())
    points = []
    for step in range(STEPS):
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        points.append(Point(weights, _true_gradients(model, cell, step)))
        for group in optimizer.param_groups:
            group.update(
                lr=RATE * group["lr_scale"],
                weight_decay=OPTIM.weight_decay if group["decays"] else 0.0,
            )
        optimizer.step()
        for scale in model.logit_scales.values():
            scale.data.clamp_(0, np.log(100))
    return points


@functools.cache
def _single_steps(
    cell: Cell, precision: torch.dtype, is_reversed: bool = False
) -> list[dict[str, Tensor]]:
    """The gradients of each step by the code above, each from the trajectory's weights rounded to
    float32.
    """
    found = []
    for step, point in enumerate(_trajectory(cell)):
        model = _model_from(point.weights, precision)
        found.append(_true_gradients(model, cell, step, is_reversed))
    return found


def _true_gradients(
    model: DualEncoder, cell: Cell, step: int, is_reversed: bool = False
) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    batches = _batches(cell, step)
    for batch in batches:
        (_true_loss(model, batch, cell, is_reversed) / len(batches)).backward()
    return {
        name: p.grad.clone()
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def _model_from(weights: Mapping[str, Tensor], precision: torch.dtype) -> DualEncoder:
    """A model with these weights, which are rounded to float32 first whatever the precision is."""
    model = copy.deepcopy(_model())
    model.load_state_dict(weights)
    return model.to(precision).train()


def _run(cell: Cell, rank: int) -> dict[str, Tensor]:
    """The gradients of float64 steps by the code that trains, one after the other, under
    "step/parameter".
    """
    model = copy.deepcopy(_model()).double().train()
    if cell.parallel == "fsdp":
        model = shard(model)
    optimizer = make_optimizer(model, OPTIM, TowersConfig())
    found = {}
    for step in range(STEPS):
        found.update(_gradients(model, optimizer, cell, step, "float64", rank))
    return found


def _run_single_steps(
    cell: Cell, points: Sequence[Mapping[str, Tensor]], rank: int
) -> dict[str, Tensor]:
    """The gradients of float32 steps, each from the weights of its point."""
    found = {}
    for step, weights in enumerate(points):
        model = _model_from(weights, torch.float32)
        if cell.parallel == "fsdp":
            model = shard(model)
        optimizer = make_optimizer(model, OPTIM, TowersConfig())
        found.update(_gradients(model, optimizer, cell, step, "float32", rank))
    return found


def _gradients(
    model: DualEncoder,
    optimizer: Optimizer,
    cell: Cell,
    step: int,
    precision: str,
    rank: int,
) -> dict[str, Tensor]:
    """One step by the code that trains -> the whole gradients, under "step/parameter"."""
    config = STEP[cell.step].model_copy(
        update={"loss_tile": 3 if cell.loss == "tiled" else 1024}
    )
    stats = train_step(
        model,
        _batches(cell, step, rank, cell.ranks),
        _stage(cell),
        optimizer,
        config,
        learning_rate=RATE,
        precision=precision,
        seed=step,
    )
    assert stats.is_finite
    is_cut = cell.step == "cached" and stats.num_chunks > 2
    assert (stats.num_recomputed > 0) == is_cut
    return {
        f"{step}/{name}": full_tensor(parameter.grad).clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def _rank(rank: int, ranks: int, cells: Sequence[Cell], folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks))
    dist.init_process_group(
        "cpu:gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks
    )
    for cell in cells:
        points = [
            load_file(Path(folder) / f"{_like(cell)}-weights-{step}")
            for step in range(STEPS)
        ]
        trajectory = _run(cell, rank)
        single_steps = _run_single_steps(cell, points, rank)
        if rank == 0:
            save_file(trajectory, Path(folder) / f"{cell}-trajectory")
            save_file(single_steps, Path(folder) / f"{cell}-single-steps")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """A folder of gradients for each number of ranks: one start of processes for all cells that
    were asked for.
    """
    wanted = {
        item.callspec.params["cell"]
        for item in request.session.items
        if item.fspath == request.path and hasattr(item, "callspec")
    }
    folders = {}
    for ranks in sorted({cell.ranks for cell in wanted}):
        folders[ranks] = tmp_path_factory.mktemp(f"ranks{ranks}")
        cells = [cell for cell in TABLE if cell in wanted and cell.ranks == ranks]
        for like in {_like(cell) for cell in cells}:
            for step, point in enumerate(_trajectory(like)):
                save_file(point.weights, folders[ranks] / f"{like}-weights-{step}")
        torch.multiprocessing.spawn(  # type: ignore[no-untyped-call, attr-defined]
            _rank, (ranks, cells, str(folders[ranks])), nprocs=ranks
        )
    return folders


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(
            cell, marks=[] if cell in SAMPLE else pytest.mark.matrix, id=str(cell)
        )
        for cell in TABLE
    ],
)
def test_gradients_are_those_of_one_process_that_cuts_nothing(
    cell: Cell, results: dict[int, Path], record_property: Callable[[str, object], None]
) -> None:
    like = _like(cell)
    trajectory = load_file(results[cell.ranks] / f"{cell}-trajectory")
    single_steps = load_file(results[cell.ranks] / f"{cell}-single-steps")
    true_trajectory = [point.gradients for point in _trajectory(like)]
    names = {
        f"{step}/{name}" for step in range(STEPS) for name in true_trajectory[step]
    }
    assert trajectory.keys() == single_steps.keys() == names

    furthest = max(
        error
        for step in _errors(true_trajectory, trajectory)
        for error in step.values()
    )
    truth = _single_steps(like, torch.float64)
    ours = _length(_errors(truth, single_steps))
    # The rounding of a step is one draw of many: the plain step's is the larger of two orders of
    # the same rows.
    plain = max(
        _length(
            _errors(truth, _by_step(_single_steps(like, torch.float32, is_reversed)))
        )
        for is_reversed in (False, True)
    )
    record_property("float64", furthest)
    record_property("float32", ours / plain)
    assert furthest <= 1e-12
    assert ours <= 2 * plain


def _like(cell: Cell) -> Cell:
    """The cell whose truth this one has: one process that cuts nothing."""
    return cell._replace(
        ranks=1, loss="plain", parallel="ddp", step=cell.step.replace("cached", "plain")
    )


def _by_step(gradients: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {
        f"{step}/{name}": tensor
        for step, found in enumerate(gradients)
        for name, tensor in found.items()
    }


def _errors(
    truth: Sequence[Mapping[str, Tensor]], found: Mapping[str, Tensor]
) -> list[dict[str, float]]:
    """Of each step, each tensor's distance from the truth, over the norm of the whole gradient."""
    errors = []
    for step, gradients in enumerate(truth):
        whole = float(torch.stack([true.norm() for true in gradients.values()]).norm())
        errors.append(
            {
                name: float((found[f"{step}/{name}"].double() - true).norm()) / whole
                for name, true in gradients.items()
            }
        )
    return errors


def _length(errors: list[dict[str, float]]) -> float:
    return float(np.linalg.norm([error for step in errors for error in step.values()]))


def test_masks_and_prefixes_of_the_table_change_the_loss() -> None:
    """Otherwise half of it would show nothing."""
    bare = Cell(1, "plain", "plain", "triplets", False, False, "ddp")
    for changed in (
        bare._replace(masks=True),
        bare._replace(matryoshka=True),
        bare._replace(texts="pairs"),
    ):
        for step in (0, 1) if changed.texts == "triplets" else (1,):
            losses = {
                float(_true_loss(_model(), _batches(cell, step)[0], cell).detach())
                for cell in (bare, changed)
            }
            assert len(losses) == 2, (changed, step)
