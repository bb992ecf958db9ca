"""The model that a run starts from: made or loaded, on its device, with what is frozen frozen."""

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

from .config import TrainConfig, check_prefixes
from .start import check_towers


def make_model(
    config: TrainConfig, checkpoint: Path | None
) -> tuple[DualEncoder, Tokenizer]:
    """From a checkpoint, from `init`, or from names; the same weights on every rank."""
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
        wanted = tuple({**dict.fromkeys(model.config.logit_scales), **tasks})
        return _with_logit_scales(model, wanted, config), tokenizer
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
    """Give every task its logit scale; a saved one stays unless the recipe names a temperature."""
    tasks = {
        name: task
        for stage in reversed(config.plan)
        for name, task in stage.tasks.items()
    }
    for name in names:
        if name not in model.logit_scales or (
            name in tasks and tasks[name].temperature is not None
        ):
            start = torch.tensor(-math.log(tasks[name].start_temperature))
            model.logit_scales[name] = nn.Parameter(start)
    every = [
        (name, task) for stage in config.plan for name, task in stage.tasks.items()
    ]  # a stage may change a loss
    for name, task in every:
        if task.loss == "sigmoid" and name not in model.logit_biases:
            model.logit_biases[name] = nn.Parameter(torch.tensor(task.bias))
    dims = {dim for _, task in every for dim in task.matryoshka_dims} or set(
        model.config.matryoshka_dims
    )
    check_prefixes(sorted(dims), model.config.embed_dim)
    update = {
        "logit_scales": names,
        "logit_biases": tuple(model.logit_biases),
        "matryoshka_dims": tuple(sorted(dims)),
    }
    model.config = model.config.model_copy(update=update)
    return model


def prepare_model(
    model: DualEncoder, config: TrainConfig, device: torch.device
) -> DualEncoder:
    """Put the model on its device in its precision and freeze what is to be frozen.

    Raises ValueError if nothing would learn, or for live batch normalisation in a batch that is cut
    or spread.
    """
    model = model.to(
        device, torch.float64 if config.precision == "float64" else torch.float32
    ).train()
    learned = {
        name
        for stage in config.plan
        for name, task in stage.tasks.items()
        if task.learns_temperature
    }
    for name, scale in model.logit_scales.items():
        scale.requires_grad_(name in learned)
    for kind, settings in (
        ("image", config.towers.image),
        ("text", config.towers.text),
    ):
        tower = getattr(model, kind)
        if tower is not None and settings.freeze:
            tower.backbone.requires_grad_(False).eval()
        elif tower is not None and settings.frozen_layers:
            _freeze_first_layers(tower.backbone, settings.frozen_layers, kind)
    for stage in config.plan:
        for name, task in stage.tasks.items():
            _check_task_learns(
                model,
                name,
                ("image", "text") if task.kind == "image-text" else ("text",),
            )
    for kind, settings in (
        ("image", config.towers.image),
        ("text", config.towers.text),
    ):
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
    """Leave out a share of the patches while training (FLIP; Li et al., 2023), by the backbone's
    own module for it.
    """
    backbone: Any = getattr(tower, "backbone", None)
    if kind == "image" and hasattr(backbone, "patch_drop"):
        from timm.layers import PatchDropout, PatchDropoutWithIndices

        # Those without an identity there (EVA, NaFlex) turn their rotary positions by the indices
        # that are kept.
        turns = isinstance(backbone.patch_drop, (type(None), PatchDropoutWithIndices))
        kind_of_drop = PatchDropoutWithIndices if turns else PatchDropout
        backbone.patch_drop = kind_of_drop(
            share, num_prefix_tokens=getattr(backbone, "num_prefix_tokens", 0)
        )
    elif kind == "image" and hasattr(backbone, "patch_dropout"):
        from open_clip.transformer import PatchDropout as OpenClipPatchDropout

        backbone.patch_dropout = OpenClipPatchDropout(share)
    else:
        raise ValueError(
            f"towers.{kind}.patch_dropout {share} needs a vision transformer, and that "
            "tower is none; set it to 0."
        )


def _refuse_live_batch_norm(model: DualEncoder, config: TrainConfig) -> None:
    """Batch normalisation sees what is encoded together: its gradients would hang on how a batch is
    cut or spread.
    """
    ranks = distributed.world_size()
    images = [
        task.global_batch // ranks
        for stage in config.plan
        for task in stage.tasks.values()
        if task.kind == "image-text"
    ]
    is_cut = {
        "image": config.step.micro_batch is not None
        and config.step.micro_batch < max(images, default=0),
        "text": True,  # into chunks of a token budget
    }
    for name, module in model.named_modules():
        is_live = (
            isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        )
        if is_live and (
            ranks > 1 or is_cut[name.partition(".")[0].removesuffix("_projection")]
        ):
            how = f"spread over {ranks} ranks" if ranks > 1 else "cut into chunks"
            raise ValueError(
                f"{name} normalises over the batch, which is {how} here, so that its gradients "
                "would depend on that; use a tower with LayerNorm or GroupNorm, freeze it, or "
                "train in one process without micro_batch."
            )


def _check_task_learns(model: DualEncoder, task: str, kinds: tuple[str, ...]) -> None:
    for kind in kinds:
        if getattr(model, kind) is None:
            raise ValueError(
                f"task {task!r} needs {kind} and the model has no {kind} tower; start "
                "from another model."
            )
    parts = [
        part
        for kind in kinds
        for part in (getattr(model, kind), getattr(model, f"{kind}_projection"))
    ]
    if not any(
        parameter.requires_grad for part in parts for parameter in part.parameters()
    ):
        raise ValueError(
            f"task {task!r} would train nothing: its towers are frozen and have no "
            "projection; unfreeze one."
        )


def _freeze_first_layers(backbone: nn.Module, count: int, kind: str) -> None:
    """Freeze what comes before the blocks (embeddings, stem) and the first `count` of them: no
    backward pass there.
    """
    blocks = blocks_of(backbone)
    if not blocks:
        raise ValueError(
            f"towers.{kind}.frozen_layers needs a tower that is one row of blocks; use "
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
    """The blocks of a backbone that is one row of them; none of another."""
    lists: list[list[nn.Module]] = [
        [
            child
            for child in parent.children()
            if isinstance(child, (nn.ModuleList, nn.Sequential))
            and count_parameters(child)
        ]
        for parent in backbone.modules()
    ]
    largest = max(
        lists, key=lambda found: sum(map(count_parameters, found)), default=[]
    )
    return list(largest[0].children()) if len(largest) == 1 else []
