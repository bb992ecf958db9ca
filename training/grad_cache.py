"""Encoding a batch in chunks: any batch fits, since only those chunks keep their graphs that memory
is there for.

Cached gradients (GradCache; Gao et al., 2021): encode every chunk, compute the loss of the whole
batch and its gradient by the vectors, then let each chunk pass its rows' gradient on to the
weights. A chunk whose graph was not kept is encoded a second time for that; GradCache encodes every
chunk twice. With all graphs kept it is a plain step.

Which chunks keep their graphs changes no bit of the result: gradients are added in the order of the
    chunks.

B local batch, D embedding dimension.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unimodal import distributed
from unimodal.model import DualEncoder, length_sorted_chunks
from unimodal.preprocess.tokenizers import pad_ids

from .config import StepConfig
from .data.collate import Batch
from .sharding import local_part


class Chunk(NamedTuple):
    """Rows of one tower's inputs that are encoded together."""

    rows: list[int]
    cost: int  # what its activations grow with: images or padded tokens
    encode: Callable[[], Tensor]  # -> (rows, D) unit vectors


class Encoded(NamedTuple):
    """A tower's vectors, cut off from their graphs, and what it takes to go back."""

    vectors: Tensor  # (B, D), a leaf: the loss leaves its gradient there
    chunks: list[Chunk]
    graphs: list[Tensor]  # of the first chunks, which kept them
    held: float  # bytes of activations in them, where a limit made it worth measuring
    seed: int


def cut(
    model: DualEncoder, batch: Batch, config: StepConfig, precision: str
) -> dict[str, list[Chunk]]:
    """The chunks of each tower: images as they come, texts by length, longest first.

    Their number is the same on every rank: sharded weights are gathered in each forward pass, and
    unequal numbers of those would never meet.
    """
    chunks: dict[str, list[Chunk]] = {}
    rows: dict[str, list[list[int]]] = {}
    if batch.pixels is not None:
        size = config.micro_batch or len(batch.pixels)
        rows["image"] = [
            list(range(len(batch.pixels)))[start : start + size]
            for start in range(0, len(batch.pixels), size)
        ]
    assert model.config.text is not None
    token_ids = batch.texts.lists()
    text = model.config.text
    lengths = [
        text.max_length if text.pad_to_max_length else len(ids) for ids in token_ids
    ]
    rows["text"] = length_sorted_chunks(lengths, config.token_budget)
    counts = distributed.all_reduce_max([len(found) for found in rows.values()])
    for (tower, found), count in zip(rows.items(), counts, strict=True):
        chunks[tower] = []
        for part in _split_until(found, int(count)):
            if tower == "image":
                chunks[tower].append(
                    Chunk(
                        part,
                        len(part),
                        partial(_encode_images, model, batch, part, precision),
                    )
                )
            else:
                length = max(lengths[row] for row in part)
                texts = [token_ids[row] for row in part]
                chunks[tower].append(
                    Chunk(
                        part,
                        len(part) * length,
                        partial(_encode_texts, model, texts, length, precision),
                    )
                )
    return chunks


def encode(chunks: list[Chunk], limit: float, seed: int, model: nn.Module) -> Encoded:
    """Encode all chunks of a tower; as many as fit into the limit, from the first on, keep their
    graphs.

    limit: bytes of activations. The first chunk tells what the others need; it keeps its graph
    wherever the limit is above 0, since going back through any chunk needs that much anyway. The
    number kept is agreed by all ranks.
    seed: of the dropout and patch dropout masks of chunk 0; those of chunk n are drawn from seed +
        n.
    """
    parts: list[Tensor] = []
    graphs: list[Tensor] = []
    num_kept, held = (len(chunks), 0.0) if limit == torch.inf else (int(limit > 0), 0.0)
    for number, chunk in enumerate(chunks):
        is_measured = number == 0 and 0 < limit < torch.inf
        with measure_graph(model) if is_measured else nullcontext() as measured:
            vectors = _encode(chunk, seed + number, keep_graph=number < num_kept)
        if measured is not None:
            costs = [
                measured.num_bytes * chunk.cost / chunks[0].cost for chunk in chunks
            ]
            num_kept = _how_many_fit(costs, limit)
            held = sum(costs[:num_kept])
        if number < num_kept:
            graphs.append(vectors)
        parts.append(vectors.detach())
    order = torch.tensor([row for chunk in chunks for row in chunk.rows])
    vectors = torch.cat(parts)[torch.argsort(order).to(parts[0].device)]
    return Encoded(vectors.requires_grad_(), chunks, graphs, held, seed)


