"""A recipe: everything that determines the weights, typed and checked before anything is loaded."""

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

    path: str | tuple[str, ...]
    """Tar, folder of tars, glob, brace pattern or list of them: below data_root, or a URL."""
    weight: float = Field(default=1.0, ge=0)
    """Share of the task's batches, relative to the other sources."""
    epochs: int | None = Field(default=None, gt=0)
    """Times it is seen at most; after that the other sources take its share."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The path, or the list of them."""
        return (self.path,) if isinstance(self.path, str) else self.path


class AugmentConfig(Config):
    """What training does to an image on top of the model's preprocessing."""

    crop_scale: tuple[float, float] = (
        0.9,
        1.0,
    )
    """Range of the share of the area that a random crop keeps (open_clip's default)."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of a crop's aspect ratio, width / height (torchvision's default)."""
    flip: bool = False
    """Mirror one image in two; wrong for images with writing."""

    @model_validator(mode="after")
    def _are_ranges(self) -> AugmentConfig:
        for name, (low, high) in (
            ("crop_scale", self.crop_scale),
            ("crop_ratio", self.crop_ratio),
        ):
            if not 0 < low <= high or (name == "crop_scale" and high > 1):
                raise ValueError(
                    f"{name} ({low}, {high}) is not a range of positive numbers; write for "
                    "example (0.9, 1.0)."
                )
        return self


class NegativesConfig(Config):
    """Which negatives InfoNCE uses beside the documents of the other queries, and their weights.

    The sources of each are in `training.losses.contrastive.Negatives`, which this fills.
    """

    margin: float | None = Field(default=None, ge=0)
    """Leave out in-batch negatives closer than the positive by more than this (Qwen3: 0.1)."""
    hardness: float = Field(default=0.0, ge=0)
    """Weigh in-batch negatives by exp(hardness x cosine) (LLaVE: 9)."""
    hard_negative_hardness: float = Field(default=0.0, ge=0)
    """Weigh hard negatives by exp(hardness x cosine) (EmbeddingGemma: 5)."""
    query_query: bool = False
    """Use the other queries as negatives of a query."""
    document_document: bool = False
    """Use the other documents as negatives of a document."""


class TaskConfig(Config):
    """One contrastive task: its data, batch size, text length, loss and temperature.

    A global batch comes from one source (unless `mixed`), and its negatives never leave it.
    """

    kind: Literal["image-text", "text-text"]
    """What the two sides of a pair are."""
    sources: dict[str, SourceConfig] = Field(min_length=1)
    """Shards to draw from, by name."""
    mixed: bool = False
    """Fill a global batch from all sources by their weights, not from one."""
    global_batch: int = Field(gt=1)
    """Samples per batch over all ranks; they are each other's negatives."""
    streams: int | None = Field(default=None, gt=0)
    """Canonical streams; default: the largest power of two up to 64 that divides the batch."""
    share: float = Field(default=1.0, gt=0)
    """Share of the steps (schedule alternate), or weight of the loss (joint)."""
    max_length: int = Field(default=77, gt=2)
    """Tokens that a text is cut to."""
    num_negatives: int = Field(default=0, ge=0)
    """Hard negatives per query (text-text); every sample must have that many."""
    caption: Literal["random", "first", "shortest", "longest"] = "random"
    """Which of an image's captions to use (image-text)."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes of the images."""
    temperature: float | None = Field(default=None, gt=0)
    """Temperature of the first step; default: 0.07 for image-text, 0.05 for text-text."""
    learn_temperature: bool | None = None
    """Learn the logit scale; default: for image-text only (Jina CLIP v1, section 4)."""
    max_scale: float = Field(default=100.0, gt=0)
    """Upper bound of the logit scale (Radford et al., 2021, section 2.5)."""
    loss: Literal["info_nce", "sigmoid", "cosent", "distillation", "own_negatives"] = (
        "info_nce"
    )
    """Loss; cosent needs scores, distillation a teacher, own_negatives ignores other queries."""
    matryoshka_dims: tuple[int, ...] = ()
    """Lengths of prefixes to train beside the whole vector."""
    mask_duplicates: bool = True
    """Do not use pairs that share a text, image or label as each other's negatives."""
    negatives: NegativesConfig = NegativesConfig()
    """Weights and choice of negatives of InfoNCE."""
    bias: float = -10.0
    """First value of the bias of the loss sigmoid (SigLIP's)."""
    teacher_temperature: float = Field(default=0.05, gt=0)
    """Temperature of the teacher's similarities (distillation)."""
    accumulate: int = Field(default=1, gt=0)
    """Global batches per update, each with its own negatives."""

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
                f"the sources {', '.join(self.sources)} all have weight 0; set one weight "
                "above 0."
            )
        if self.mixed and any(source.epochs for source in self.sources.values()):
            raise ValueError(
                "epochs of a source limit its batches, but with mixed=true no batch has one "
                "source only; remove one of the two."
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
                f"negatives.* belong to the loss 'info_nce', but loss is {self.loss!r}; "
                "remove them."
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
                    f"{name} belongs to the loss {loss!r}, but loss is {self.loss!r}; remove it."
                )
        if self.negatives.hard_negative_hardness and not self.num_negatives:
            raise ValueError(
                "negatives.hard_negative_hardness needs hard negatives; set "
                "num_negatives, or remove it."
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
                f"matryoshka_dims {list(dims)} must be different lengths of at least 1; write "
                "for example [64, 256]."
            )
        return tuple(sorted(dims))


