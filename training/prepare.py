"""The model that a run starts from: made or loaded, on its device, with what is frozen frozen."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from unimodal.checkpoint import count_parameters
from unimodal.config import ModelConfig
from unimodal.embedder import load
from unimodal.model import DualEncoder, build_model
from unimodal.preprocess import Tokenizer, load_tokenizer

from . import distributed
from .config import TrainConfig


def make_model(config: TrainConfig, checkpoint: Path | None) -> tuple[DualEncoder, Tokenizer]:
    """From a checkpoint, from `init`, or from names; the same weights on every rank."""
    source = checkpoint or config.init
    tasks = dict.fromkeys(name for stage in config.plan for name in stage.tasks)
    torch.manual_seed(config.seed)
    if source is not None:
        embedder = load(source, device="cpu")
        model, tokenizer = embedder.models[0], embedder.tokenizer
        if tokenizer is None:
            raise ValueError(
                f"init {source!r} has no text tower, and every task has a text side; start from another model."
            )
        wanted = tuple({**dict.fromkeys(model.config.logit_scales), **tasks})
        return _with_logit_scales(model, wanted, config), tokenizer
    assert config.model is not None
    settings = config.model.model_dump(exclude_unset=True)
    if config.model.text is None:
        raise ValueError("the recipe's model has no text tower and every task needs one; add model.text.")
    tokenizer, text = load_tokenizer(config.model.text)
    model = build_model(ModelConfig(**{**settings, "text": text}))
    return _with_logit_scales(model, tuple(tasks), config), tokenizer


def _with_logit_scales(model: DualEncoder, names: tuple[str, ...], config: TrainConfig) -> DualEncoder:
    """Give every task its logit scale; a saved one stays unless the recipe names a temperature."""
    tasks = {name: task for stage in reversed(config.plan) for name, task in stage.tasks.items()}
    for name in names:
        if name not in model.logit_scales or (name in tasks and tasks[name].temperature is not None):
            start = torch.tensor(-math.log(tasks[name].start_temperature))
            model.logit_scales[name] = nn.Parameter(start)
    model.config = model.config.model_copy(update={"logit_scales": names})
    return model


def prepare_model(model: DualEncoder, config: TrainConfig, device: torch.device) -> DualEncoder:
    """Put the model on its device in its precision and freeze what is to be frozen.

    Raises ValueError if nothing would learn, or for live batch normalisation across ranks.
    """
    model = model.to(device, torch.float64 if config.precision == "float64" else torch.float32).train()
    learned = {name for stage in config.plan for name, task in stage.tasks.items() if task.learns_temperature}
    for name, scale in model.logit_scales.items():
        scale.requires_grad_(name in learned)
    for kind, settings in (("image", config.towers.image), ("text", config.towers.text)):
        tower = getattr(model, kind)
        if tower is not None and settings.freeze:
            tower.backbone.requires_grad_(False).eval()
        elif tower is not None and settings.frozen_layers:
            _freeze_first_layers(tower.backbone, settings.frozen_layers, kind)
    for stage in config.plan:
        for name, task in stage.tasks.items():
            _check_task_learns(model, name, ("image", "text") if task.kind == "image-text" else ("text",))
    live = [name for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training]  # fmt: skip
    if live and distributed.world_size() > 1:
        raise ValueError(
            f"{live[0]} normalises over the batch, which {distributed.world_size()} ranks would each do for a part; "
            "use a tower with LayerNorm or GroupNorm, freeze it, or train in one process."
        )
    if config.grad_checkpointing:
        model.set_grad_checkpointing()
    return model


def _check_task_learns(model: DualEncoder, task: str, kinds: tuple[str, ...]) -> None:
    for kind in kinds:
        if getattr(model, kind) is None:
            raise ValueError(f"task {task!r} needs {kind} and the model has no {kind} tower; start from another model.")
    parts = [part for kind in kinds for part in (getattr(model, kind), getattr(model, f"{kind}_projection"))]
    if not any(parameter.requires_grad for part in parts for parameter in part.parameters()):
        raise ValueError(
            f"task {task!r} would train nothing: its towers are frozen and have no projection; unfreeze one."
        )


def _freeze_first_layers(backbone: nn.Module, count: int, kind: str) -> None:
    """Freeze what comes before the blocks (embeddings, stem) and the first `count` of them: no backward pass there."""
    lists: list[list[nn.Module]] = [
        [
            child
            for child in parent.children()
            if isinstance(child, (nn.ModuleList, nn.Sequential)) and count_parameters(child)
        ]
        for parent in backbone.modules()
    ]
    largest = max(lists, key=lambda found: sum(map(count_parameters, found)), default=[])
    if len(largest) != 1:
        raise ValueError(
            f"towers.{kind}.frozen_layers needs a tower that is one row of blocks; use freeze, or set it to 0."
        )
    blocks = list(largest[0].children())
    if count > len(blocks):
        raise ValueError(
            f"towers.{kind}.frozen_layers {count} is over the {len(blocks)} blocks of that tower; lower it."
        )
    first = next(iter(blocks[0].parameters()))
    for parameter in backbone.parameters():
        if parameter is first:
            break
        parameter.requires_grad_(False)
    for block in blocks[:count]:
        block.requires_grad_(False).eval()
