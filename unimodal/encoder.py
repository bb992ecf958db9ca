"""The Encoder protocol: what embeds texts and images for evaluation, indexing and serving.

n inputs, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from .inputs import Plain
from .vectors import Vectors


class Encoder(Protocol):
    """A model that gives vectors; `unimodal.embedder.Embedder` is one."""

    @property
    def modalities(self) -> frozenset[str]:
        """What it can embed: "text", "image" or both."""
        ...

    @property
    def prompts(self) -> Mapping[str, str]:
        """Prefixes of a text: "query", "document" and "default" (that of plain `encode`).

        A role may be missing. Roles with the same prompt share their vectors. Images have no
        prompt: `encode` alone embeds them.
        """
        ...

    def fingerprint(self) -> str:
        """Name exactly this model: it differs for other weights, preprocessing or prompts.

        Empty where the model is not known; its vectors are then not kept on disk.
        """
        ...

    def encode(
        self, inputs: Sequence[Plain], *, show_progress: bool | None = None
    ) -> Vectors:
        """Embed inputs -> (n, D) unit vectors."""
        ...

    def encode_query(
        self, inputs: Sequence[Plain], *, show_progress: bool | None = None
    ) -> Vectors:
        """Embed what is searched for -> (n, D) unit vectors."""
        ...

    def encode_document(
        self, inputs: Sequence[Plain], *, show_progress: bool | None = None
    ) -> Vectors:
        """Embed what is searched in -> (n, D) unit vectors."""
        ...
