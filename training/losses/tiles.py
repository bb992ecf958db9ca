"""The tiles of InfoNCE's logits: the two passes of `tiled_info_nce` over them.

B local batch, G global batch, K hard negatives per query, C candidates, D embedding dimension, M
prefix lengths.

A block is one matrix of logits: this rank's anchors against candidates of all ranks. There are two
passes over its tiles:

1. the logarithm of each anchor's partition: one exp per element serves the rows (queries choosing a
   document) and the columns (documents choosing a query);
2. the logits again, the softmax of both directions with the positives subtracted inside the tile
   (subtracting them after the product cancels badly once the loss is small), and the gradient of
   the vectors.

Cosines are bounded, so one constant shift keeps every exp in range. An anchor is "weak" if it is so
far from its positive that its own terms could vanish beside that shift. Tiles that hold a weak
anchor take their shift row by row (and column by column). So do tiles under a margin, whose two
directions differ.

Every rank computes the rows of its own queries. Partitions of columns and gradients of candidates
are summed over the ranks, so nothing is computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unimodal import distributed

from .contrastive import Negatives, inverse_norms, share_an_id

# The sides, by number.
QUERY = 0
DOCUMENT = 1
HARD_NEGATIVE = 2


class Block(NamedTuple):
    """A matrix of logits: anchors by candidates."""

    anchors: int  # QUERY or DOCUMENT: whose partitions the rows belong to
    candidates: int
    hardness: float

    @property
    def is_cross(self) -> bool:
        """Whether columns are anchors too (documents), and the diagonal holds the positives."""
        return (self.anchors, self.candidates) == (QUERY, DOCUMENT)

    @property
    def is_same_side(self) -> bool:
        """Whether the diagonal pairs an anchor with itself."""
        return self.anchors == self.candidates


class Tile(NamedTuple):
    """A part of a block."""

    rows: slice  # of this rank's anchors
    anchors: slice  # the same, counted over all ranks
    columns: slice
    is_exact: bool  # each row and column has a shift of its own


class _Softmax(NamedTuple):
    """Partitions (M, 2, G) in two forms that avoid the rounding of a large logarithm."""

    # exp(shift - partition), for terms under the constant shift; infinite where an anchor is weak.
    weights: Tensor
    # The logarithm in the dtype of the logits, to subtract from them.
    rounded: Tensor
    # exp of what the rounding took off, to multiply with.
    rest: Tensor


class Tiles:
    """The two passes, and what they share."""

    def __init__(
        self,
        local: list[Tensor],
        scale: float,
        ids: list[Tensor] | None,
        negatives: Negatives,
        dims: Sequence[int],
        tile: int,
    ) -> None:
        self.local = local
        self.scale = scale
        self.tile = tile
        self.margin = negatives.margin
        self.batch = len(local[QUERY])
        self.offset = distributed.rank() * self.batch
        self.sides = [distributed.all_gather(side) for side in local]
        self.ids = (
            None if ids is None else [distributed.all_gather(side) for side in ids]
        )
        self.ends = (*sorted(dims), local[QUERY].shape[1])
        self.norms = []
        for side in self.sides:
            self.norms.append([inverse_norms(side, end) for end in self.ends[:-1]])
        self.blocks = [Block(QUERY, DOCUMENT, negatives.hardness)]
        if len(local) > HARD_NEGATIVE:
            self.blocks.append(
                Block(
                    QUERY,
                    HARD_NEGATIVE,
                    negatives.hard_negative_hardness,
                )
            )
        if negatives.query_query:
            self.blocks.append(Block(QUERY, QUERY, negatives.hardness))
        if negatives.document_document:
            self.blocks.append(Block(DOCUMENT, DOCUMENT, negatives.hardness))
        self.positive = scale * self._positive_cosines()  # (M, G)
        self._choose_shift()
        self._collisions = self._find_collisions()
        self._buffers: list[Tensor] = []

    def log_partitions(self) -> Tensor:
        """Log partitions of each prefix, query and document -> (M, 2, G) float64.

        In float32 the rounding of a logarithm near 100 would be the largest error of all.
        """
        size = len(self.sides[QUERY])
        totals = self.positive.new_full(
            (len(self.ends), 2, size), -torch.inf, dtype=torch.float64
        )

        for block in self.blocks:
            for tile in self._tiles(block):
                for prefix, logits, _ in self._logits(block, tile):
                    of_rows = totals[prefix, block.anchors, tile.anchors]
                    rows, columns = self._tile_partitions(block, tile, prefix, logits)
                    torch.logaddexp(of_rows, rows, out=of_rows)
                    if columns is not None:
                        of_columns = totals[prefix, DOCUMENT, tile.columns]
                        torch.logaddexp(of_columns, columns, out=of_columns)
        return distributed.all_reduce_logsumexp(totals)

    def _tile_partitions(
        self, block: Block, tile: Tile, prefix: int, logits: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Log partitions of a tile's rows and, if its columns are anchors, of its columns."""
        columns = None
        if tile.is_exact:
            seen = self._masked(block, tile, prefix, logits, by_columns=False)
            rows = _log_sum_exp(seen, 1)
            if block.is_cross:
                seen = self._masked(block, tile, prefix, logits, by_columns=True)
                columns = _log_sum_exp(seen, 0)
            return rows, columns
        terms = logits.sub_(self.shift).exp_() if self.shift else logits.exp_()
        rows = terms.sum(1).double().log_().add_(self.shift)
        if block.is_cross:
            columns = terms.sum(0).double().log_().add_(self.shift)
        return rows, columns

    def gradients(self, partitions: Tensor) -> tuple[list[Tensor], float]:
        """partitions: (M, 2, G) -> the gradient of each local side, and of the scale."""
        softmax = self._softmax(partitions)
        of_rows = [torch.zeros_like(side) for side in self.local]
        of_columns = [torch.zeros_like(side) for side in self.sides]
        # Sums over a vector's similarities of gradient x cosine: what the norms of its prefixes
        # pass on.
        inner = [side.new_zeros(len(self.ends) - 1, len(side)) for side in self.sides]
        for block in self.blocks:
            for tile in self._tiles(block):
                slopes = self._slopes(block, tile, softmax, inner)
                for prefix, slope in enumerate(slopes):
                    part = self._slice_of(prefix)
                    anchors = self.sides[block.anchors][tile.anchors, part]
                    candidates = self.sides[block.candidates][tile.columns, part]
                    by_row = of_rows[block.anchors][tile.rows, part]
                    by_column = of_columns[block.candidates][tile.columns, part]
                    by_row.addmm_(slope, candidates)
                    by_column.addmm_(slope.T, anchors)
        by_scale = sum(
            float((rows * side).sum())
            for rows, side in zip(of_rows, self.local, strict=True)
        )
        factor = 1 / (2 * len(self.sides[QUERY]))
        gradients = []
        for kind in range(len(self.local)):
            gradient = self._finish(kind, of_rows[kind], of_columns[kind], inner[kind])
            gradients.append(gradient.mul_(self.scale * factor))
        return gradients, distributed.all_reduce_sum([by_scale])[0] * factor

    def _softmax(self, partitions: Tensor) -> _Softmax:
        dtype = self.positive.dtype
        rounded = partitions.to(dtype)
        return _Softmax(
            weights=(self.shift - partitions).exp_().to(dtype),
            rounded=rounded,
            rest=(rounded - partitions).exp_().to(dtype),
        )

    def _slopes(
        self,
        block: Block,
        tile: Tile,
        softmax: _Softmax,
        inner: list[Tensor],
    ) -> list[Tensor]:
        """The derivatives of the loss by a tile's products, one (rows, columns) matrix per prefix.

        What belongs to the norms of the prefixes is added to `inner`.
        """
        slopes = []
        for prefix, logits, cosines in self._logits(block, tile):
            slope = self._slope(block, tile, prefix, logits, softmax)
            if cosines is not None:
                cosines.mul_(slope)
                inner[block.anchors][prefix, tile.anchors] += cosines.sum(1)
                inner[block.candidates][prefix, tile.columns] += cosines.sum(0)
                slope.mul_(self.norms[block.anchors][prefix][tile.anchors, None])
                slope.mul_(self.norms[block.candidates][prefix][tile.columns])
                slope = slope.clone()  # the next prefix overwrites it
            slopes.append(slope)
        # The products of a prefix are in every longer one: its slice gets the slopes of all of
        # them.
        for prefix in range(len(slopes) - 2, -1, -1):
            slopes[prefix].add_(slopes[prefix + 1])
        return slopes

    def _slice_of(self, prefix: int) -> slice:
        """The dimensions of a prefix that no shorter one has."""
        start = self.ends[prefix - 1] if prefix else 0
        return slice(start, self.ends[prefix])

    def _finish(
        self,
        kind: int,
        of_rows: Tensor,
        of_columns: Tensor,
        inner: Tensor,
    ) -> Tensor:
        """The gradient of a side, as rows and as columns.

        Normalizing a prefix takes out the part of the gradient along it.
        """
        start = distributed.rank() * len(of_rows)
        own = slice(start, start + len(of_rows))
        gradient = of_rows.add_(distributed.all_reduce(of_columns)[own])
        if len(inner):
            inner = distributed.all_reduce(inner)[:, own]
        for sums, norms, end in zip(
            inner, self.norms[kind], self.ends[:-1], strict=True
        ):
            along = (sums * norms[own].square())[:, None]
            gradient[:, :end] -= along * self.local[kind][:, :end]
        return gradient

    def _tiles(self, block: Block) -> Iterator[Tile]:
        for row in range(0, self.batch, self.tile):
            rows = slice(row, min(row + self.tile, self.batch))
            anchors = slice(self.offset + rows.start, self.offset + rows.stop)
            num_candidates = len(self.sides[block.candidates])
            for column in range(0, num_candidates, self.tile):
                columns = slice(column, min(column + self.tile, num_candidates))
                is_weak = bool(self.weak[anchors].any())
                if block.is_cross:
                    is_weak = is_weak or bool(self.weak[columns].any())
                is_exact = self.margin is not None or is_weak
                yield Tile(rows, anchors, columns, is_exact)

    def _logits(
        self, block: Block, tile: Tile
    ) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """Yield each prefix, its (rows, columns) logits, and its cosines if it is normalized.

        Both are buffers that the next prefix overwrites. What an anchor may not see is -inf; a
        positive has its own value, without hardness.
        """
        products, out, cosines = self._tile_buffers(tile)
        anchors = self.sides[block.anchors][tile.anchors]
        candidates = self.sides[block.candidates][tile.columns]
        hidden = self._hidden(block, tile)
        diagonal = None
        if block.is_cross or block.is_same_side:
            diagonal = _diagonal(tile.anchors, tile.columns)
        start = 0
        for prefix, end in enumerate(self.ends):
            scaled = anchors[:, start:end] * (self.scale + block.hardness)
            if start:
                products.addmm_(scaled, candidates[:, start:end].T)
            else:
                torch.mm(scaled, candidates[:, start:end].T, out=products)
            start = end
            is_whole = prefix + 1 == len(self.ends)
            logits = products
            if not is_whole:
                by_row = self.norms[block.anchors][prefix][tile.anchors, None]
                by_column = self.norms[block.candidates][prefix][tile.columns]
                logits = torch.mul(products, by_row, out=out).mul_(by_column)
                torch.mul(
                    logits,
                    1 / (self.scale + block.hardness),
                    out=cosines,
                )
            if hidden is not None:
                logits.masked_fill_(hidden, -torch.inf)
            if diagonal is not None and block.is_cross:
                positives = self.positive[prefix, diagonal.in_whole]
                _on_diagonal(logits, diagonal).copy_(positives)
            elif diagonal is not None:
                _on_diagonal(logits, diagonal).fill_(-torch.inf)
            yield prefix, logits, None if is_whole else cosines

    def _slope(
        self,
        block: Block,
        tile: Tile,
        prefix: int,
        logits: Tensor,
        softmax: _Softmax,
    ) -> Tensor:
        """The derivative of the loss (x 2 G) by each cosine (/ scale).

        These are probabilities, less one per positive.
        """
        if tile.is_exact:
            slope = self._exact_slope(block, tile, prefix, logits, softmax)
        else:
            slope = logits.sub_(self.shift).exp_() if self.shift else logits.exp_()
            weight = softmax.weights[prefix, block.anchors, tile.anchors, None]
            if block.is_cross:
                by_column = softmax.weights[prefix, DOCUMENT, tile.columns]
                out = self._buffer(3, *slope.shape)
                weight = torch.add(weight, by_column, out=out)
            slope.mul_(weight)
        if block.is_cross:
            diagonal = _diagonal(tile.anchors, tile.columns)
            if diagonal is not None:
                _on_diagonal(slope, diagonal).sub_(2)
        return slope

    def _exact_slope(
        self,
        block: Block,
        tile: Tile,
        prefix: int,
        logits: Tensor,
        softmax: _Softmax,
    ) -> Tensor:
        rows = (prefix, block.anchors, tile.anchors, None)
        seen = self._masked(block, tile, prefix, logits, by_columns=False)
        slope = (seen - softmax.rounded[rows]).exp_().mul_(softmax.rest[rows])
        if block.is_cross:
            columns = (prefix, DOCUMENT, tile.columns)
            seen = self._masked(block, tile, prefix, logits, by_columns=True)
            by_column = (seen - softmax.rounded[columns]).exp_()
            slope += by_column.mul_(softmax.rest[columns])
        return slope

    def _masked(
        self,
        block: Block,
        tile: Tile,
        prefix: int,
        logits: Tensor,
        *,
        by_columns: bool,
    ) -> Tensor:
        """Hide the candidates that are closer to the anchor than its positive and the margin."""
        if self.margin is None:
            return logits
        cosines = self.positive[prefix] / self.scale + self.margin  # (G,)
        limits = (self.scale + block.hardness) * cosines
        limit = limits[tile.columns] if by_columns else limits[tile.anchors, None]
        is_hidden = logits > limit
        diagonal = _diagonal(tile.anchors, tile.columns) if block.is_cross else None
        if diagonal is not None:
            _on_diagonal(is_hidden, diagonal).fill_(False)
        if block.candidates == HARD_NEGATIVE:
            is_hidden &= ~self._own_hard_negatives(tile)
        return logits.masked_fill(is_hidden, -torch.inf)

    def _own_hard_negatives(self, tile: Tile) -> Tensor:
        """(rows, columns) bool: whether a hard negative is that of the query itself."""
        num_negatives = len(self.sides[HARD_NEGATIVE]) // len(self.sides[QUERY])
        device = self.sides[QUERY].device
        anchors = torch.arange(tile.anchors.start, tile.anchors.stop, device=device)
        columns = torch.arange(tile.columns.start, tile.columns.stop, device=device)
        return anchors[:, None] == columns // num_negatives

    def _hidden(self, block: Block, tile: Tile) -> Tensor | None:
        """(rows, columns) bool: the pairs that share an id; None if there are none."""
        pairs_collide, hard_negatives_collide = self._collisions
        is_hard = block.candidates == HARD_NEGATIVE
        if not (hard_negatives_collide if is_hard else pairs_collide):
            return None
        assert self.ids is not None
        return share_an_id(
            self.ids[block.anchors][tile.anchors],
            self.ids[block.candidates][tile.columns],
        )

    def _find_collisions(self) -> tuple[bool, bool]:
        """Whether two pairs share an id, and whether a hard negative is in a pair's ids.

        Most batches have no such pairs.
        """
        if self.ids is None:
            return False, False
        pairs = self.ids[QUERY].sort(1).values  # (G, A)
        num_different = len(pairs) + int((pairs[:, 1:] != pairs[:, :-1]).sum())
        hard_negatives_collide = False
        if len(self.ids) > HARD_NEGATIVE:
            is_in_a_pair = torch.isin(self.ids[HARD_NEGATIVE], pairs)
            hard_negatives_collide = bool(is_in_a_pair.any())
        return (
            pairs.unique().numel() < num_different,
            hard_negatives_collide,
        )

    def _positive_cosines(self) -> Tensor:
        """-> (M, G)."""
        query = self.sides[QUERY]
        document = self.sides[DOCUMENT]
        whole = (query * document).sum(1)
        cosines = []
        for number, end in enumerate(self.ends[:-1]):
            products = (query[:, :end] * document[:, :end]).sum(1)
            norms = self.norms[QUERY][number]
            cosines.append(products * norms * self.norms[DOCUMENT][number])
        return torch.stack([*cosines, whole])

    def _choose_shift(self) -> None:
        """Choose the shift that keeps every exp and sum from overflowing, and find weak anchors.

        An anchor's partition is at least its positive: what underflows beside a positive that is
        e^32 above the smallest number is less than 1e-13 of it per term.
        """
        numbers = torch.finfo(self.positive.dtype)
        # 1, if the vectors are unit vectors.
        longest = max(float(side.square().sum(1).amax()) for side in self.sides)
        hardest = max(self.scale + block.hardness for block in self.blocks)
        strongest = hardest * max(longest, 1.0)
        num_candidates = sum(map(len, self.sides)) + 2 * len(self.sides[QUERY])
        largest = math.log(numbers.max) - math.log(num_candidates) - 1
        # A whole number: a fraction would round every logit the same way, and the loss with them.
        self.shift = float(math.ceil(max(0.0, strongest - largest)))
        floor = self.shift + math.log(numbers.tiny) + 32
        # (G,) on the host: the choice of a tile must not wait for the device.
        self.weak = (self.positive.amin(0) < floor).cpu()

    def _tile_buffers(self, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
        num_rows = tile.rows.stop - tile.rows.start
        num_columns = tile.columns.stop - tile.columns.start
        products = self._buffer(0, num_rows, num_columns)
        if len(self.ends) == 1:  # no prefix is normalized: one buffer serves all
            return products, products, products
        logits = self._buffer(1, num_rows, num_columns)
        return products, logits, self._buffer(2, num_rows, num_columns)

    def _buffer(self, number: int, rows: int, columns: int) -> Tensor:
        """A (rows, columns) part of memory that stays: fresh memory would cost page faults."""
        while len(self._buffers) <= number:
            self._buffers.append(
                torch.empty(
                    0,
                    dtype=self.positive.dtype,
                    device=self.positive.device,
                )
            )
        if self._buffers[number].numel() < rows * columns:
            self._buffers[number] = self._buffers[number].new_empty(rows * columns)
        return self._buffers[number][: rows * columns].view(rows, columns)


def _log_sum_exp(logits: Tensor, dim: int) -> Tensor:
    """logsumexp with its logarithm in float64; -inf where there is nothing but -inf."""
    highest = logits.amax(dim, keepdim=True).clamp_min_(torch.finfo(logits.dtype).min)
    return (logits - highest).exp_().sum(dim).double().log_() + highest.squeeze(dim)


class _Diagonal(NamedTuple):
    """Where a tile crosses the diagonal of its matrix."""

    in_rows: slice
    in_columns: slice
    in_whole: slice


def _diagonal(rows: slice, columns: slice) -> _Diagonal | None:
    start = max(rows.start, columns.start)
    stop = min(rows.stop, columns.stop)
    if start >= stop:
        return None
    return _Diagonal(
        in_rows=slice(start - rows.start, stop - rows.start),
        in_columns=slice(start - columns.start, stop - columns.start),
        in_whole=slice(start, stop),
    )


def _on_diagonal(matrix: Tensor, diagonal: _Diagonal) -> Tensor:
    return matrix[diagonal.in_rows, diagonal.in_columns].diagonal()
