"""Formats that a model can be loaded from, one module each.

A format has `detect(source)`, which looks at the name only, and `load(source)`; a format that is
also written has `save`. A new format is a module and a line in FORMATS.
"""

from __future__ import annotations

from typing import Protocol

from ..model import DualEncoder
from ..preprocess.tokenizers import Tokenizer
from . import native, open_clip, sentence_transformers


class Format(Protocol):
    """What every module of a format has."""

    def detect(self, source: str) -> bool:
        """Whether the name is one of this format's."""
        ...

    def load(self, source: str) -> tuple[DualEncoder, Tokenizer | None]:
        """Load the model."""
        ...


FORMATS: dict[str, Format] = {
    "open_clip": open_clip,
    "sentence_transformers": sentence_transformers,
    "native": native,
}


def load_model(source: str) -> tuple[DualEncoder, Tokenizer | None]:
    """Load a model from the first format that recognizes its name.

    Raises ValueError if no format does, or if the model is missing or broken.
    """
    for model_format in FORMATS.values():
        if model_format.detect(source):
            return model_format.load(source)
    raise ValueError(
        f"model {source!r} is not a folder, a hub id such as owner/name, open_clip:NAME or "
        "hf:NAME; check the name."
    )
