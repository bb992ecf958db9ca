"""Image and text towers whose backbone is one half of an open_clip model.

A model is one of open_clip's own architectures by its name, or lies in a folder
("local-dir:FOLDER") or at the hub ("hf-hub:OWNER/NAME"). The architecture of the latter two, and of
text towers that transformers builds, is spelt out in the tower's `kwargs`, so that a model
directory needs neither the folder nor the hub.

B batch, S image size, L tokens, W width of the tower.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any, Literal

from safetensors import SafetensorError
from torch import Tensor, nn

from ..config import nearest
from ..model_config import ImageTowerConfig, PreprocessConfig, TextTowerConfig
from ..weights import check_finite
from .pooling import POOLING, AttentionPool, mean_pool

Half = Literal["image", "text"]

_FOLDER = "local-dir:"
SCHEMAS = ("hf-hub:", _FOLDER)

# What a broken file of weights raises, in one of several libraries.
_UNREADABLE = (
    RuntimeError,
    OSError,
    ValueError,
    KeyError,
    AttributeError,
    EOFError,
    UnpicklingError,
    SafetensorError,
)

# In a spelt-out text_cfg: the configuration of the transformers model.
_BACKBONE = "hf_config"

# The half that is not used, as small as open_clip builds it.
_SMALLEST_IMAGE = {
    "vision_cfg": {
        "image_size": 32,
        "patch_size": 32,
        "layers": 1,
        "width": 64,
        "head_width": 64,
    }
}
_SMALLEST_TEXT = {
    "text_cfg": {
        "context_length": 8,
        "vocab_size": 8,
        "width": 8,
        "heads": 1,
        "layers": 1,
    }
}
_SMALLEST_OTHER: dict[Half, dict[str, dict[str, int]]] = {
    "image": _SMALLEST_TEXT,
    "text": _SMALLEST_IMAGE,
}

_RESIZE: dict[str, Literal["crop", "pad", "squash"]] = {
    "shortest": "crop",
    "longest": "pad",
    "squash": "squash",
}


class OpenClipImageTower(nn.Module):
    """Normalised pixels (B, 3, S, S) -> (B, width)."""

    def __init__(self, backbone: nn.Module, width: int, pooling: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.width = width
        self.pooling = pooling
        self.attention_pool = AttentionPool(width) if pooling == "attention" else None

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, S, S), normalised -> (B, width)."""
        if self.pooling == "native":
            return self.backbone(pixels)  # type: ignore[no-any-return]  # nn.Module is untyped
        _, tokens = self.backbone(pixels)  # (B, L, W), without the class token
        if self.attention_pool is not None:
            return self.attention_pool(tokens, None)  # type: ignore[no-any-return]
        return mean_pool(tokens, None)


