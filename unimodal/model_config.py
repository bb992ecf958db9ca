"""The configuration of a model: its towers, its preprocessing, its prompts.

It is saved as config.json in the model directory, and a training recipe holds one under `model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from .config import Config, show


class PreprocessConfig(Config):
    """How an image becomes pixels, in training, evaluation, indexing and serving alike."""

    image_size: int = Field(default=224, gt=0)
    """Height and width of the pixels."""

    resize: Literal["crop", "squash", "pad"] = "crop"
    """crop: scale the shorter edge, then crop the centre; squash: scale both edges; pad: scale the
    longer edge, then add a border."""

    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """How Pillow resizes."""

    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    """Mean of each channel, subtracted from the pixels (default: CLIP's, Radford et al., 2021)."""

    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    """Standard deviation of each channel, by which the pixels are divided (default: CLIP's)."""

    transparency: Literal["white", "black", "drop", "open_clip"] = "white"
    """white, black: lay the image over this colour before the resize; drop: ignore alpha, so that
    hidden colours show; open_clip: resize the image as it is stored, then convert it to RGB."""


def with_transparency(model: Mapping[str, Any]) -> dict[str, Any]:
    """Set `preprocess.transparency` to "drop" in the values of a saved model that lacks the key.

    Models saved before the key existed dropped alpha, and their vectors must not change. In a
    recipe a missing key means the default.
    """
    preprocess = model.get("preprocess")
    if not isinstance(preprocess, Mapping) or "transparency" in preprocess:
        return dict(model)
    return {**model, "preprocess": {**preprocess, "transparency": "drop"}}


_BOOLEANS_OF_YAML_1_1 = ("yes", "no", "on", "off", "y", "n")


def _refuse_boolean_words(value: Any) -> Any:
    """Refuse `yes`, a boolean in YAML 1.1, which would be read as the name of some weights."""
    if isinstance(value, str) and value.lower() in _BOOLEANS_OF_YAML_1_1:
        raise ValueError(
            f"{show(value)} is a string in YAML 1.2; write true or false, or the name of "
            "pretrained weights."
        )
    return value


Pretrained = Annotated[bool | str, BeforeValidator(_refuse_boolean_words)]


class ImageTowerConfig(Config):
    """An image backbone, how its tokens are pooled, and its projection into the shared space."""

    library: Literal["timm", "open_clip"] = "timm"
    """The library that builds the backbone."""

    name: str
    """A timm model, or an open_clip model whose image tower is used."""

    pretrained: Pretrained = False
    """timm: true or a tag; open_clip: a tag such as "openai"."""

    kwargs: dict[str, Any] = Field({})
    """Arguments of the library's constructor, such as {embed_dim: 192, depth: 6}."""

    pooling: Literal["native", "cls", "mean", "attention"] = "native"
    """How tokens become one vector; native: as the backbone itself does."""

    projection: Literal["linear", "mlp", "none"] = "linear"
    """What maps the pooled vector to embed_dim; none: the backbone already has this width."""


class TextTowerConfig(Config):
    """A text backbone, its tokenizer, how its tokens are pooled, and its projection."""

    library: Literal["transformers", "open_clip"] = "transformers"
    """The library that builds the backbone."""

    name: str
    """A hub id, a folder, a transformers model type such as "bert", or an open_clip model."""

    pretrained: Pretrained = False
    """transformers: true; open_clip: a tag such as "openai"."""

    kwargs: dict[str, Any] = Field({})
    """Values of the backbone's own configuration, such as {hidden_size: 192}."""

    tokenizer: str = ""
    """A hub id, a folder or a tokenizer.json; empty: the tokenizer of `name`."""

    max_length: int = Field(default=77, gt=2)
    """Number of tokens that a text is cut to, special tokens included."""

    pad_id: int = 0
    """Id of the padding token."""

    pad_to_max_length: bool = False
    """Pad every text to max_length, for towers with a fixed text length (open_clip's)."""

    clean: Literal["none", "lower", "clip", "whitespace", "canonicalize"] = "none"
    """What happens to a text before the tokenizer; none: nothing; lower: lower case; clip: repair
    HTML and Unicode as CLIP does, then lower case; whitespace: the same without lower case;
    canonicalize: SigLIP's, which also removes punctuation."""

    pooling: Literal["native", "cls", "mean", "last", "attention"] = "mean"
    """How tokens become one vector; native: as the backbone itself does (open_clip)."""

    projection: Literal["linear", "mlp", "none"] = "linear"
    """What maps the pooled vector to embed_dim; none: the backbone already has this width."""


class ModelConfig(Config):
    """A dual encoder. Either tower may be absent: a text-only model still embeds and searches."""

    format_version: Literal[1] = 1
    """Version of the model directory's layout."""

    embed_dim: int = Field(gt=0)
    """Dimension of the shared space."""

    image: ImageTowerConfig | None = None
    """The image tower; null: the model embeds text only."""

    text: TextTowerConfig | None = None
    """The text tower; null: the model embeds images only."""

    preprocess: PreprocessConfig = PreprocessConfig()
    """How an image becomes pixels; pretrained image towers bring their own."""

    prompts: dict[str, str] = Field({"query": "", "document": ""})
    """Prefixes of a text: "query" in encode_query, "document" in encode_document, "default" in
    encode."""

    logit_scales: tuple[str, ...] = ()
    """Tasks whose logit scale is saved with the model."""

    logit_biases: tuple[str, ...] = ()
    """Tasks whose loss has a bias (sigmoid), which is saved with the model."""

    matryoshka_dims: tuple[int, ...] = ()
    """Lengths that the vectors were trained to be truncated to."""

    @model_validator(mode="after")
    def _has_a_tower(self) -> ModelConfig:
        if self.image is None and self.text is None:
            raise ValueError(
                "a model needs an image tower, a text tower or both; set image.name or text.name."
            )
        return self

    @model_validator(mode="after")
    def _matryoshka_dims_fit(self) -> ModelConfig:
        for dim in self.matryoshka_dims:
            if not 0 < dim <= self.embed_dim:
                raise ValueError(
                    f"matryoshka_dims has {dim}, which is not between 1 and embed_dim "
                    f"{self.embed_dim}; take it out."
                )
        return self


def check_truncation(config: ModelConfig, dim: int, name: str = "truncate_dim") -> int:
    """Return a length that the model's vectors may be truncated to.

    A model with `matryoshka_dims` may be truncated to any length, also between those; a model
    without them gives whole vectors only.

    config: the model's configuration.
    dim: the wanted length.
    name: the caller's name of the option, for the message.

    Raises ValueError for a length that the vectors do not have, or for a model that was not
    trained for truncation.
    """
    whole = config.embed_dim

    if isinstance(dim, bool) or not isinstance(dim, Integral):
        raise ValueError(
            f"{name} {dim!r} is of type {type(dim).__name__}; give a whole number from 1 "
            f"to {whole}."
        )

    if not 0 < dim <= whole:
        raise ValueError(f"{name} {dim} is not between 1 and embed_dim {whole}.")

    if dim < whole and not config.matryoshka_dims:
        raise ValueError(
            f"{name} {dim}: this model was not trained for truncation (its config.json has no "
            f"matryoshka_dims), so its vectors stay {whole} long; leave {name} out, train with "
            f"tasks.NAME.matryoshka_dims=[{dim}], or measure the cost of truncation with "
            f"unimodal eval --dims {dim}."
        )

    return dim
