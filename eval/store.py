"""Vectors of inputs, each distinct text and picture encoded once, whatever the tasks, directions and metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from .datasets import Deferred, Fused, Input, Plain
from .results import Encoder, Vectors

Prompt = Literal["", "query", "document"]  # which of the model's prompts stands before a text


class EmbeddingStore:
    """An encoder that remembers."""

    def __init__(self, encoder: Encoder, *, show_progress: bool = False) -> None:
        self.encoder = encoder
        self.show_progress = show_progress
        self._known: dict[tuple[Prompt, Input], Vectors] = {}

    @property
    def modalities(self) -> frozenset[str]:
        """What the encoder can embed."""
        return self.encoder.modalities

    def encode(self, inputs: Sequence[Input], prompt: Prompt = "") -> Vectors:
        """(n, D) float32 unit vectors of the inputs, in their order."""
        known = self._known
        parts = [part for one in inputs for part in _parts(one)]
        new = [part for part in dict.fromkeys(parts) if (prompt, part) not in known]
        if new:
            encoded = self._method(prompt)([_plain(one) for one in new], show_progress=self.show_progress)
            known.update(((prompt, part), vector) for part, vector in zip(new, encoded, strict=True))
        return np.stack([_fused([known[prompt, part] for part in _parts(one)]) for one in inputs])

    def _method(self, prompt: Prompt) -> Callable[..., Vectors]:
        return {"": self.encoder.encode, "query": self.encoder.encode_query, "document": self.encoder.encode_document}[
            prompt
        ]


def _parts(one: Input) -> tuple[Plain | Deferred, ...]:
    return (one.text, one.image) if isinstance(one, Fused) else (one,)


def _plain(one: Plain | Deferred) -> Plain:
    return one.read() if isinstance(one, Deferred) else one


def _fused(vectors: list[Vectors]) -> Vectors:
    total = np.asarray(sum(vectors[1:], start=vectors[0]), dtype=np.float32)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-12), dtype=np.float32) if len(vectors) > 1 else total
