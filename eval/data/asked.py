"""What a task asks to encode."""

from __future__ import annotations

from collections.abc import Iterable

from ..cache import Asked
from .datasets import Fused, Input, PairData, RetrievalData, TaskData


def asked_of(data: TaskData, modalities: Iterable[str]) -> list[Asked]:
    """What a task asks to encode, with which prompt; nothing if the model lacks what one side of it
    is made of.
    """
    if isinstance(data, PairData):
        asked: list[Asked] = [(data.left, ""), (data.right, "")]
    elif isinstance(data, RetrievalData):
        asked = [
            (data.queries, "" if data.both_ways else "query"),
            (data.documents, "" if data.both_ways else "document"),
        ]
    else:
        asked = [
            (
                [
                    text.replace("{c}", name)
                    for name in data.class_names
                    for text in data.templates
                ],
                "",
            ),
            (data.images, ""),
        ]
    kinds = {kind for inputs, _ in asked for one in inputs for kind in _kinds(one)}
    return asked if kinds <= set(modalities) else []


def _kinds(one: Input) -> tuple[str, ...]:
    return (
        ("text", "image")
        if isinstance(one, Fused)
        else ("text",)
        if isinstance(one, str)
        else ("image",)
    )