class OpenClipTextTower(nn.Module):
    """Token ids and mask (B, L) -> (B, width)."""

    def __init__(self, backbone: nn.Module, width: int, pooling: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.width = width
        self.pooling = pooling
        self.attention_pool = AttentionPool(width) if pooling == "attention" else None

    @property
    def num_tokens(self) -> int:
        """Number of token ids that have an embedding."""
        backbone: Any = self.backbone
        if hasattr(backbone, "token_embedding"):
            return int(backbone.token_embedding.num_embeddings)
        return int(backbone.transformer.get_input_embeddings().num_embeddings)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids: (B, L) int64, mask: (B, L) bool, true at real tokens -> (B, width)."""
        if self.pooling == "native":
            return self.backbone(ids)  # type: ignore[no-any-return]  # nn.Module is untyped
        _, tokens = self.backbone(ids)  # (B, L, W)
        if self.attention_pool is not None:
            return self.attention_pool(tokens, mask)  # type: ignore[no-any-return]
        return POOLING[self.pooling](tokens, mask)


def build_image_tower(
    config: ImageTowerConfig, preprocess: PreprocessConfig, keep_preprocess: bool
) -> tuple[OpenClipImageTower, PreprocessConfig, ImageTowerConfig]:
    """Build the image tower of an open_clip model.

    keep_preprocess: use `preprocess` as given; otherwise the model brings its own.

    Returns the tower, its preprocessing, and the config that builds it again without a hub.

    Raises ValueError for an unknown name, or a pooling that the backbone does not offer.
    """
    model, kwargs = _build_model(config.name, config.pretrained, config.kwargs, "image")
    backbone = model.visual
    if not keep_preprocess:
        preprocess = _preprocess_of(backbone)

    width = model.embed_dim
    if config.pooling != "native":
        if config.pooling == "cls" or not hasattr(backbone, "output_tokens"):
            raise ValueError(
                f"image.pooling {config.pooling!r} is not offered by open_clip's "
                f"{config.name}; use 'native'."
            )
        backbone.output_tokens = True
        width = backbone.ln_post.normalized_shape[0]
        backbone.proj = None

    resolved = config.model_copy(
        update={
            "name": _without_folder(config.name),
            "pretrained": False,
            "kwargs": kwargs,
        }
    )
    return OpenClipImageTower(backbone, width, config.pooling), preprocess, resolved


def build_text_tower(
    config: TextTowerConfig,
) -> tuple[OpenClipTextTower, TextTowerConfig]:
    """Build the text tower of an open_clip model.

    Returns the tower, and the config that builds it again without a hub.

    Raises ValueError for an unknown name, or a pooling that the backbone does not offer.
    """
    model, kwargs = _build_model(config.name, config.pretrained, config.kwargs, "text")
    backbone: Any = model.text
    # The attention mask has one size, and towers without one (SigLIP) were trained with the
    # padding in sight. A transformers tower inside open_clip takes any length: the tokenizer's is
    # the one it was trained with.
    length = config.max_length
    if hasattr(backbone, "positional_embedding"):
        length = backbone.context_length

    width = model.embed_dim
    if config.pooling != "native":
        if not hasattr(backbone, "token_embedding"):
            raise ValueError(
                f"text.pooling {config.pooling!r} is not offered by open_clip's "
                f"{config.name}; use 'native'."
            )
        backbone.output_tokens = True
        width = backbone.width
        backbone.text_projection = None

    resolved = config.model_copy(
        update={
            "name": _without_folder(config.name),
            "pretrained": False,
            "kwargs": kwargs,
            "tokenizer": "",
            "pad_to_max_length": True,
            "max_length": length,
        }
    )
    return OpenClipTextTower(backbone, width, config.pooling), resolved


def has_schema(name: str) -> bool:
    """Whether a name says where a model lies, rather than naming one of open_clip's own."""
    return name.startswith(SCHEMAS)


def open_clip_settings(name: str) -> dict[str, Any]:
    """Read the architecture of an open_clip model (its `model_cfg`).

    name: one of open_clip's architectures, "hf-hub:OWNER/NAME" or "local-dir:FOLDER".

    Raises ValueError for an unknown name, a folder without open_clip_config.json, or a hub that
    does not answer.
    """
    import open_clip

    try:
        settings: dict[str, Any] | None = open_clip.get_model_config(name)
    except Exception as error:  # of a folder, or of one of many HTTP clients
        raise _not_built(name, error) from None

    if settings is None:
        raise ValueError(
            f"{name!r} is not an open_clip model; {nearest(name, open_clip.list_models())}"
        )
    missing = {"embed_dim", "vision_cfg", "text_cfg"} - settings.keys()
    if missing:
        raise ValueError(
            f"{name!r} has an open_clip_config.json without "
            f"{', '.join(sorted(missing))}; copy it again."
        )
    return settings


def _without_folder(name: str) -> str:
    """The name that a model directory keeps: a folder's path is not a property of the model."""
    if not name.startswith(_FOLDER):
        return name
    return f"{_FOLDER}{Path(name.removeprefix(_FOLDER)).name}"


def _preprocess_of(backbone: Any) -> PreprocessConfig:
    """The preprocessing of an open_clip model."""
    size = backbone.image_size
    settings = backbone.preprocess_cfg
    return PreprocessConfig(
        image_size=size[0] if isinstance(size, tuple) else size,
        mean=settings["mean"],
        std=settings["std"],
        interpolation=settings["interpolation"],
        resize=_RESIZE[settings["resize_mode"]],
        transparency="open_clip",
    )


def _build_model(
    name: str, pretrained: bool | str, kwargs: Mapping[str, Any], half: Half
) -> tuple[Any, dict[str, Any]]:
    """Build an open_clip model of which one half is used.

    name: as for `open_clip_settings`; an architecture that `kwargs` spell out is not looked up.
    pretrained: a tag or a file of weights; true for those of a folder or the hub.
    kwargs: values that replace those of the architecture.
    half: which half; without weights to load, the other one is built as small as possible.

    Returns the model, with `embed_dim` set on it, and the kwargs that build the tower again.

    Raises ValueError for an unknown name or tag, and for weights that are missing, incomplete or
    not finite.
    """
    import open_clip

    is_spelt_out = {"embed_dim", "vision_cfg", "text_cfg"} <= kwargs.keys()
    settings = dict(kwargs)
    if pretrained or not is_spelt_out:
        settings = {**open_clip_settings(name), **kwargs}
    is_standalone = (
        is_spelt_out or has_schema(name) or "hf_model_name" in settings["text_cfg"]
    )

    if pretrained is True and not has_schema(name):
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise ValueError(
            f"open_clip weights have tags; set pretrained to one of {name}'s: "
            f"{', '.join(tags) or 'none'}."
        )

    try:
        if pretrained:
            model = _create(name, pretrained, kwargs)
        elif is_standalone:
            model = _from_settings(settings, half)
        else:
            with _without_warnings():  # of random weights, which are intended
                model = _create(name, False, kwargs)
    except _UNREADABLE as error:
        raise _not_built(name, error, pretrained) from None

    model.embed_dim = settings["embed_dim"]
    for part in (model.visual, model.text):
        if pretrained:
            check_finite(f"the checkpoint of {name}", part.state_dict())
        if hasattr(part, "output_tokens"):
            part.output_tokens = False  # CoCa's return their tokens too
    if is_standalone:
        return model, _spell_out(settings, model, half)
    return model, dict(kwargs)


def _create(name: str, pretrained: bool | str, kwargs: Mapping[str, Any]) -> Any:
    import open_clip

    return open_clip.create_model(
        name,
        pretrained=pretrained if isinstance(pretrained, str) else None,
        load_weights=bool(pretrained),
        require_pretrained=bool(pretrained),
        force_custom_text=True,
        # A transformers tower's own weights are not wanted, or overwritten at once.
        pretrained_text=False,
        **kwargs,
    )


def _from_settings(settings: Mapping[str, Any], half: Half) -> Any:
    """Build a model with random weights from a folder: open_clip needs a name or a folder."""
    import open_clip

    settings = {**settings, **_SMALLEST_OTHER[half]}
    settings.pop("multimodal_cfg", None)  # CoCa's decoder, which neither tower has

    with TemporaryDirectory() as folder:
        text = dict(settings["text_cfg"])
        backbone = text.pop(_BACKBONE, None)
        if backbone is not None:
            _write_json(Path(folder) / "config.json", backbone)
            text["hf_model_name"] = folder
        content = {"model_cfg": {**settings, "text_cfg": text}}
        _write_json(Path(folder) / "open_clip_config.json", content)
        with _without_warnings():  # of random weights, which are intended
            return open_clip.create_model(
                f"{_FOLDER}{folder}",
                load_weights=False,
                force_custom_text=True,
                pretrained_text=False,
            )


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")


def _spell_out(settings: Mapping[str, Any], model: Any, half: Half) -> dict[str, Any]:
    """Everything that builds one half again, without what the other half is made of."""
    spelt_out = {**settings, **_SMALLEST_OTHER[half]}
    spelt_out.pop("multimodal_cfg", None)

    text = dict(spelt_out["text_cfg"])
    if "hf_model_name" in text:
        backbone = model.text.config
        values = backbone.to_dict()
        values.pop("_name_or_path", None)
        text["hf_model_name"] = backbone.model_type
        text["hf_model_pretrained"] = False
        text.pop("hf_tokenizer_name", None)  # the tokenizer is saved with the model
        text[_BACKBONE] = values
    spelt_out["text_cfg"] = text
    return spelt_out


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Drop the warnings that this thread logs on the root logger, where open_clip logs."""
    thread = threading.get_ident()

    def is_kept(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno > logging.WARNING

    root = logging.getLogger()
    root.addFilter(is_kept)
    try:
        yield
    finally:
        root.removeFilter(is_kept)


def _not_built(
    name: str, error: Exception, pretrained: bool | str = False
) -> ValueError:
    why = shorten(" ".join(str(error).split()), 300, placeholder=" ...")
    weights = f" with weights {pretrained!r}" if pretrained else ""
    return ValueError(f"open_clip cannot build {name!r}{weights} ({why}).")