class OptimConfig(Config):
    """AdamW, linear warm-up, cosine decay."""

    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""
    betas: tuple[float, float] = (
        0.9,
        0.98,
    )
    """Betas of AdamW (0.98: CLIP's and Jina CLIP's for transformers on large batches)."""
    eps: float = 1e-6
    """Epsilon of AdamW."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Weight decay of matrices; vectors, biases and logit scales have none."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up."""
    min_lr: float = Field(default=0.0, ge=0)
    """Learning rate at the end of the cosine."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Norm that the gradient is clipped to."""


class TowerOptimConfig(Config):
    """How one tower learns."""

    lr_scale: float = Field(default=1.0, gt=0)
    """Learning rate of the tower relative to optim.lr."""
    patch_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the image patches left out (FLIP; Li et al., 2023)."""
    freeze: bool = False
    """Keep the backbone fixed, in evaluation mode; the projection still learns."""
    frozen_layers: int = Field(default=0, ge=0)
    """Blocks to keep fixed, with the embeddings below them."""

    @model_validator(mode="after")
    def _drops_what_it_trains(self) -> TowerOptimConfig:
        if self.freeze and self.patch_dropout:
            raise ValueError(
                f"patch_dropout {self.patch_dropout} has no effect in a frozen tower; set it to 0."
            )
        return self


class TowersConfig(Config):
    """How each tower learns."""

    image: TowerOptimConfig = TowerOptimConfig()
    """How the image tower learns."""
    text: TowerOptimConfig = TowerOptimConfig()
    """How the text tower learns."""


class StepConfig(Config):
    """How a batch is cut and computed. Nothing here changes a gradient beyond rounding."""

    micro_batch: int | None = Field(default=None, gt=0)
    """Images per chunk; default: the whole batch of a rank."""
    token_budget: int = Field(default=4096, gt=0)
    """Padded tokens per length-sorted chunk of texts."""
    graph_memory: float | None = Field(default=None, ge=0)
    """GiB of activations to keep; further chunks are recomputed. Default: what is free."""
    loss_tile: int = Field(default=1024, gt=0)
    """Queries per tile of InfoNCE, which is tiled above two tiles."""
    grad_checkpointing: bool = False
    """Recompute each block's activations in the backward pass."""
    compile: bool = False
    """Compile the towers with torch.compile."""


