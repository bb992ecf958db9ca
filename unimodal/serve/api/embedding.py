"""From the inputs of a request to vectors, for every shape of body.

n inputs, D dimensions.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ...embedder import Embedder
from ...model_config import check_truncation
from ...vectors import Vectors
from ..engine.engine import Engine
from ..engine.jobs import Embedded, Failed, Outcome
from .errors import ApiError
from .inputs import Parts, read_inputs

Scope: TypeAlias = MutableMapping[str, Any]


async def embed(
    engine: Engine,
    values: Sequence[Any],
    scope: Scope,
    *,
    prompt: str = "",
    on_error: str = "request",
    param: str = "input",
    strings: str = "",
    truncate: bool = True,
) -> list[Outcome]:
    """The outcomes of a request's inputs, in their order.

    scope: the request's, with the gate's `fetch`; receives the number of inputs.
    on_error: "request" raises ApiError for the first input that failed, with its number; "item"
        leaves it in the list.
    param: the key of the body that holds the inputs.
    strings: as for `read_inputs`.
    truncate: cut a text that is longer than the model's length; otherwise it fails.
    """
    scope["num_items"] = len(values)
    embedder = engine.embedder
    inputs = await read_inputs(values, engine, scope["fetch"], strings)
    if not truncate:
        inputs = await asyncio.to_thread(_refuse_long_texts, inputs, prompt, embedder)
    if on_error == "request":
        _raise_first(inputs, param)
    readable = [parts for parts in inputs if not isinstance(parts, Failed)]
    embedded: list[Outcome] = []
    if readable:
        embedded = await engine.embed(readable, prompt=prompt, embedder=embedder)
    following = iter(embedded)
    outcomes = [
        parts if isinstance(parts, Failed) else next(following) for parts in inputs
    ]
    if on_error == "request":
        _raise_first(outcomes, param)
    return outcomes


def _refuse_long_texts(
    inputs: Sequence[Parts | Failed], prompt: str, embedder: Embedder
) -> list[Parts | Failed]:
    """The same inputs, where those whose text would be cut have failed."""
    length = embedder.config.text.max_length if embedder.config.text else 0
    too_long = Failed(
        f"the text is longer than the {length} tokens that the model reads; shorten it, or send "
        "truncate: true.",
        400,
        "context_length_exceeded",
    )
    return [too_long if _is_cut(parts, prompt, embedder) else parts for parts in inputs]


def _is_cut(parts: Parts | Failed, prompt: str, embedder: Embedder) -> bool:
    tokenizer = embedder.tokenizer
    if isinstance(parts, Failed) or tokenizer is None:
        return False
    return any(
        part.kind == "text" and tokenizer.is_cut(prompt + part.content)
        for part in parts
    )


def _raise_first(outcomes: Sequence[Any], param: str) -> None:
    """Raise the first failure as the error of the request."""
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, Failed):
            raise ApiError(
                outcome.status,
                f"{param} {number}: {outcome.reason}",
                code=outcome.code,
                param=f"{param}.{number}",
            )


def stack_vectors(outcomes: Sequence[Outcome], dim: int) -> Vectors:
    """The vectors of the inputs that have one -> (n, D)."""
    vectors = [outcome.vector for outcome in outcomes if isinstance(outcome, Embedded)]
    return np.stack(vectors) if vectors else np.zeros((0, dim), np.float32)


def count_tokens(outcomes: Sequence[Outcome]) -> int:
    """How many tokens the model read; an image counts its patches plus 1."""
    return sum(outcome.tokens for outcome in outcomes if isinstance(outcome, Embedded))


def check_dimensions(
    dimensions: int | None, engine: Engine, param: str = "dimensions"
) -> int | None:
    """A length that the model's vectors can be cut to; raises ApiError for any other."""
    if dimensions is None:
        return None
    try:
        return check_truncation(engine.embedder.config, dimensions, param)
    except ValueError as error:
        raise ApiError(400, str(error), param=param) from None


def check_length(length: int | None, param: str, engine: Engine) -> None:
    """Raise ApiError for a number of tokens that would cut texts shorter than the model does.

    -1 is the model's length.
    """
    text = engine.embedder.config.text
    if length is None or length == -1 or text is None:
        return
    if length < text.max_length:
        raise ApiError(
            400,
            f"{param} {length} is less than the model's {text.max_length} tokens; leave it out.",
            param=param,
        )


def as_list(value: Any, param: str) -> Sequence[Any]:
    """One input or a list of them, as a list that is not empty."""
    if not isinstance(value, list):
        return [value]
    if not value:
        raise ApiError(
            400,
            f"{param} is an empty list; send a text, an image, or a list of them.",
            param=param,
        )
    if isinstance(value[0], list) or all(isinstance(item, int) for item in value):
        raise ApiError(
            400,
            f"{param} holds token ids, and those of another tokenizer would mean other words; send "
            "texts (LangChain: check_embedding_ctx_length=False).",
            param=param,
        )
    return value
