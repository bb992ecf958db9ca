"""A recipe: everything that decides what weights come out, typed and checked before anything is
loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from unimodal.config import Config, merge, parse_config
from unimodal.model_config import ModelConfig
from unimodal.shards.config import StorageConfig


class SourceConfig(Config):
    """Shards that one task draws from."""

    # A tar, a folder of tars, a glob, a brace pattern or a list of those: relative to data_root, or
    # a URL.
    path: str | tuple[str, ...]
    weight: float = Field(
        default=1.0, ge=0
    )  # its share of the task's batches, relative to the other sources
    epochs: int | None = Field(
        default=None, gt=0
    )  # how often it is seen at most; then the others share its part

    @property
    def paths(self) -> tuple[str, ...]:
        """The path, or the list of them."""
        return (self.path,) if isinstance(self.path, str) else self.path


class AugmentConfig(Config):
    """What training does to an image on top of the model's preprocessing."""

    crop_scale: tuple[float, float] = (
        0.9,
        1.0,
    )  # share of the area that a random crop keeps (open_clip's default)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False  # mirror one image in two: wrong for images with writing

    @model_validator(mode="after")
    def _are_ranges(self) -> AugmentConfig:
        for name, (low, high) in (
            ("crop_scale", self.crop_scale),
            ("crop_ratio", self.crop_ratio),
        ):
            if not 0 < low <= high or (name == "crop_scale" and high > 1):
                raise ValueError(
                    f"{name} ({low}, {high}) is no range of positive numbers; write for "
                    "example (0.9, 1.0)."
                )
        return self


class NegativesConfig(Config):
    """What InfoNCE takes as negative beside the documents of the other queries, and how much it
    counts.

    The sources of each are in `training.losses.contrastive.Negatives`, which this fills.
    """

    # Leave out in-batch ones that are closer than the positive by more than this; Qwen3: 0.1.
    margin: float | None = Field(default=None, ge=0)
    hardness: float = Field(
        default=0.0, ge=0
    )  # exp(hardness x cosine) weighs in-batch negatives; LLaVE: 9
    hard_negative_hardness: float = Field(
        default=0.0, ge=0
    )  # the same for hard negatives; EmbeddingGemma: 5
    query_query: bool = False
    document_document: bool = False


