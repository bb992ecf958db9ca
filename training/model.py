"""The model of a run: made or loaded, on its device, with its frozen parts frozen."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unimodal import distributed
from unimodal.embedder import load
from unimodal.formats.card import count_parameters
from unimodal.model import DualEncoder, build_model
from unimodal.model_config import ModelConfig
from unimodal.preprocess.tokenizers import Tokenizer, load_tokenizer

from .config import TaskConfig, TrainConfig, check_prefixes
from .model_check import TOWERS_OF_KIND, check_towers


def make_model(
    config: TrainConfig, checkpoint: Path | None
) -> tuple[DualEncoder, Tokenizer]:
    """Make the model from a checkpoint, `init` or names; every rank gets the same weights."""
    source = checkpoint or config.init
    tasks = dict.fromkeys(name for stage in config.plan for name in stage.tasks)
    torch.manual_seed(config.seed)
    if source is not None:
        embedder = load(source, device="cpu")
        model = embedder.models[0]
        tokenizer = embedder.tokenizer
        if tokenizer is None:
            raise ValueError(
                f"init {str(source)!r} has no text tower, and every task has a text "
                "side; start from another model."
            )
        if checkpoint is None:
            check_towers(config, embedder.modalities)
        names = tuple({**dict.fromkeys(model.config.logit_scales), **tasks})
        return _with_logit_scales(model, names, config), tokenizer
    assert config.model is not None
    settings = config.model.model_dump(exclude_unset=True)
    if config.model.text is None:
        raise ValueError(
            "the recipe's model has no text tower and every task needs one; add model.text."
        )
    tokenizer, text = load_tokenizer(config.model.text)
    model = build_model(ModelConfig(**{**settings, "text": text}))
    assert model.text is not None
    tokenizer.fit_to(model.text.num_tokens)
    return _with_logit_scales(model, tuple(tasks), config), tokenizer


def _with_logit_scales(
    model: DualEncoder, names: tuple[str, ...], config: TrainConfig
) -> DualEncoder:
    """Give every task its logit scale and bias.

    A saved scale stays unless the recipe gives a temperature.
    """
    # A stage may change a task: its scale starts as in the first stage.
    tasks = _tasks_of(config)
    first_tasks = dict(reversed(tasks))
    for name in names:
        task = first_tasks.get(name)
        is_given = task is not None and task.temperature is not None
        if is_given or name not in model.logit_scales:
            start = torch.tensor(-math.log(first_tasks[name].start_temperature))
            model.logit_scales[name] = nn.Parameter(start)
    for name, task in tasks:
        if task.loss == "sigmoid" and name not in model.logit_biases:
            model.logit_biases[name] = nn.Parameter(torch.tensor(task.bias))

    dims = {dim for _, task in tasks for dim in task.matryoshka_dims}
    if not dims:
        dims = set(model.config.matryoshka_dims)
    check_prefixes(sorted(dims), model.config.embed_dim)
    update = {
        "logit_scales": names,
        "logit_biases": tuple(model.logit_biases),
        "matryoshka_dims": tuple(sorted(dims)),
    }
    model.config = model.config.model_copy(update=update)
    return model


def _tasks_of(config: TrainConfig) -> list[tuple[str, TaskConfig]]:
    """The tasks of all stages, with their names."""
    return [item for stage in config.plan for item in stage.tasks.items()]


def prepare_model(
    model: DualEncoder, config: TrainConfig, device: torch.device
) -> DualEncoder:
    """Put the model on its device in its precision, and freeze what the recipe freezes.

    Raises ValueError if nothing would learn, or for live batch normalization in a batch that is
    split.
    """
    dtype = torch.float64 if config.precision == "float64" else torch.float32
    model = model.to(device, dtype).train()
    learned = {name for name, task in _tasks_of(config) if task.learns_temperature}
    for name, scale in model.logit_scales.items():
        scale.requires_grad_(name in learned)
    towers = (("image", config.towers.image), ("text", config.towers.text))
    for kind, settings in towers:
        tower = getattr(model, kind)
        if tower is not None and settings.freeze:
            tower.backbone.requires_grad_(False).eval()
        elif tower is not None and settings.frozen_layers:
            _freeze_first_layers(tower.backbone, settings.frozen_layers, kind)
    for name, task in _tasks_of(config):
        _check_task_learns(model, name, TOWERS_OF_KIND[task.kind])
    for kind, settings in towers:
        if settings.patch_dropout:
            _drop_patches(getattr(model, kind), kind, settings.patch_dropout)
    _refuse_live_batch_norm(model, config)
    if config.step.grad_checkpointing:
        model.set_grad_checkpointing()
    if config.step.compile:
        for tower in (model.image, model.text):
            if tower is not None:
                tower.compile()
    return model


def _drop_patches(tower: nn.Module | None, kind: str, share: float) -> None:
    """Drop a share of the patches while training (FLIP; Li et al., 2023)."""
    backbone: Any = getattr(tower, "backbone", None)
    if kind == "image" and hasattr(backbone, "patch_drop"):
        from timm.layers import PatchDropout, PatchDropoutWithIndices

        # Backbones without an identity there (EVA, NaFlex) need the indices that are kept, for
        # their rotary positions.
        indexed_kinds = (type(None), PatchDropoutWithIndices)
        is_indexed = isinstance(backbone.patch_drop, indexed_kinds)
        drop = PatchDropoutWithIndices if is_indexed else PatchDropout
        num_prefix_tokens = getattr(backbone, "num_prefix_tokens", 0)
        backbone.patch_drop = drop(share, num_prefix_tokens=num_prefix_tokens)
    elif kind == "image" and hasattr(backbone, "patch_dropout"):
        from open_clip.transformer import PatchDropout as OpenClipPatchDropout

        backbone.patch_dropout = OpenClipPatchDropout(share)
    else:
        raise ValueError(
            f"towers.{kind}.patch_dropout {share} needs a vision transformer, but that tower "
            "is not one; set it to 0."
        )


def _refuse_live_batch_norm(model: DualEncoder, config: TrainConfig) -> None:
    """Raise ValueError for live batch normalization whose gradients depend on how a batch is split.

    It sees only what is encoded together.
    """
    ranks = distributed.world_size()
    num_images = 0  # the most of one rank
    for _, task in _tasks_of(config):
        if task.kind == "image-text":
            num_images = max(num_images, task.global_batch // ranks)
    micro_batch = config.step.micro_batch
    is_cut = {
        "image": micro_batch is not None and micro_batch < num_images,
        "text": True,  # into chunks of a token budget
    }
    for name, module in model.named_modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        tower = name.partition(".")[0].removesuffix("_projection")
        if module.training and (ranks > 1 or is_cut[tower]):
            how = f"spread over {ranks} ranks" if ranks > 1 else "cut into chunks"
            raise ValueError(
                f"{name} normalizes over the batch, which is {how} here, so its gradients would "
                "depend on that; use a tower with LayerNorm or GroupNorm, freeze it, or train in "
                "one process without micro_batch."
            )


def _check_task_learns(model: DualEncoder, task: str, kinds: tuple[str, ...]) -> None:
    for kind in kinds:
        if getattr(model, kind) is None:
            raise ValueError(
                f"task {task!r} needs {kind} and the model has no {kind} tower; start "
                "from another model."
            )
    parameters: list[nn.Parameter] = []
    for kind in kinds:
        parameters += getattr(model, kind).parameters()
        parameters += getattr(model, f"{kind}_projection").parameters()
    if not any(parameter.requires_grad for parameter in parameters):
        raise ValueError(
            f"task {task!r} would train nothing: its towers are frozen and have no projection; "
            "unfreeze one."
        )


def _freeze_first_layers(backbone: nn.Module, count: int, kind: str) -> None:
    """Freeze the first `count` blocks and what comes before them (embeddings, stem).

    They need no backward pass.
    """
    blocks = blocks_of(backbone)
    if not blocks:
        raise ValueError(
            f"towers.{kind}.frozen_layers needs a tower that is a single row of blocks; use "
            "freeze, or set it to 0."
        )
    if count > len(blocks):
        raise ValueError(
            f"towers.{kind}.frozen_layers {count} is over the {len(blocks)} blocks of "
            "that tower; lower it."
        )
    first = next(iter(blocks[0].parameters()))
    for parameter in backbone.parameters():
        if parameter is first:
            break
        parameter.requires_grad_(False)
    for block in blocks[:count]:
        block.requires_grad_(False).eval()


def blocks_of(backbone: nn.Module) -> list[nn.Module]:
    """The blocks of a backbone that is a single row of blocks; none of another backbone."""
    largest: list[nn.Module] = []
    most_parameters = -1
    for parent in backbone.modules():
        rows = []
        for child in parent.children():
            is_row = isinstance(child, (nn.ModuleList, nn.Sequential))
            if is_row and count_parameters(child):
                rows.append(child)
        num_parameters = sum(count_parameters(row) for row in rows)
        if num_parameters > most_parameters:
            largest = rows
            most_parameters = num_parameters
    return list(largest[0].children()) if len(largest) == 1 else []
