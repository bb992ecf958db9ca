"""Folders of sentence-transformers models, and what that library itself gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

MODULES = ("Transformer", "Pooling", "Normalize")

TRANSFORMER = "sentence_transformers.models.Transformer"


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def write_backbone(
    folder: Path, tokenizer_file: Path, bert_kwargs: dict[str, Any]
) -> None:
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    BertModel(BertConfig(**bert_kwargs)).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)


def write_modules(
    folder: Path,
    pooling: dict[str, Any],
    modules: tuple[str, ...] = MODULES,
    backbone: str = "",
    max_length: int = 12,
) -> None:
    """What sentence-transformers writes beside a backbone."""
    paths = [
        backbone,
        *(f"{number}_{kind}" for number, kind in enumerate(modules) if number),
    ]
    write(
        folder / "modules.json",
        [
            {
                "idx": number,
                "name": str(number),
                "path": path,
                "type": f"sentence_transformers.models.{kind}",
            }
            for number, (kind, path) in enumerate(zip(modules, paths, strict=True))
        ],
    )
    write(
        folder / backbone / "sentence_bert_config.json",
        {"max_seq_length": max_length, "do_lower_case": False},
    )
    write(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": 32, **pooling},
    )


def theirs(folder: Path, texts: list[str], **options: Any) -> Any:
    library = pytest.importorskip(
        "sentence_transformers", reason="nothing to compare with"
    )
    return library.SentenceTransformer(str(folder), device="cpu").encode(
        texts, normalize_embeddings=True, **options
    )


def change_weights(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    """Put tensors into a folder's weights, or take them out: those whose name holds the key, where
    it is None.
    """
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        if tensor is None:
            tensors = {key: value for key, value in tensors.items() if name not in key}
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors")


def change_json(file: Path, **changes: Any) -> None:
    values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    write(file, {**values, **changes})
