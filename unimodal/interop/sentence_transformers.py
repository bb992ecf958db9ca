"""sentence-transformers' text models: a folder or hub id with modules.json, as a text-only model of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from ..config import ModelConfig, TextTowerConfig
from ..model import DualEncoder, build_model
from ..preprocess import Tokenizer, load_tokenizer

_POOLING: dict[str, Literal["mean", "cls", "last"]] = {
    "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last",
}  # fmt: skip


def from_transformers(folder: Path) -> tuple[DualEncoder, Tokenizer]:
    """A transformers text encoder, pooled as its sentence-transformers files say, or by the mean where there are none.

    Raises ValueError for a pooling or a module (such as Dense) that is not supported.
    """
    backbone, pooling = _module_folders(folder)
    text = TextTowerConfig(
        name=str(backbone), pretrained=True, pooling=_pooling(pooling), projection="none",
        max_length=_max_length(backbone),
        clean="lower" if _read(backbone / "sentence_bert_config.json", {}).get("do_lower_case") else "none",
    )  # fmt: skip
    tokenizer, text = load_tokenizer(text)
    width = _read(backbone / "config.json", {}).get("hidden_size")
    if width is None:
        raise ValueError(f"{backbone} has no config.json with a hidden_size; give the folder of a text encoder.")
    known = _read(folder / "config_sentence_transformers.json", {}).get("prompts") or {}
    prompts = {
        "query": known.get("query") or "",
        "document": next((known[kind] for kind in ("document", "passage", "corpus") if known.get(kind)), ""),
    }
    return build_model(ModelConfig(embed_dim=width, text=text, prompts=prompts)), tokenizer


def _module_folders(folder: Path) -> tuple[Path, Path]:
    """Where the backbone and the pooling are: modules.json says, and only it says what else the model is made of."""
    backbone, pooling = folder, folder / "1_Pooling"
    for module in _read(folder / "modules.json", []):
        kind, path = module["type"].rsplit(".", 1)[-1], folder / module["path"]
        if kind == "Transformer":
            backbone = path
        elif kind == "Pooling":
            pooling = path
        elif kind != "Normalize":
            raise ValueError(
                f"{folder} has a {module['type']} module, which is not supported; use a model of Transformer + Pooling."
            )
    return backbone, pooling


def _pooling(folder: Path) -> Literal["mean", "cls", "last"]:
    settings = _read(folder / "config.json", {"pooling_mode_mean_tokens": True})
    mode = settings.get("pooling_mode")
    modes = [key for key, on in settings.items() if on is True and key.startswith("pooling_mode_")]
    if mode is not None:
        modes = [f"pooling_mode_{mode}"]
    chosen = [known for key, known in _POOLING.items() if any(key.startswith(name) for name in modes)]
    if len(chosen) != 1 or len(modes) != 1:
        raise ValueError(f"{folder} pools by {modes}; only one of {sorted(set(_POOLING.values()))} is supported.")
    return chosen[0]


def _max_length(folder: Path) -> int:
    length = _read(folder / "sentence_bert_config.json", {}).get("max_seq_length")
    return int(length or min(512, _read(folder / "config.json", {}).get("max_position_embeddings", 512)))


def _read(file: Path, missing: Any) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else missing
