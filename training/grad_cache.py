"""Encoding a batch in chunks, of which as many keep their graphs as memory allows: any batch fits.

Cached gradients (GradCache; Gao et al., 2021): encode every chunk, compute the loss of the whole
batch and its gradient by the vectors, then let each chunk pass its rows' gradient on to the
weights. A chunk whose graph was not kept is encoded a second time for that; GradCache encodes every
chunk twice. With all graphs kept it is a plain step.

Which chunks keep their graphs does not change a bit of the result: gradients are added in the order
of the chunks.

B local batch, D embedding dimension.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
)
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unimodal import distributed
from unimodal.model import DualEncoder, length_sorted_chunks
from unimodal.preprocess.tokenizers import pad_ids

from .config import StepConfig
from .data.collate import Batch
from .sharding import allow_views, local_part


class Chunk(NamedTuple):
    """Rows of one tower's inputs that are encoded together."""

    rows: list[int]
    cost: int  # its activations grow with it: images or padded tokens
    encode: Callable[[], Tensor]  # -> (rows, D) unit vectors


class Encoded(NamedTuple):
    """A tower's vectors, detached from their graphs, and what the backward pass needs."""

    vectors: Tensor  # (B, D), a leaf: the loss leaves its gradient there
    chunks: list[Chunk]
    graphs: list[Tensor]  # vectors of the first chunks, which kept their graphs
    held: float  # bytes of activations in the graphs; 0 if there is no limit
    seed: int


def cut(
    model: DualEncoder, batch: Batch, config: StepConfig, precision: str
) -> dict[str, list[Chunk]]:
    """Cut a batch into the chunks of each tower: images in order, texts by length, longest first.

    Their number is the same on every rank: sharded weights are gathered in each forward pass, and
    ranks with unequal numbers of these would wait for each other.
    """
    assert model.config.text is not None
    text = model.config.text
    token_ids = batch.texts.lists()
    lengths = [len(ids) for ids in token_ids]
    if text.pad_to_max_length:
        lengths = [text.max_length] * len(token_ids)

    rows: dict[str, list[list[int]]] = {}
    if batch.pixels is not None:
        num_images = len(batch.pixels)
        size = config.micro_batch or num_images
        rows["image"] = [
            list(range(start, min(start + size, num_images)))
            for start in range(0, num_images, size)
        ]
    rows["text"] = length_sorted_chunks(lengths, config.token_budget)

    # The most that any rank has.
    counts = distributed.all_reduce_max([len(parts) for parts in rows.values()])
    chunks: dict[str, list[Chunk]] = {}
    for (tower, parts), count in zip(rows.items(), counts, strict=True):
        chunks[tower] = []
        for part in _split_until(parts, int(count)):
            if tower == "image":
                encode_part = partial(_encode_images, model, batch, part, precision)
                chunk = Chunk(part, len(part), encode_part)
            else:
                length = max(lengths[row] for row in part)
                texts = [token_ids[row] for row in part]
                encode_part = partial(_encode_texts, model, texts, length, precision)
                chunk = Chunk(part, len(part) * length, encode_part)
            chunks[tower].append(chunk)
    return chunks


def encode(chunks: list[Chunk], limit: float, seed: int, model: nn.Module) -> Encoded:
    """Encode all chunks of a tower; as many as fit into the limit, from the first on, keep graphs.

    limit: bytes of activations. The first chunk tells what the others need; it keeps its graph
        whenever the limit is above 0, since going back through any chunk needs that much anyway.
        All ranks agree on the number that is kept.
    seed: of the dropout and patch dropout masks of chunk 0; chunk n draws its masks from seed + n.
    """
    parts: list[Tensor] = []
    graphs: list[Tensor] = []
    num_kept = len(chunks) if limit == torch.inf else int(limit > 0)
    held = 0.0
    for number, chunk in enumerate(chunks):
        is_measured = number == 0 and 0 < limit < torch.inf
        with measure_graph(model) if is_measured else nullcontext() as meter:
            vectors = _encode(chunk, seed + number, keep_graph=number < num_kept)
        if meter is not None:
            costs = [meter.num_bytes * each.cost / chunk.cost for each in chunks]
            num_kept = _how_many_fit(costs, limit)
            held = sum(costs[:num_kept])
        if number < num_kept:
            graphs.append(vectors)
        parts.append(vectors.detach())
    rows = torch.tensor([row for chunk in chunks for row in chunk.rows])
    order = torch.argsort(rows).to(parts[0].device)
    vectors = torch.cat(parts)[order]
    return Encoded(vectors.requires_grad_(), chunks, graphs, held, seed)