class TaskConfig(Config):
    """One contrastive task: what its batches hold, its batch size, text length, loss and
    temperature.

    A global batch comes from one source (unless `mixed`), and its negatives never leave it.
    """

    kind: Literal["image-text", "text-text"]
    sources: dict[str, SourceConfig] = Field(min_length=1)
    # a global batch holds samples of all sources by their weights, instead of being of one
    mixed: bool = False
    global_batch: int = Field(gt=1)
    streams: int | None = Field(
        default=None, gt=0
    )  # canonical streams; None: the largest power of two up to 64
    share: float = Field(
        default=1.0, gt=0
    )  # schedule alternate: its part of the steps; joint: the weight of its loss
    max_length: int = Field(default=77, gt=2)  # tokens
    num_negatives: int = Field(
        default=0, ge=0
    )  # text-text: hard negatives a query; samples must have that many
    caption: Literal["random", "first", "shortest", "longest"] = (
        "random"  # image-text: which of an image's captions
    )
    augment: AugmentConfig = AugmentConfig()
    # Jina CLIP v1 (Koukounas et al., 2024, section 4): text fixed at 0.05, image learned from 0.07
    # with the scale clamped at 100 (Radford et al., 2021, section 2.5). None takes that default of
    # the kind.
    temperature: float | None = Field(default=None, gt=0)
    learn_temperature: bool | None = None
    max_scale: float = Field(default=100.0, gt=0)
    # sigmoid learns a bias as well; cosent wants samples with a score, distillation with a
    # teacher's similarities of the document and each hard negative; own_negatives sees no other
    # queries' documents (classification).
    loss: Literal["info_nce", "sigmoid", "cosent", "distillation", "own_negatives"] = (
        "info_nce"
    )
    matryoshka_dims: tuple[
        int, ...
    ] = ()  # prefixes that are trained beside the whole vector
    # pairs that share a text, an image or a label are not each other's negatives
    mask_duplicates: bool = True
    negatives: NegativesConfig = NegativesConfig()
    bias: float = -10.0  # sigmoid: where its bias starts (SigLIP's)
    teacher_temperature: float = Field(
        default=0.05, gt=0
    )  # distillation: of the teacher's similarities
    accumulate: int = Field(
        default=1, gt=0
    )  # global batches an update, each with its own negatives

    @property
    def start_temperature(self) -> float:
        """The temperature of the first step."""
        return self.temperature or (0.07 if self.kind == "image-text" else 0.05)

    @property
    def learns_temperature(self) -> bool:
        """Whether the logit scale is trained."""
        return (
            self.kind == "image-text"
            if self.learn_temperature is None
            else self.learn_temperature
        )

    @property
    def num_streams(self) -> int:
        """Canonical streams: what the world size must divide, and what divides the global batch."""
        if self.streams is not None:
            return self.streams
        return max(
            count
            for count in (1, 2, 4, 8, 16, 32, 64)
            if self.global_batch % count == 0
        )

    @model_validator(mode="after")
    def _fits_together(self) -> TaskConfig:
        if self.global_batch % self.num_streams:
            raise ValueError(
                f"global_batch {self.global_batch} is not a multiple of streams {self.streams}; "
                "set global_batch to "
                f"{-(-self.global_batch // self.num_streams) * self.num_streams}, or streams to "
                f"{math.gcd(self.global_batch, self.num_streams)}."
            )
        if not any(source.weight for source in self.sources.values()):
            raise ValueError(
                f"the sources {', '.join(self.sources)} all have weight 0; give one a "
                "weight above it."
            )
        if self.mixed and any(source.epochs for source in self.sources.values()):
            raise ValueError(
                "epochs of a source bound its batches and mixed=true has none of one "
                "source; drop one."
            )
        if self.num_negatives and self.kind == "image-text":
            raise ValueError(
                f"num_negatives {self.num_negatives} is for text-text tasks; set it to 0."
            )
        if (
            self.loss in ("cosent", "distillation", "own_negatives")
            and self.kind == "image-text"
        ):
            raise ValueError(
                f"loss {self.loss!r} is for text-text tasks; use 'info_nce' or 'sigmoid'."
            )
        needs_negatives = self.loss in ("distillation", "own_negatives")
        if self.loss != "info_nce" and bool(self.num_negatives) is not needs_negatives:
            way_out = (
                "set it to the number that every sample has."
                if needs_negatives
                else "set it to 0."
            )
            raise ValueError(
                f"loss {self.loss!r} with num_negatives {self.num_negatives}: {way_out}"
            )
        if self.loss != "info_nce" and self.negatives != NegativesConfig():
            raise ValueError(
                f"negatives.* belong to the loss 'info_nce' and loss is {self.loss!r}; "
                "take them out."
            )
        for name, loss in (
            ("bias", "sigmoid"),
            ("teacher_temperature", "distillation"),
        ):
            if (
                self.loss != loss
                and getattr(self, name) != type(self).model_fields[name].default
            ):
                raise ValueError(
                    f"{name} belongs to the loss {loss!r} and loss is {self.loss!r}; take it out."
                )
        if self.negatives.hard_negative_hardness and not self.num_negatives:
            raise ValueError(
                "negatives.hard_negative_hardness needs hard negatives; set "
                "num_negatives, or take it out."
            )
        if (
            self.learns_temperature
            and not 1 <= 1 / self.start_temperature <= self.max_scale * (1 + 1e-9)
        ):
            raise ValueError(
                f"temperature {self.start_temperature:g} is a scale of "
                f"{1 / self.start_temperature:g}, which is not between 1 and max_scale "
                f"{self.max_scale:g}; {self._way_out_of_scale()}."
            )
        return self

    def _way_out_of_scale(self) -> str:
        scale = 1 / self.start_temperature
        if self.max_scale < 1:
            return "set max_scale to 100, and temperature to a number from 0.01 to 1"
        lower = f"set temperature to a number from {1 / self.max_scale:g} to 1"
        return (
            f"{lower}, or max_scale to {math.ceil(scale):g}"
            if scale > self.max_scale
            else lower
        )

    @field_validator("matryoshka_dims")
    @classmethod
    def _different_lengths(cls, dims: tuple[int, ...]) -> tuple[int, ...]:
        if any(dim < 1 for dim in dims) or len(set(dims)) < len(dims):
            raise ValueError(
                f"matryoshka_dims {list(dims)} are no different lengths from 1 on; write "
                "for example [64, 256]."
            )
        return tuple(sorted(dims))


