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
    """Give every task its logit scale: a new one starts at the task's temperature, a saved one stays as it is."""
    tasks = {name: task for stage in reversed(config.plan) for name, task in stage.tasks.items()}
    for name in names:
        if name not in model.logit_scales:
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
    if not any(parameter.requires_grad for name, parameter in model.named_parameters() if "logit_scales" not in name):
        raise ValueError("both towers are frozen and have no projection: nothing would learn; unfreeze one.")
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


def _freeze_first_layers(backbone: nn.Module, count: int, kind: str) -> None:
    """Freeze what comes before the blocks (embeddings, stem) and the first `count` of them: no backward pass there."""
    lists = [module for module in backbone.modules() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    blocks: list[nn.Module] = list(max(lists, key=count_parameters, default=[]))
    if count > len(blocks):
        raise ValueError(
            f"towers.{kind}.frozen_layers {count} is over the {len(blocks)} blocks of that tower; lower it."
        )
    inside = {id(parameter) for block in blocks for parameter in block.parameters()}
    reached = False
    for parameter in backbone.parameters():
        reached = reached or id(parameter) in inside
        if not reached:
            parameter.requires_grad_(False)
    for block in blocks[:count]:
        block.requires_grad_(False).eval()
