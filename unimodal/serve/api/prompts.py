"""Which prompt is put before the texts of a request."""

from __future__ import annotations

from collections.abc import Mapping

from .body import Body
from .errors import ApiError

TASKS = {  # Jina's tasks -> the name of a prompt
    "retrieval.query": "query",
    "retrieval.passage": "document",
    "text-matching": "",
    "classification": "",
    "clustering": "",
    "separation": "",
    "none": "",
}
INPUT_TYPES = {  # Cohere's, Voyage's, NVIDIA's and others'
    "search_query": "query",
    "query": "query",
    "search_document": "document",
    "document": "document",
    "passage": "document",
    "classification": "",
    "clustering": "",
    "image": "",
}
WORDS = {"task": TASKS, "input_type": INPUT_TYPES}
KEYS = ("task", "input_type", "prompt_name", "prompt")


def prompt_of(body: Body, prompts: Mapping[str, str]) -> str:
    """The text to put before every text; without one in the body, the model's default.

    prompts: the model's prompts by name. A task or an input type that is such a name means that
        prompt.
    """
    values = {key: getattr(body, key, None) for key in KEYS}
    present = {key: value for key, value in values.items() if value is not None}
    if not present:
        return prompts.get("default", "")
    if len(present) > 1:
        raise ApiError(
            400,
            f"{' and '.join(present)} all choose the prompt; send one of them.",
            param=next(iter(present)),
        )
    ((key, value),) = present.items()
    if key == "prompt":
        return str(value)
    if value in prompts:
        return prompts[value]
    words = WORDS.get(key, {})
    if value not in words:
        names = ", ".join(dict.fromkeys((*prompts, *words)))
        raise ApiError(
            400,
            f"{key} {value[:60]!r} is not known; "
            + (f"send one of {names}." if names else "this model has no prompts."),
            param=key,
        )
    return prompts.get(words[value], "")