def backward(encoded: Encoded) -> None:
    """Pass the gradient of the vectors on to the weights, chunk by chunk; frees used graphs."""
    gradient = encoded.vectors.grad
    assert gradient is not None
    kept = encoded.graphs[::-1]
    encoded.graphs.clear()
    for number, chunk in enumerate(encoded.chunks):
        seed = encoded.seed + number
        vectors = kept.pop() if kept else _encode(chunk, seed, keep_graph=True)
        if vectors.requires_grad:  # not if a whole tower is frozen
            rows = torch.tensor(chunk.rows, device=gradient.device)
            torch.autograd.backward(vectors, gradient[rows])
        del vectors


def graph_limit(config: StepConfig, model: nn.Module, device: torch.device) -> float:
    """Bytes that kept graphs may take: `graph_memory`, or most of what is free.

    Room for the gradients is left.
    """
    if config.graph_memory is not None:
        return config.graph_memory * 2**30
    num_bytes = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            weight = local_part(parameter)
            num_bytes += weight.numel() * weight.element_size()
    return max(1.0, 0.8 * _free_memory(device) - 2 * num_bytes)


class _Meter:
    num_bytes = 0


@contextmanager
def measure_graph(model: nn.Module) -> Iterator[_Meter]:
    """Count the bytes that autograd saves for the backward pass: each storage once, no weights.

    Weights that FSDP gathers for a forward pass do count: with it the number is an upper bound.
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
    torch.manual_seed(seed)  # of every device; a second encoding gets the same masks
    with torch.set_grad_enabled(keep_graph):
        return chunk.encode()


def _how_many_fit(costs: Sequence[float], limit: float) -> int:
    """Count the chunks that fit, from the first on, which is kept in any case."""
    count = 1
    room = limit - costs[0]
    while count < len(costs) and costs[count] <= room:
        room -= costs[count]
        count += 1
    return int(distributed.all_reduce_min([count])[0])


def _split_until(chunks: list[list[int]], count: int) -> list[list[int]]:
    """Halve the largest chunk until there are `count` chunks."""
    chunks = list(chunks)
    while len(chunks) < count:
        largest = max(range(len(chunks)), key=lambda number: len(chunks[number]))
        middle = len(chunks[largest]) // 2
        halves = [chunks[largest][:middle], chunks[largest][middle:]]
        chunks[largest : largest + 1] = halves
    return chunks


def _encode_images(
    model: DualEncoder, batch: Batch, rows: list[int], precision: str
) -> Tensor:
    assert batch.pixels is not None
    pixels = batch.pixels[rows[0] : rows[-1] + 1].to(model.device, non_blocking=True)
    with autocast(model.device, precision), allow_views(model):
        return model.encode_image(pixels)


def _encode_texts(
    model: DualEncoder,
    token_ids: list[list[int]],
    length: int,
    precision: str,
) -> Tensor:
    assert model.config.text is not None
    ids, mask = pad_ids(token_ids, model.config.text.pad_id, length)
    with autocast(model.device, precision), allow_views(model):
        return model.encode_text(ids.to(model.device), mask.to(model.device))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """A context for bfloat16 towers with float32 weights, or one that does nothing.

    Every chunk has its own, because autocast remembers the weights that it has cast.
    """
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def _free_memory(device: torch.device) -> float:
    """Bytes that this process could still take; infinite if unknown."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device)
        cached = reserved - torch.cuda.memory_allocated(device)
        free, _ = torch.cuda.mem_get_info(device)
        return float(free + cached)
    if not os.path.exists("/proc/meminfo"):
        return torch.inf
    with open("/proc/meminfo", encoding="ascii") as file:
        available = [line for line in file if line.startswith("MemAvailable")]
    kib = int(available[0].split()[1]) if available else 0
    return 1024 * kib / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
