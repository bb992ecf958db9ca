"""The curves of a run: losses, logit scales, learning rate, gradient norm, speed, validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .log import read_rows

PANELS = (  # title, ending of its metrics
    ("loss", "/loss"),
    ("logit scale (1 / temperature)", "/scale"),
    ("samples per second", "/samples_per_s"),
    ("learning rate", "lr"),
    ("gradient norm before clipping", "grad_norm"),
    ("seconds per step spent waiting for data", "data_wait"),
)


def plot_run(run: Path) -> Path:
    """Draw RUN/metrics.jsonl into RUN/plots.png; raises ValueError if there is nothing to draw."""
    file = run / "metrics.jsonl"
    if not file.is_file():
        raise ValueError(
            f"{file} does not exist; give the folder of a run that has logged at least once."
        )
    rows = read_rows(file)
    if not rows:
        raise ValueError(f"{file} is empty; wait until the run has logged once.")
    return _draw(rows, run.name, run / "plots.png")


def _draw(rows: list[dict[str, Any]], title: str, out: Path) -> Path:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            'plots need matplotlib: pip install "unimodal[train]".'
        ) from None
    validated = _series(rows, "val/")
    panels = [(name, _series(rows, "", ending)) for name, ending in PANELS]
    tasks: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for name, points in validated.items():
        task, _, metric = name.removeprefix("val/").rpartition(" ")
        tasks.setdefault(f"validation: {task}", {})[metric] = points
    panels += list(tasks.items())
    columns = 3
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(5 * columns, 3.2 * lines), layout="constrained")
    figure.suptitle(title)
    for number, (name, series) in enumerate(panels):
        axes = figure.add_subplot(lines, columns, number + 1)
        for label, points in series.items():
            marker = "o" if len(points) < 20 else ""
            axes.plot(
                *zip(*points, strict=True),
                label=label.split("/")[0],
                marker=marker,
                markersize=3,
                linewidth=1.3,
            )
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.grid(alpha=0.3)
        if len(series) > 1:
            axes.legend(fontsize=8, frameon=False)
    figure.savefig(out, dpi=110)
    return out


def _series(
    rows: list[dict[str, Any]], start: str, ending: str = ""
) -> dict[str, list[tuple[int, float]]]:
    """The (step, value) points of each metric whose name starts and ends like that."""
    series: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, value in row.items():
            is_validation = name.startswith("val/")
            if is_validation and not start:
                continue
            if name.startswith(start) and name.endswith(ending):
                series.setdefault(name, []).append((row["step"], value))
    return series
