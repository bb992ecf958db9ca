"""A short name for exactly one model: what has the same fingerprint gives the same vectors."""

from __future__ import annotations

import json

import torch
import xxhash

from .model import DualEncoder
from .preprocess.tokenizers import Tokenizer


def model_fingerprint(model: DualEncoder, tokenizer: Tokenizer | None) -> str:
    """32 hexadecimal digits (XXH3, 128 bits) of all that a vector depends on, wherever the model
    lies.

    Weights (names, types, shapes and bytes, so the precision of the towers too), architecture,
    preprocessing, prompts and tokenizer. Not the length that vectors are cut to, nor the device. An
    architecture is told in the words of the library that builds it: another release of that library
    may give the same model another fingerprint.
    """
    digest = xxhash.xxh3_128()

    def add(part: bytes) -> None:
        digest.update(
            len(part).to_bytes(8, "little")
        )  # so that no two lists of parts read alike
        digest.update(part)

    # Where a tokenizer came from is no property of the model; its content follows.
    config = model.config.model_dump(mode="json", exclude={"text": {"tokenizer"}})
    # What was embedded before there was this key keeps its model's name; and it is nothing to a
    # model of texts alone.
    if model.config.image is None or model.config.preprocess.transparency == "drop":
        del config["preprocess"]["transparency"]
    add(json.dumps(config, sort_keys=True).encode())
    add(tokenizer.backend.to_str().encode() if tokenizer is not None else b"")
    for name, tensor in sorted(model.state_dict().items()):
        add(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        add(
            tensor.detach()
            .cpu()
            .contiguous()
            .reshape(-1)
            .view(torch.uint8)
            .numpy()
            .data
        )
    return digest.hexdigest()