def backward(encoded: Encoded) -> None:
    """Pass the gradient of the vectors on to the weights, chunk by chunk; graphs are let go as they
    are used.
    """
    gradient = encoded.vectors.grad
    assert gradient is not None
    kept = encoded.graphs[::-1]
    encoded.graphs.clear()
    for number, chunk in enumerate(encoded.chunks):
        vectors = (
            kept.pop()
            if kept
            else _encode(chunk, encoded.seed + number, keep_graph=True)
        )
        if vectors.requires_grad:  # not where a whole tower is frozen
            torch.autograd.backward(
                vectors, gradient[torch.tensor(chunk.rows, device=gradient.device)]
            )
        del vectors


def graph_limit(config: StepConfig, model: nn.Module, device: torch.device) -> float:
    """Bytes that kept graphs may take: what the recipe says, else most of what is free beside the
    gradients to come.
    """
    if config.graph_memory is not None:
        return config.graph_memory * 2**30
    weights = [
        local_part(parameter)
        for parameter in model.parameters()
        if parameter.requires_grad
    ]
    gradients = sum(weight.numel() * weight.element_size() for weight in weights)
    return max(1.0, 0.8 * _free_memory(device) - 2 * gradients)


class _Meter:
    num_bytes = 0


@contextmanager
def measure_graph(model: nn.Module) -> Iterator[_Meter]:
    """Count the bytes that autograd saves for the backward pass, each storage once and weights not
    at all.

    Weights that FSDP gathers for a forward pass do count: an upper bound there.
    """
    meter = _Meter()
    seen = {parameter.data_ptr() for parameter in model.parameters()}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            meter.num_bytes += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield meter


def _encode(chunk: Chunk, seed: int, *, keep_graph: bool) -> Tensor:
    torch.manual_seed(seed)  # of every device; the same masks when it is encoded again
    with torch.set_grad_enabled(keep_graph):
        return chunk.encode()


def _how_many_fit(costs: Sequence[float], limit: float) -> int:
    """How many chunks from the first on, which is kept in any case."""
    count = 1
    room = limit - costs[0]
    while count < len(costs) and costs[count] <= room:
        room -= costs[count]
        count += 1
    return int(distributed.all_reduce_min([count])[0])


def _split_until(chunks: list[list[int]], count: int) -> list[list[int]]:
    """Halve the largest chunk until there are `count`: a rank with fewer than another has chunks to
    spare.
    """
    chunks = list(chunks)
    while len(chunks) < count:
        largest = max(range(len(chunks)), key=lambda number: len(chunks[number]))
        middle = len(chunks[largest]) // 2
        chunks[largest : largest + 1] = [
            chunks[largest][:middle],
            chunks[largest][middle:],
        ]
    return chunks


def _encode_images(
    model: DualEncoder, batch: Batch, rows: list[int], precision: str
) -> Tensor:
    assert batch.pixels is not None
    pixels = batch.pixels[rows[0] : rows[-1] + 1].to(model.device, non_blocking=True)
    with autocast(model.device, precision):
        return model.encode_image(pixels)


def _encode_texts(
    model: DualEncoder, token_ids: list[list[int]], length: int, precision: str
) -> Tensor:
    assert model.config.text is not None
    ids, mask = pad_ids(token_ids, model.config.text.pad_id, length)
    with autocast(model.device, precision):
        return model.encode_text(ids.to(model.device), mask.to(model.device))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """bfloat16 towers with float32 weights, or nothing; anew for each chunk, since it remembers
    weights it has cast.
    """
    return (
        torch.autocast(device.type, torch.bfloat16)
        if precision == "bfloat16"
        else nullcontext()
    )


def _free_memory(device: torch.device) -> float:
    """Bytes that this process could still take; without bound where that cannot be told."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(
            device
        )
        return float(torch.cuda.mem_get_info(device)[0] + cached)
    if not os.path.exists("/proc/meminfo"):
        return torch.inf
    with open("/proc/meminfo", encoding="ascii") as file:
        kib = next(
            (int(line.split()[1]) for line in file if line.startswith("MemAvailable")),
            0,
        )
    return 1024 * kib / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