class OptimConfig(Config):
    """AdamW, linear warm-up, cosine decay."""

    lr: float = Field(default=1e-3, gt=0)
    betas: tuple[float, float] = (
        0.9,
        0.98,
    )  # 0.98: beta2 of CLIP and Jina CLIP for transformers on large batches
    eps: float = 1e-6
    weight_decay: float = Field(
        default=0.05, ge=0
    )  # of matrices; vectors, biases and logit scales have none
    warmup_steps: int = Field(default=0, ge=0)
    min_lr: float = Field(default=0.0, ge=0)  # where the cosine ends
    clip_norm: float = Field(default=1.0, gt=0)


class TowerOptimConfig(Config):
    """How one tower learns."""

    lr_scale: float = Field(default=1.0, gt=0)  # its learning rate / optim.lr
    patch_dropout: float = Field(
        default=0.0, ge=0, lt=1
    )  # image: share of the patches left out (FLIP; Li et al., 2023)
    # the backbone stays as it is (and in evaluation mode); its projection still learns
    freeze: bool = False
    frozen_layers: int = Field(
        default=0, ge=0
    )  # the embeddings and so many of its first blocks stay as they are

    @model_validator(mode="after")
    def _drops_what_it_trains(self) -> TowerOptimConfig:
        if self.freeze and self.patch_dropout:
            raise ValueError(
                f"patch_dropout {self.patch_dropout} has no use in a frozen tower; set it to 0."
            )
        return self


class TowersConfig(Config):
    """How each tower learns."""

    image: TowerOptimConfig = TowerOptimConfig()
    text: TowerOptimConfig = TowerOptimConfig()


class StepConfig(Config):
    """How a batch is cut and computed. Nothing here changes a gradient beyond rounding."""

    micro_batch: int | None = Field(
        default=None, gt=0
    )  # images of one chunk; None: a rank's whole batch
    token_budget: int = Field(
        default=4096, gt=0
    )  # padded tokens of one length-sorted chunk of texts
    # GiB of activations kept between forward and backward pass; chunks over it are computed twice.
    # None: what is free, 0: every chunk is computed twice, as GradCache does.
    graph_memory: float | None = Field(default=None, ge=0)
    loss_tile: int = Field(
        default=1024, gt=0
    )  # InfoNCE of more than two tiles of queries is computed tile by tile
    grad_checkpointing: bool = False  # recompute each block's activations
    compile: bool = False  # torch.compile the towers


class EvalConfig(Config):
    """Validation during training."""

    suite: str  # a shipped suite (mini) or a YAML file
    data_root: str | None = None  # None: the recipe's
    tasks: tuple[str, ...] = ()  # of the suite; empty: all
    split: str = "val"
    every: int = Field(gt=0)  # steps
    best: str = ""  # "task metric" whose highest value decides what RUN/best keeps


class Stage(Config):
    """A stretch of steps with one schedule, one set of tasks and one learning-rate curve."""

    name: str
    steps: int = Field(gt=0)
    schedule: Literal["alternate", "joint"]
    tasks: dict[str, TaskConfig] = Field(min_length=1)
    optim: OptimConfig

    @field_validator("tasks")
    @classmethod
    def _plain_names(cls, tasks: dict[str, TaskConfig]) -> dict[str, TaskConfig]:
        for name in tasks:
            if not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(
                    f"task name {name!r} may hold letters, digits, '-' and '_' only."
                )
        return tasks


