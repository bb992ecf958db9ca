"""open_clip's models, from which the two towers take their halves.

A model is one of open_clip's own architectures by its name, or lies in a folder
("local-dir:FOLDER") or at the hub ("hf-hub:OWNER/NAME"). The architecture of the latter, and of
text towers that transformers makes, is spelt out in the tower's `kwargs` once it is known, so that
a model directory needs neither the folder nor the hub.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any, Literal

from safetensors import SafetensorError

from ..config import nearest
from ..weights import check_finite
from .light_imports import import_timm

_FOLDER = "local-dir:"
SCHEMAS = ("hf-hub:", _FOLDER)

# What a file of weights that is something else raises, in one of several libraries.
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

_BACKBONE = (
    "hf_config"  # in a spelt-out text_cfg: the configuration of the transformers model
)
# The half that is not wanted, as small as open_clip makes it.
_SMALLEST = {
    "image": {
        "vision_cfg": {
            "image_size": 32,
            "patch_size": 32,
            "layers": 1,
            "width": 64,
            "head_width": 64,
        }
    },
    "text": {
        "text_cfg": {
            "context_length": 8,
            "vocab_size": 8,
            "width": 8,
            "heads": 1,
            "layers": 1,
        }
    },
}


def has_schema(name: str) -> bool:
    """Whether a name says where a model lies, and is not one of open_clip's own architectures."""
    return name.startswith(SCHEMAS)


def without_folder(name: str) -> str:
    """The name that a model directory keeps: where a folder lay is not a property of the model."""
    folder = name.removeprefix(_FOLDER)
    return name if folder == name else f"{_FOLDER}{Path(folder).name}"


def open_clip_settings(name: str) -> dict[str, Any]:
    """Read the architecture of an open_clip model (its `model_cfg`).

    name: one of open_clip's architectures, "hf-hub:OWNER/NAME" or "local-dir:FOLDER".

    Raises ValueError for an unknown name, a folder without open_clip_config.json, or a hub that
    does not answer.
    """
    import_timm()
    import open_clip

    try:
        settings: dict[str, Any] | None = open_clip.get_model_config(name)
    except Exception as error:  # of a folder, or of one of many HTTP clients
        raise _not_made(name, error) from None

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


def open_clip_model(
    name: str,
    pretrained: bool | str,
    kwargs: Mapping[str, Any],
    kind: Literal["image", "text"],
) -> tuple[Any, dict[str, Any]]:
    """Make an open_clip model of which one half is used.

    name: as for `open_clip_settings`; what `kwargs` spell out is not looked up.
    pretrained: a tag or a file of weights; true for what a folder or the hub holds.
    kwargs: values that replace those of the architecture.
    kind: which half; where there are no weights to load, the other one is made as small as can be.

    Returns the model, with `embed_dim` set on it, and the kwargs by which the tower is built again.

    Raises ValueError for an unknown name or tag, and for weights that are not there, not whole or
    not finite.
    """
    import_timm()
    import open_clip

    is_spelt_out = {"embed_dim", "vision_cfg", "text_cfg"} <= kwargs.keys()
    settings = {
        **({} if is_spelt_out and not pretrained else open_clip_settings(name)),
        **kwargs,
    }
    is_standalone = (
        is_spelt_out or has_schema(name) or "hf_model_name" in settings["text_cfg"]
    )

    if pretrained is True and not has_schema(name):
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise ValueError(
            f"open_clip weights have tags; set pretrained to one of {name}'s: "
            f"{', '.join(tags) or 'none'}."
        )

    with _only_errors(
        quiet=not pretrained
    ):  # it warns of random weights, which were asked for
        try:
            if is_standalone and not pretrained:
                model = _from_settings(settings, kind)
            else:
                model = open_clip.create_model(
                    name,
                    pretrained=pretrained if isinstance(pretrained, str) else None,
                    load_weights=bool(pretrained),
                    require_pretrained=bool(pretrained),
                    force_custom_text=True,
                    # a transformers tower's own weights: not asked for, or overwritten at once
                    pretrained_text=False,
                    **kwargs,
                )
        except _UNREADABLE as error:
            raise _not_made(name, error, pretrained) from None

    model.embed_dim = settings["embed_dim"]
    for half in (model.visual, model.text):
        if pretrained:
            check_finite(f"the checkpoint of {name}", half.state_dict())
        if hasattr(half, "output_tokens"):
            half.output_tokens = False  # CoCa's give their tokens too
    return model, _spell_out(settings, model, kind) if is_standalone else dict(kwargs)


def _from_settings(settings: Mapping[str, Any], kind: Literal["image", "text"]) -> Any:
    """A model of random weights, by way of a folder as open_clip reads one: it has no other way
    without a name.
    """
    import_timm()
    import open_clip

    other = _SMALLEST["text" if kind == "image" else "image"]
    settings = {**settings, **other}
    settings.pop("multimodal_cfg", None)  # CoCa's decoder, which neither tower has

    with TemporaryDirectory() as folder:
        text = dict(settings["text_cfg"])
        backbone = text.pop(_BACKBONE, None)
        if backbone is not None:
            (Path(folder) / "config.json").write_text(
                json.dumps(backbone), encoding="utf-8"
            )
            text["hf_model_name"] = folder
        content = {"model_cfg": {**settings, "text_cfg": text}}
        (Path(folder) / "open_clip_config.json").write_text(
            json.dumps(content), encoding="utf-8"
        )
        return open_clip.create_model(
            f"local-dir:{folder}",
            load_weights=False,
            force_custom_text=True,
            pretrained_text=False,
        )


def _spell_out(
    settings: Mapping[str, Any], model: Any, kind: Literal["image", "text"]
) -> dict[str, Any]:
    """All that builds one half again; what the other half is made of stays out."""
    spelt_out = {**settings, **_SMALLEST["text" if kind == "image" else "image"]}
    spelt_out.pop("multimodal_cfg", None)

    text = dict(spelt_out["text_cfg"])
    if "hf_model_name" in text:
        backbone = model.text.config
        text["hf_model_name"] = backbone.model_type
        text["hf_model_pretrained"] = False
        text.pop("hf_tokenizer_name", None)  # the tokenizer is saved beside it
        text[_BACKBONE] = {
            key: value
            for key, value in backbone.to_dict().items()
            if key != "_name_or_path"
        }
    spelt_out["text_cfg"] = text
    return spelt_out


@contextmanager
def _only_errors(quiet: bool) -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.ERROR if quiet else before)
    try:
        yield
    finally:
        logging.disable(before)


def _not_made(
    name: str, error: Exception, pretrained: bool | str = False
) -> ValueError:
    why = shorten(" ".join(str(error).split()), 300, placeholder=" ...")
    weights = f" with weights {pretrained!r}" if pretrained else ""
    return ValueError(f"open_clip cannot make {name!r}{weights} ({why}).")
