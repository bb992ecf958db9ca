"""The analyses of one model that a suite requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from unimodal.calibration import Calibration
from unimodal.progress import progress_bar

from ..cache import EmbeddingCache
from ..report.page import ModelReport
from ..results import TaskResult
from ..scoring.score_row import ScoreRow
from ..suites import Analysis, Suite
from ..summary import summary_rows
from .compress import compression_rows
from .contamination import TaskOverlap, overlap_rows
from .neighbours import clusters_of, duplicate_rows, duplicates_of
from .robustness import robustness
from .space import mixed_rows, space_rows
from .space_map import space_maps


def analyse(
    results: Sequence[TaskResult],
    suite: Suite,
    cache: EmbeddingCache,
    *,
    facts: Mapping[str, str] | None = None,
    calibration: Calibration | None = None,
    overlaps: Sequence[TaskOverlap] = (),
    show_progress: bool | None = False,
) -> ModelReport:
    """Compute means over tasks and all analyses of the suite: rows, and drawings for the page.

    results: of `evaluate`. cache: of the model; changed queries are encoded with it.
    facts: for the page. calibration: of the model directory, if it has one. overlaps: of
        `contamination`.
    """
    analysis = suite.analysis
    rows = summary_rows(results, suite)
    with progress_bar(
        "analysing", 2 + len(results) * bool(analysis.robustness), show_progress
    ) as advance:
        for done, some in enumerate(
            _rows(results, analysis, cache, calibration, overlaps), 1
        ):
            rows += some
            advance(done)
    with progress_bar("finding neighbours", None, show_progress):
        near = duplicates_of(results) if analysis.neighbours else []
        clusters = clusters_of(results) if analysis.neighbours else []
        maps = [] if analysis.map == "none" else space_maps(results, analysis.map)
    return ModelReport(
        results,
        rows + duplicate_rows(near),
        facts or {},
        maps=maps,
        clusters=clusters,
        duplicates=near,
    )


def _rows(
    results: Sequence[TaskResult],
    analysis: Analysis,
    cache: EmbeddingCache,
    calibration: Calibration | None,
    overlaps: Sequence[TaskOverlap],
) -> Iterator[list[ScoreRow]]:
    by_task = {overlap.task: overlap for overlap in overlaps}
    yield [
        *(compression_rows(results) if analysis.compression else ()),
        *(
            row
            for result in results
            if result.name in by_task
            for row in overlap_rows(result, by_task[result.name])
        ),
    ]
    yield (
        [*space_rows(results, calibration), *mixed_rows(results, calibration)]
        if analysis.space
        else []
    )
    if analysis.robustness:
        for result in results:
            yield robustness(result, cache, analysis.robustness)
