"""The fingerprint of a model: models with the same fingerprint give the same vectors."""

from __future__ import annotations

import json

import torch
import xxhash

from .model import DualEncoder
from .preprocess.tokenizers import Tokenizer


def model_fingerprint(model: DualEncoder, tokenizer: Tokenizer | None) -> str:
    """Return 32 hexadecimal digits (XXH3, 128 bits) of everything that a vector depends on.

    That is the weights (names, dtypes, shapes and bytes, hence the precision of the towers too),
    the architecture, preprocessing, prompts and tokenizer, but neither the length that vectors are
    truncated to, nor the device, nor the model's folder. The architecture is described by the
    library that builds it: another release of it may give the same model another fingerprint.
    """
    digest = xxhash.xxh3_128()

    def add(part: bytes) -> None:
        # The length keeps two different lists of parts apart.
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)

    # The origin of a tokenizer is not a property of the model; its content follows.
    config = model.config.model_dump(mode="json", exclude={"text": {"tokenizer"}})
    # Vectors from before this key existed keep their model's fingerprint, and a model without an
    # image tower does not depend on it.
    if model.config.image is None or model.config.preprocess.transparency == "drop":
        del config["preprocess"]["transparency"]
    add(json.dumps(config, sort_keys=True).encode())
    add(tokenizer.backend.to_str().encode() if tokenizer is not None else b"")
    for name, tensor in sorted(model.state_dict().items()):
        add(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        add(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
