"""Text models of sentence-transformers and of transformers: "hf:FOLDER" or "hf:OWNER/NAME".

The settings lie in several files. Each one is obeyed, so that the vectors are those of
sentence-transformers, or refused by its name:

    modules.json                       Transformer, Pooling, Normalize; other modules are refused
    sentence_bert_config.json          max_seq_length, do_lower_case
    tokenizer_config.json              model_max_length, where there is no max_seq_length
    1_Pooling/config.json              mean, class or last token; include_prompt must be true
    config_sentence_transformers.json  prompts, default_prompt_name, truncate_dim,
                                       similarity_fn_name
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from ..hub import local_folder
from ..model import DualEncoder, build_model
from ..model_config import ModelConfig, TextTowerConfig
from ..preprocess.tokenizers import Tokenizer, load_tokenizer, tokenizer_settings
from ..towers.transformers import read_settings

_POOLING: dict[str, Literal["mean", "cls", "last"]] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}

# The defaults of a Transformer module; any other value is refused.
_PLAIN: dict[str, Any] = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "processing_kwargs": {},
    "query_length": None,
    "document_length": None,
    "query_expansion": None,
    "model_args": {},
    "model_kwargs": {},
    "tokenizer_args": {},
    "processor_kwargs": {},
    "config_args": {},
    "config_kwargs": {},
}
_PLAIN_TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}
# Older versions named the file after the architecture: sentence_roberta_config.json.
_MODULE_FILES = (
    "bert",
    "roberta",
    "distilbert",
    "camembert",
    "albert",
    "xlm-roberta",
    "xlnet",
)

_NO_LIMIT = 1_000_000  # transformers writes 1e30 for a tokenizer without a length
# Their first position is the one after the padding's id.
_COUNT_FROM_PAD = ("roberta", "xlm-roberta", "camembert", "mpnet")

PREFIX = "hf:"


class _Layout(NamedTuple):
    """The modules of modules.json."""

    backbone: Path
    pooling: Path | None  # None: there is no modules.json
    is_normalized: bool


def detect(source: str) -> bool:
    """Whether the source is "hf:NAME"."""
    return source.startswith(PREFIX)


def load(source: str) -> tuple[DualEncoder, Tokenizer]:
    """Load a text encoder, pooled as its sentence-transformers files say.

    Without these files the pooling is the mean.

    source: "hf:FOLDER" or "hf:OWNER/NAME", a sentence-transformers or a transformers model.

    Raises ValueError for a module or a setting that is not supported, by its name, and for
    incomplete weights or an incomplete tokenizer.
    """
    folder = local_folder(source.removeprefix(PREFIX), source)
    layout = _read_layout(folder)
    module = _read_module(layout.backbone)
    settings = read_settings(str(layout.backbone), {})
    width = getattr(settings, "hidden_size", None)
    if width is None:
        raise ValueError(
            f"{layout.backbone} has no config.json with a hidden_size; give the folder "
            "of a text encoder."
        )

    whole = _read(folder / "config_sentence_transformers.json")
    _check_model(folder, whole, layout.is_normalized)
    dim = _truncated(folder, whole.get("truncate_dim"), width)

    text = TextTowerConfig(
        name=str(layout.backbone),
        pretrained=True,
        pooling="mean" if layout.pooling is None else _read_pooling(layout.pooling),
        projection="none" if dim == width else "linear",
        max_length=_max_length(layout.backbone, module, settings),
        clean="lower" if module.get("do_lower_case") else "none",
    )
    tokenizer, text = load_tokenizer(text)
    model = build_model(
        ModelConfig(
            embed_dim=dim,
            text=text,
            prompts=_prompts(folder, whole),
            matryoshka_dims=_matryoshka_dims(settings, dim),
        )
    )
    if dim != width:
        assert isinstance(model.text_projection, nn.Linear)
        with torch.no_grad():  # the first dimensions, as they are
            model.text_projection.weight.copy_(torch.eye(dim, width))
    return model, tokenizer


def _read_layout(folder: Path) -> _Layout:
    """Find the backbone and the pooling by modules.json."""
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder} is an adapter (adapter_config.json); merge it into its model and save that."
        )

    file = folder / "modules.json"
    if not file.is_file():
        return _Layout(folder, None, False)

    paths: dict[str, Path] = {}
    for module in _read(file, list):
        kind = module["type"].rsplit(".", 1)[-1]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise ValueError(
                f"{folder} has a {module['type']} module, which is not supported; use a "
                "model of Transformer + Pooling."
            )
        paths[kind] = folder / module["path"]

    for kind in ("Transformer", "Pooling"):
        if kind not in paths:
            raise ValueError(
                f"{file} has no {kind} module; use a model of Transformer + Pooling."
            )
    return _Layout(paths["Transformer"], paths["Pooling"], "Normalize" in paths)


def _read_module(backbone: Path) -> dict[str, Any]:
    """Read the settings of the Transformer module; refuses those that are not supported."""
    files = [backbone / f"sentence_{kind}_config.json" for kind in _MODULE_FILES]
    file = next((file for file in files if file.is_file()), files[0])
    module: dict[str, Any] = _read(file)

    for key, plain in _PLAIN.items():
        value = module.get(key) or plain
        if isinstance(value, dict):
            value = dict(value)
            value.pop("trust_remote_code", None)
        if value != plain:
            raise ValueError(
                f"{file} sets {key} to {value!r:.100}, which is not supported; use a "
                "model that does not set it."
            )

    modalities = module.get("modality_config") or {"text": _PLAIN_TEXT}
    if modalities.get("text") != _PLAIN_TEXT:
        raise ValueError(
            f"{file} reads text as {modalities.get('text')!r:.100} (modality_config), which is "
            f"not supported; use a model that reads it as {_PLAIN_TEXT}."
        )
    return module


def _read_pooling(folder: Path) -> Literal["mean", "cls", "last"]:
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(
            f"{file} is missing, so the pooling is unknown; copy the whole folder."
        )
    settings = _read(file)

    if settings.get("include_prompt", True) is not True:
        raise ValueError(
            f"{file} leaves the prompt out of the pooling (include_prompt), which is not "
            "supported; use a model that pools over the prompt too."
        )

    mode = settings.get("pooling_mode")
    if isinstance(mode, list) and len(mode) == 1:
        mode = mode[0]
    if mode is not None:
        modes = [f"pooling_mode_{mode}"]
    else:
        keys = (key for key in settings if key.startswith("pooling_mode_"))
        modes = [key for key in keys if settings[key] is True]

    # "pooling_mode_mean" stands for "pooling_mode_mean_tokens".
    prefixes = tuple(modes)
    chosen = [known for key, known in _POOLING.items() if key.startswith(prefixes)]
    if len(chosen) != 1 or len(modes) != 1:
        raise ValueError(
            f"{folder} pools by {modes}; only one of {sorted(set(_POOLING.values()))} is supported."
        )
    return chosen[0]


def _max_length(backbone: Path, module: Mapping[str, Any], settings: Any) -> int:
    """The number of tokens that a text is cut to."""
    length = module.get("max_seq_length")
    if length:
        return _checked_length(backbone, length)

    tokenizer = tokenizer_settings(str(backbone))
    positions = getattr(settings, "max_position_embeddings", None)
    if positions is not None and settings.model_type in _COUNT_FROM_PAD:
        positions -= settings.pad_token_id + 1

    limits = (positions, tokenizer.get("model_max_length", tokenizer.get("max_len")))
    known = [
        int(limit) for limit in limits if limit is not None and 0 < limit < _NO_LIMIT
    ]
    if not known:
        raise ValueError(
            f"{backbone} has no max_seq_length; write it into its sentence_bert_config.json."
        )
    return min(known)


def _checked_length(backbone: Path, length: Any) -> int:
    if isinstance(length, bool) or not isinstance(length, int) or length < 3:
        raise ValueError(
            f"{backbone} has max_seq_length {length!r:.60} in its sentence_bert_config.json; "
            "write the number of tokens that a text is cut to (3 or more), or remove it."
        )
    return length


def _check_model(folder: Path, whole: Mapping[str, Any], is_normalized: bool) -> None:
    kind = whole.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise ValueError(
            f"{folder} is a {kind}, which does not give one vector per text; use a "
            "SentenceTransformer."
        )

    similarity = whole.get("similarity_fn_name") or "cosine"
    # Unit vectors are ranked the same by all three.
    same_ranking = ("cosine", "dot", "euclidean") if is_normalized else ("cosine",)
    if similarity not in same_ranking:
        raise ValueError(
            f"{folder} compares vectors by {similarity!r} (similarity_fn_name), which ranks "
            "differently from the cosine; use a model that was trained for the cosine."
        )


def _truncated(folder: Path, wanted: Any, width: int) -> int:
    """The length that the model truncates its vectors to."""
    if wanted is None:
        return width
    if not isinstance(wanted, int) or wanted < 1:
        raise ValueError(
            f"{folder} has truncate_dim {wanted!r}; write a number from 1 to {width}, or "
            "remove it."
        )
    return min(wanted, width)


def _prompts(folder: Path, whole: Mapping[str, Any]) -> dict[str, str]:
    known = whole.get("prompts") or {}
    document = known.get("document") or known.get("passage") or known.get("corpus")
    prompts = {"query": known.get("query") or "", "document": document or ""}

    default = whole.get("default_prompt_name")
    if default is not None:
        if default not in known:
            raise ValueError(
                f"{folder} has default_prompt_name {default!r}, which is not one of its prompts "
                f"{sorted(known)}; add it to them, or set it to null."
            )
        prompts["default"] = known[default] or ""
    return prompts


def _matryoshka_dims(settings: Any, dim: int) -> tuple[int, ...]:
    """The lengths in config.json that the model was trained to be truncated to."""
    listed = (
        getattr(settings, "matryoshka_dims", None)
        or getattr(settings, "matryoshka_dimensions", None)
        or ()
    )
    lengths = {int(length) for length in listed}
    return tuple(sorted(length for length in lengths if 0 < length < dim))


def _read(file: Path, kind: type[Any] = dict) -> Any:
    """Read a JSON file that holds an object, or a list; a missing file is an empty one."""
    if not file.is_file():
        return kind()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}); copy it again.") from None
    if not isinstance(content, kind):
        raise ValueError(
            f"{file} holds a {type(content).__name__}, not a {kind.__name__}; copy it again."
        )
    return content
