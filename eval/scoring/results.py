"""What an evaluation is about and what it gave: who encodes, rows of numbers, and the vectors that
they come from.

Q queries, N documents, D embedding dimension.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ..data.datasets import Plain, TaskData

Vectors = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]
Half = Literal["text", "cross-modal", "image"]


class Encoder(Protocol):
    """What is asked of a model; `unimodal.embedder.Embedder` is one."""

    @property
    def modalities(self) -> frozenset[str]:
        """What it can embed: "text", "image" or both."""
        ...

    @property
    def prompts(self) -> Mapping[str, str]:
        """What `encode_query` ("query"), `encode_document` ("document") and `encode` ("default")
        put before a text.

        A role may be missing. Roles with the same prompt share their vectors. An image has no
        prompt: `encode` alone embeds it.
        """
        ...

    def fingerprint(self) -> str:
        """Stands for exactly this model: another for any other weights, preprocessing or prompts.

        Empty: not known, and then no vector is kept on the disk.
        """
        ...

    def encode(
        self, inputs: Sequence[Plain], *, show_progress: bool | None = None
    ) -> Vectors:
        """(n, D) unit vectors."""
        ...

    def encode_query(
        self, inputs: Sequence[Plain], *, show_progress: bool | None = None
    ) -> Vectors:
        """(n, D) unit vectors of what is searched for."""
        ...

    def encode_document(
        self, inputs: Sequence[Plain], *, show_progress: bool | None = None
    ) -> Vectors:
        """(n, D) unit vectors of what is found."""
        ...


@dataclasses.dataclass(frozen=True)
class Row:
    """One number, beside what chance and what the words alone would reach."""

    task: str
    metric: str
    value: (
        float | None
    )  # None: undefined, and `note` says why; or the model lacks what the task needs (a tower)
    chance: float | None
    baseline: float | None  # BM25; None where there are no words on one side
    low: float | None = None  # of a 95 % confidence interval of the value
    high: float | None = None
    # what was done to vectors or inputs: "64 dims", "int8", "typos", ...; empty: nothing
    variant: str = ""
    num: int | None = None  # queries, pairs or images that the value is of
    note: str = (
        ""  # why the value is undefined; or what of the task's data is missing in it
    )

    @property
    def is_undefined(self) -> bool:
        """Whether there is a reason why it has no value, other than a model that
        lacks a modality.
        """
        return self.value is None and bool(self.note)


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """One direction of one task, scored: its rows, and what they come from.

    Pairs of texts have the left texts as queries and the right ones as documents, and no ranks.
    """

    name: str  # "figures/text->image", "sections", "cxc"
    half: Half  # which half of the space it is about
    data: TaskData
    rows: list[Row]
    values: dict[str, Values] = dataclasses.field(
        default_factory=dict
    )  # metric -> (Q,): each query's, for statistics
    queries: Vectors | None = (
        None  # (Q, D) unit vectors; None where the model cannot do this task
    )
    documents: Vectors | None = None  # (N, D)
