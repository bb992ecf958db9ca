"""Scores of published models, to print beside ours: published.yaml, each with its source."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from unimodal.yaml_text import read_yaml

FILE = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class PublishedScore:
    """What somebody else measured."""

    model: str  # a hub id
    task: str  # as in our suites
    metric: str
    value: float
    # a smaller difference may come from the tools alone: they differ as much on one model
    tolerance: float
    source: str
    url: str


def published_scores(task: str, metric: str) -> list[PublishedScore]:
    """The published scores of exactly this task in exactly this metric, best first."""
    scores = [
        score
        for score in read_published()
        if (score.task, score.metric) == (task, metric)
    ]
    return sorted(scores, key=lambda score: -score.value)


@functools.cache
def read_published() -> tuple[PublishedScore, ...]:
    """All published scores."""
    table = read_yaml(FILE)
    return tuple(
        PublishedScore(
            model,
            group["task"],
            metric,
            value,
            group["tolerance"],
            **_source(table, group["source"]),
        )
        for group in table["scores"]
        for model, values in group["models"].items()
        for metric, value in zip(group["metrics"], values, strict=True)
    )


def _source(table: dict[str, dict[str, dict[str, str]]], key: str) -> dict[str, str]:
    return {
        "source": table["sources"][key]["name"],
        "url": table["sources"][key]["url"],
    }