class EvalConfig(Config):
    """Validation during training."""

    suite: str
    """Name of a shipped suite, such as mini, or a YAML file."""
    data_root: str | None = None
    """Folder of the data sets; default: that of the recipe."""
    tasks: tuple[str, ...] = ()
    """Tasks of the suite to score; empty: all."""
    split: str = "val"
    """Split to score."""
    every: int = Field(gt=0)
    """Steps between two validations."""
    best: str = ""
    """"task metric" whose highest value decides what RUN/best keeps."""


class Stage(Config):
    """A stretch of steps with one schedule, one set of tasks and one learning-rate curve."""

    name: str
    """Name of the stage."""
    steps: int = Field(gt=0)
    """Number of steps."""
    schedule: Literal["alternate", "joint"]
    """Order of the tasks: alternate one per step, or joint in every step."""
    tasks: dict[str, TaskConfig] = Field(min_length=1)
    """Tasks by name."""
    optim: OptimConfig
    """Optimizer and learning-rate schedule."""

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
    """A run. Without `stages` it has one stage; each entry of `stages` overrides values."""

    run: str
    """Folder that the run writes."""
    seed: int = 0
    """Seed of weights, data order, augmentation and dropout."""
    model: ModelConfig | None = None
    """Towers to build; instead of `init`."""
    init: str | None = None
    """Model to start from: a model directory, or what unimodal.load takes; instead of `model`."""
    towers: TowersConfig = TowersConfig()
    """How each tower learns."""
    data_root: str = "."
    """Folder that sources are relative to."""
    tasks: dict[str, TaskConfig] = Field({})
    """Tasks by name."""
    schedule: Literal["alternate", "joint"] = "alternate"
    """Order of the tasks: alternate one per step, or joint in every step."""
    steps: int = Field(default=1000, gt=0)
    """Number of steps."""
    optim: OptimConfig = OptimConfig()
    """Optimizer and learning-rate schedule."""
    stages: tuple[dict[str, Any], ...] = ()
    """Stages in order, each laid over the values given here; empty: one stage."""
    eval: EvalConfig | None = None
    """Validation during training; null: none."""
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    """Precision of the computation; bfloat16: autocast, weights stay float32."""
    device: str | None = None
    """Device; default: a GPU where there is one."""
    step: StepConfig = StepConfig()
    """How a batch is cut and computed."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Weights of several processes: ddp: all on each; fsdp: a shard on each (FSDP2)."""
    timeout: float = Field(default=600.0, gt=0)
    """Seconds that a process waits for another before it gives up."""
    start_timeout: float = Field(default=1800.0, gt=0)
    """Seconds that a process waits for all others to join at the start."""
    workers: int = Field(default=2, ge=0)
    """Loader processes per rank."""
    storage: StorageConfig = StorageConfig()
    """How remote shards are fetched and cached."""
    max_skipped: float = Field(default=0.01, ge=0, le=1)
    """Share of corrupt samples that ends a run, above 100 of them; 0: the first one does."""
    log_every: int = Field(default=10, gt=0)
    """Steps between two lines of the log."""
    save_every: int = Field(default=500, gt=0)
    """Steps between two checkpoints."""
    keep: int = Field(default=2, gt=0)
    """Checkpoints to keep."""
    mirror: str = ""
    """URL to copy each checkpoint to, such as s3://bucket/run."""
    tensorboard: bool = False
    """Write the log for TensorBoard too."""
    wandb: str = ""
    """Weights & Biases project to log to."""

    @property
    def plan(self) -> list[Stage]:
        """The stages, each with all its values."""
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
                    f"model.{name} is a result of training; remove it and set "
                    "tasks.NAME.* instead."
                )
        if self.model is not None and self.init is not None:
            raise ValueError(
                "model and init are both given; remove one of them with model=null or init=null."
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
                f"the stages {', '.join(names)} have a duplicate name; give each its own."
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
    """Raise ValueError for lengths that the model cannot have.

    The text length of open_clip's models is known only to open_clip and not checked here.
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
            "dimensions of the space (those are always trained); lower it or remove it."
        )