class TrainConfig(Config):
    """A run. Without `stages` it is one stage; each entry of `stages` is laid over the values given
    here.
    """

    run: str  # the folder that it writes
    seed: int = 0
    model: ModelConfig | None = None  # towers by name ...
    init: str | None = (
        None  # ... or a model directory (or anything that unimodal.load takes) to start from
    )
    towers: TowersConfig = TowersConfig()
    data_root: str = "."
    tasks: dict[str, TaskConfig] = Field({})
    schedule: Literal["alternate", "joint"] = "alternate"
    steps: int = Field(default=1000, gt=0)
    optim: OptimConfig = OptimConfig()
    stages: tuple[dict[str, Any], ...] = ()
    eval: EvalConfig | None = None
    precision: Literal["float32", "bfloat16", "float64"] = (
        "float32"  # bfloat16: autocast, weights stay float32
    )
    device: str | None = None  # None: a GPU where there is one
    step: StepConfig = StepConfig()
    parallel: Literal["ddp", "fsdp"] = (
        "ddp"  # of several processes: every one has all weights | a shard of them (FSDP2)
    )
    timeout: float = Field(
        default=600.0, gt=0
    )  # seconds that a process waits for another one before it gives up
    start_timeout: float = Field(
        default=1800.0, gt=0
    )  # the same at the start, until all have joined
    workers: int = Field(default=2, ge=0)  # loader processes of each rank
    storage: StorageConfig = StorageConfig()  # how shards that lie elsewhere come here
    # The share of corrupt samples that ends a run, if they are over 100; 0: the first one does.
    max_skipped: float = Field(default=0.01, ge=0, le=1)
    log_every: int = Field(default=10, gt=0)
    save_every: int = Field(default=500, gt=0)
    keep: int = Field(default=2, gt=0)  # checkpoints
    mirror: str = (
        ""  # a URL (s3://bucket/run, gs://...) where a copy of each checkpoint goes
    )
    tensorboard: bool = False
    wandb: str = ""  # a Weights & Biases project

    @property
    def plan(self) -> list[Stage]:
        """The stages, each with everything spelt out."""
        below = {
            "steps": self.steps,
            "schedule": self.schedule,
            "optim": self.optim.model_dump(),
            "tasks": {name: task.model_dump() for name, task in self.tasks.items()},
        }
        return [
            parse_config(
                Stage,
                merge(
                    {"name": f"stage {number}" if self.stages else "main", **below},
                    stage,
                ),
                source=f"stages.{number}",
            )
            for number, stage in enumerate(self.stages or ({},))
        ]

    @property
    def total_steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.plan)

    @model_validator(mode="after")
    def _can_be_run(self) -> TrainConfig:
        for name in ("logit_scales", "logit_biases", "matryoshka_dims"):
            if self.model is not None and getattr(self.model, name):
                raise ValueError(
                    f"model.{name} is what training finds out; take it out and set "
                    "tasks.NAME.* instead."
                )
        if self.model is not None and self.init is not None:
            raise ValueError(
                "model and init are both given; take one of them out, with model=null or init=null."
            )
        if self.model is None and self.init is None:
            raise ValueError(
                "neither model (towers by name) nor init (a model to start from) is "
                "given; give one."
            )
        if not self.tasks and not any("tasks" in stage for stage in self.stages):
            raise ValueError(
                "there is no task to train; give one, for example tasks.NAME with its "
                "kind and sources."
            )
        names = [stage.name for stage in self.plan]
        if len(set(names)) < len(names):
            raise ValueError(
                f"the stages {', '.join(names)} have one name twice; name them apart."
            )
        for stage in self.plan:
            for name, task in stage.tasks.items():
                if self.model is not None:
                    _check_fits(name, task, self.model)
                needed = ("image", "text") if task.kind == "image-text" else ("text",)
                missing = [
                    tower
                    for tower in needed
                    if self.model is not None and getattr(self.model, tower) is None
                ]
                if missing:
                    raise ValueError(
                        f"task {name!r} is {task.kind} and the model has no {missing[0]} "
                        f"tower; add model.{missing[0]}."
                    )
        return self


def _check_fits(name: str, task: TaskConfig, model: ModelConfig) -> None:
    """Raise ValueError for lengths that the model cannot have. What open_clip's texts can be long,
    only it knows.
    """
    text = model.text
    if (
        text is not None
        and text.library == "transformers"
        and task.max_length > text.max_length
    ):
        raise ValueError(
            f"max_length {task.max_length} of task {name!r} is over the text tower's "
            f"{text.max_length}; set tasks.{name}.max_length to {text.max_length}, or "
            f"model.text.max_length to {task.max_length}."
        )
    check_prefixes(task.matryoshka_dims, model.embed_dim)


def check_prefixes(dims: Sequence[int], embed_dim: int) -> None:
    """Raise ValueError unless each of the lengths is shorter than the vectors."""
    too_long = [dim for dim in dims if dim >= embed_dim]
    if too_long:
        raise ValueError(
            f"matryoshka_dims has {too_long[0]}, which is not a prefix of the {embed_dim} "
            "dimensions of the space (those are always trained); lower it or take it out."
        )
