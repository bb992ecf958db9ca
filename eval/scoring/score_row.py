"""One score, as every table, file and page of a report holds it.

Q queries, N documents, D embedding dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Half = Literal["text", "cross-modal", "image"]


@dataclass(frozen=True)
class ScoreRow:
    """One number beside what chance and BM25 reach."""

    task: str
    metric: str
    # None: undefined, and `note` says why; or the model lacks a tower that the task needs
    value: float | None
    chance: float | None
    baseline: float | None  # BM25; None where one side has no words
    low: float | None = None  # of a 95 % confidence interval of the value
    high: float | None = None
    # what was done to vectors or inputs: "64 dims", "int8", "typos", ...; empty: nothing
    variant: str = ""
    num: int | None = None  # queries, pairs or images that the value is of
    note: str = ""  # why the value is undefined, or what of the task's data it lacks

    @property
    def is_undefined(self) -> bool:
        """Whether the value is missing for another reason than a modality that the model lacks."""
        return self.value is None and bool(self.note)
