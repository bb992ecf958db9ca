"""What an evaluation is about and what it gave: who encodes, rows of numbers, and the vectors that
they come from.

Q queries, N documents, D embedding dimension.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt

from unimodal.vectors import Vectors

from ..data.datasets import TaskData

Values = npt.NDArray[np.float64]
Half = Literal["text", "cross-modal", "image"]


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
