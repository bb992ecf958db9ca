"""InfoNCE without the matrix of similarities: as exact as `info_nce`, in memory that does not grow
with G x G.

B local batch, G global batch, K hard negatives per query, C candidates, D embedding dimension, M
prefix lengths.

A block is one matrix of logits: this rank's anchors against candidates of all ranks. Two passes
    over its tiles:

1. the logarithm of each anchor's partition: one exp an element serves the rows (queries choosing a
   document) and the columns (documents choosing a query);
2. the logits again, the softmax of both directions with the positives subtracted inside the tile
   (subtracting them after the product cancels badly once the loss is small), and the gradient of
   the vectors.

The gradient is ready when the forward pass is: four matrix products in all, where a plain loss
takes six. Cosines are bounded, so that one constant shift keeps every exp in range; an anchor so
far from its positive that its own terms could vanish beside that shift is "weak", and tiles that
hold one take their shift row by row (and column by column), as do tiles under a margin, whose two
directions differ.

Every rank computes the rows of its own queries; partitions of columns and gradients of candidates
are summed over the ranks, so nothing is computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unimodal import distributed

from .contrastive import PLAIN, Negatives, inverse_norms, share_an_id

QUERY = 0
DOCUMENT = 1
HARD_NEGATIVE = 2  # whose vectors


def tiled_info_nce(
    query: Tensor,
    document: Tensor,
    scale: Tensor,
    hard_negatives: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    hard_negative_ids: Tensor | None = None,
    negatives: Negatives = PLAIN,
    dims: Sequence[int] = (),
    tile: int = 1024,
) -> Tensor:
    """`info_nce` of the global batch of which the arguments are this rank's part; the other ranks
    call it too.

    query, document: (B, D), hard_negatives: (B, K, D) unit vectors; ids: (B, A), hard_negative_ids:
        (B, K) int64.
    scale: () already exponentiated. tile: rows and columns of logits held at a time.

    Returns () the loss of the global batch, the same on every rank. As with `gather`, gradients of
    the vectors are those of one process times the number of ranks, for `average_gradients` to
    divide. It has no second derivative.
    """
    loss: Tensor = _TiledInfoNCE.apply(  # type: ignore[no-untyped-call]
        query,
        document,
        scale,
        hard_negatives,
        ids,
        hard_negative_ids,
        negatives,
        dims,
        tile,
    )
    return loss


class _TiledInfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        document: Tensor,
        scale: Tensor,
        hard_negatives: Tensor | None,
        ids: Tensor | None,
        hard_negative_ids: Tensor | None,
        negatives: Negatives,
        dims: Sequence[int],
        tile: int,
    ) -> Tensor:
        hard = None if hard_negatives is None else hard_negatives.flatten(0, 1)
        hard_ids = (
            None if hard_negative_ids is None else hard_negative_ids.reshape(-1, 1)
        )
        local = [
            side.contiguous() for side in (query, document, hard) if side is not None
        ]
        all_ids = (
            None
            if ids is None
            else [ids, ids, *([] if hard_ids is None else [hard_ids])]
        )
        tiles = _Tiles(local, float(scale), all_ids, negatives, dims, tile)
        partitions = tiles.log_partitions()  # (M, 2, G)
        gradients, scale_gradient = tiles.gradients(partitions)
        if hard_negatives is not None:
            gradients[HARD_NEGATIVE] = gradients[HARD_NEGATIVE].view_as(hard_negatives)
        ctx.save_for_backward(
            torch.as_tensor(scale_gradient, dtype=scale.dtype, device=scale.device),
            *gradients,
        )
        return (partitions.sum(1) / 2 - tiles.positive).mean(1).sum().to(query.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        scale_gradient, query, document, *hard = ctx.saved_tensors
        several = grad * distributed.world_size()
        others = (several * hard[0] if hard else None, None, None, None, None, None)
        return several * query, several * document, grad * scale_gradient, *others


class _Block(NamedTuple):
    anchors: int  # QUERY or DOCUMENT: whose partitions the rows belong to
    candidates: int
    hardness: float

    @property
    def is_cross(self) -> bool:
        """Queries against documents: the columns are anchors too, and the diagonal holds the
        positives.
        """
        return (self.anchors, self.candidates) == (QUERY, DOCUMENT)

    @property
    def is_same_side(self) -> bool:
        """The diagonal holds an anchor beside itself."""
        return self.anchors == self.candidates


class _Tile(NamedTuple):
    rows: slice  # of this rank's anchors
    anchors: slice  # the same, counted over all ranks
    columns: slice
    is_exact: bool  # a shift of its own for each row and column


class _Softmax(NamedTuple):
    """Partitions (M, 2, G) in the two forms that divide by them without the rounding of a large
    logarithm.
    """

    # exp(shift - partition), for terms under the constant shift; infinite where an anchor is weak
    weights: Tensor
    rounded: Tensor  # the logarithm as a float of the logits' kind, to subtract from them ...
    rest: Tensor  # ... and exp of what the rounding took off, to multiply with


class _Tiles:
    """The two passes; all that they share."""

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
        self.norms = [
            [inverse_norms(side, end) for end in self.ends[:-1]] for side in self.sides
        ]
        self.blocks = [_Block(QUERY, DOCUMENT, negatives.hardness)]
        if len(local) > HARD_NEGATIVE:
            self.blocks.append(
                _Block(QUERY, HARD_NEGATIVE, negatives.hard_negative_hardness)
            )
        if negatives.query_query:
            self.blocks.append(_Block(QUERY, QUERY, negatives.hardness))
        if negatives.document_document:
            self.blocks.append(_Block(DOCUMENT, DOCUMENT, negatives.hardness))
        self.positive = scale * self._positive_cosines()  # (M, G)
        self._choose_shift()
        self._buffers: list[Tensor] = []

    def log_partitions(self) -> Tensor:
        """-> (M, 2, G) float64, of every query and of every document of the global batch, for each
        prefix.

        In float32 the rounding of a logarithm near 100 would be the largest error of all.
        """
        size = len(self.sides[QUERY])
        totals = self.positive.new_full(
            (len(self.ends), 2, size), -torch.inf, dtype=torch.float64
        )

        def add(total: Tensor, more: Tensor) -> None:
            torch.logaddexp(total, more, out=total)

        for block in self.blocks:
            for tile in self._tiles(block):
                for prefix, logits, _ in self._logits(block, tile):
                    of_rows = totals[prefix, block.anchors, tile.anchors]
                    of_columns = totals[prefix, 1, tile.columns]
                    if tile.is_exact:
                        add(
                            of_rows,
                            _log_sum_exp(
                                self._masked(
                                    block, tile, prefix, logits, by_columns=False
                                ),
                                1,
                            ),
                        )
                        if block.is_cross:
                            add(
                                of_columns,
                                _log_sum_exp(
                                    self._masked(
                                        block, tile, prefix, logits, by_columns=True
                                    ),
                                    0,
                                ),
                            )
                    else:
                        terms = (
                            logits.sub_(self.shift).exp_()
                            if self.shift
                            else logits.exp_()
                        )
                        add(of_rows, terms.sum(1).double().log_().add_(self.shift))
                        if block.is_cross:
                            add(
                                of_columns,
                                terms.sum(0).double().log_().add_(self.shift),
                            )
        return distributed.all_reduce_logsumexp(totals)

    def gradients(self, partitions: Tensor) -> tuple[list[Tensor], float]:
        """partitions: (M, 2, G) -> the gradient of each local side, and of the scale."""
        rounded = partitions.to(self.positive.dtype)
        weights, rest = (
            (one - partitions).exp_().to(rounded.dtype) for one in (self.shift, rounded)
        )
        softmax = _Softmax(weights, rounded, rest)
        of_rows = [torch.zeros_like(side) for side in self.local]
        of_columns = [torch.zeros_like(side) for side in self.sides]
        # Sums over a vector's similarities of gradient x cosine: what the norms of its prefixes
        # pass on.
        inner = [side.new_zeros(len(self.ends) - 1, len(side)) for side in self.sides]
        for block in self.blocks:
            for tile in self._tiles(block):
                slopes = []
                for prefix, logits, cosines in self._logits(block, tile):
                    slope = self._slope(block, tile, prefix, logits, softmax)
                    if cosines is not None:
                        cosines.mul_(slope)
                        inner[block.anchors][prefix, tile.anchors] += cosines.sum(1)
                        inner[block.candidates][prefix, tile.columns] += cosines.sum(0)
                        slope.mul_(
                            self.norms[block.anchors][prefix][tile.anchors, None]
                        )
                        slope.mul_(self.norms[block.candidates][prefix][tile.columns])
                    slopes.append(slope if cosines is None else slope.clone())
                # The products of a prefix are in every longer one: its slice gets the slopes of all
                # of them.
                for prefix in range(len(self.ends) - 1, -1, -1):
                    if prefix + 1 < len(slopes):
                        slopes[prefix].add_(slopes[prefix + 1])
                    part = slice(
                        self.ends[prefix - 1] if prefix else 0, self.ends[prefix]
                    )
                    anchors = self.sides[block.anchors]
                    candidates = self.sides[block.candidates]
                    of_rows[block.anchors][tile.rows, part].addmm_(
                        slopes[prefix], candidates[tile.columns, part]
                    )
                    of_columns[block.candidates][tile.columns, part].addmm_(
                        slopes[prefix].T, anchors[tile.anchors, part]
                    )
        by_scale = sum(
            float((rows * side).sum())
            for rows, side in zip(of_rows, self.local, strict=True)
        )
        factor = 1 / (2 * len(self.sides[QUERY]))
        gradients = [
            self._finish(kind, of_rows[kind], of_columns[kind], inner[kind]).mul_(
                self.scale * factor
            )
            for kind in range(len(self.local))
        ]
        return gradients, distributed.all_reduce_sum([by_scale])[0] * factor

    def _finish(
        self, kind: int, of_rows: Tensor, of_columns: Tensor, inner: Tensor
    ) -> Tensor:
        """The gradient as row and as column, less the part along each prefix that normalising it
        takes out.
        """
        own = slice(
            distributed.rank() * len(of_rows), (distributed.rank() + 1) * len(of_rows)
        )
        gradient = of_rows.add_(distributed.all_reduce(of_columns)[own])
        if len(inner):
            inner = distributed.all_reduce(inner)[:, own]
        for sums, norms, end in zip(
            inner, self.norms[kind], self.ends[:-1], strict=True
        ):
            gradient[:, :end] -= (sums * norms[own].square())[:, None] * self.local[
                kind
            ][:, :end]
        return gradient

    def _tiles(self, block: _Block) -> Iterator[_Tile]:
        for row in range(0, self.batch, self.tile):
            rows = slice(row, min(row + self.tile, self.batch))
            anchors = slice(self.offset + rows.start, self.offset + rows.stop)
            for column in range(0, len(self.sides[block.candidates]), self.tile):
                columns = slice(
                    column, min(column + self.tile, len(self.sides[block.candidates]))
                )
                weak = self.weak[anchors].any() or (
                    block.is_cross and self.weak[columns].any()
                )
                yield _Tile(
                    rows, anchors, columns, self.margin is not None or bool(weak)
                )

    def _logits(
        self, block: _Block, tile: _Tile
    ) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """Each prefix with its (rows, columns) logits, and the cosines where the prefix is
        normalised.

        Both are buffers that the next prefix overwrites: what no anchor may see is -inf, positives
            are as they count.
        """
        products, out, cosines = self._tile_buffers(tile)
        anchors = self.sides[block.anchors][tile.anchors]
        candidates = self.sides[block.candidates][tile.columns]
        hidden = self._hidden(block, tile)
        diagonal = (
            _diagonal(tile.anchors, tile.columns)
            if block.is_cross or block.is_same_side
            else None
        )
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
                logits = torch.mul(products, by_row, out=out).mul_(
                    self.norms[block.candidates][prefix][tile.columns]
                )
                torch.mul(logits, 1 / (self.scale + block.hardness), out=cosines)
            if hidden is not None:
                logits.masked_fill_(hidden, -torch.inf)
            if diagonal is not None and block.is_cross:
                _on_diagonal(logits, diagonal).copy_(self.positive[prefix, diagonal[2]])
            elif diagonal is not None:
                _on_diagonal(logits, diagonal).fill_(-torch.inf)
            yield prefix, logits, None if is_whole else cosines

    def _slope(
        self, block: _Block, tile: _Tile, prefix: int, logits: Tensor, softmax: _Softmax
    ) -> Tensor:
        """The derivative of the loss (x 2 G) by each cosine (/ scale): probabilities, less one a
        positive.
        """
        if tile.is_exact:
            by_rows = self._masked(block, tile, prefix, logits, by_columns=False)
            rows = (prefix, block.anchors, tile.anchors, None)
            columns = (prefix, DOCUMENT, tile.columns)
            slope = (by_rows - softmax.rounded[rows]).exp_().mul_(softmax.rest[rows])
            if block.is_cross:
                by_columns = self._masked(block, tile, prefix, logits, by_columns=True)
                slope += (
                    (by_columns - softmax.rounded[columns])
                    .exp_()
                    .mul_(softmax.rest[columns])
                )
        else:
            slope = logits.sub_(self.shift).exp_() if self.shift else logits.exp_()
            by_row = softmax.weights[prefix, block.anchors, tile.anchors, None]
            if block.is_cross:
                both = self._buffer(3, *slope.shape)
                slope.mul_(
                    torch.add(
                        by_row,
                        softmax.weights[prefix, DOCUMENT, tile.columns],
                        out=both,
                    )
                )
            else:
                slope.mul_(by_row)
        if (
            block.is_cross
            and (diagonal := _diagonal(tile.anchors, tile.columns)) is not None
        ):
            _on_diagonal(slope, diagonal).sub_(2)
        return slope

    def _masked(
        self,
        block: _Block,
        tile: _Tile,
        prefix: int,
        logits: Tensor,
        *,
        by_columns: bool,
    ) -> Tensor:
        """Without the candidates that are more similar to the anchor than its positive by more than
        the margin.
        """
        if self.margin is None:
            return logits
        limit = (self.scale + block.hardness) * (
            self.positive[prefix] / self.scale + self.margin
        )  # (G,)
        similar = logits > (
            limit[tile.columns] if by_columns else limit[tile.anchors, None]
        )
        diagonal = _diagonal(tile.anchors, tile.columns) if block.is_cross else None
        if diagonal is not None:
            _on_diagonal(similar, diagonal).fill_(False)
        if block.candidates == HARD_NEGATIVE:
            similar &= ~self._own_hard_negatives(tile)
        return logits.masked_fill(similar, -torch.inf)

    def _own_hard_negatives(self, tile: _Tile) -> Tensor:
        count = len(self.sides[HARD_NEGATIVE]) // len(self.sides[QUERY])
        device = self.sides[QUERY].device
        owners = (
            torch.arange(tile.columns.start, tile.columns.stop, device=device) // count
        )
        return (
            torch.arange(tile.anchors.start, tile.anchors.stop, device=device)[:, None]
            == owners
        )

    def _hidden(self, block: _Block, tile: _Tile) -> Tensor | None:
        if self.ids is None or not self._ids_collide[block.candidates == HARD_NEGATIVE]:
            return None
        return share_an_id(
            self.ids[block.anchors][tile.anchors],
            self.ids[block.candidates][tile.columns],
        )

    @property
    def _ids_collide(self) -> tuple[bool, bool]:
        """Whether two pairs share an id, and whether a hard negative is in a pair's ids: most
        batches have none.
        """
        if not hasattr(self, "_collisions"):
            assert self.ids is not None
            pairs = self.ids[QUERY].sort(1).values  # (G, A)
            different = len(pairs) + int((pairs[:, 1:] != pairs[:, :-1]).sum())
            hard = len(self.ids) > HARD_NEGATIVE and bool(
                torch.isin(self.ids[HARD_NEGATIVE], pairs).any()
            )
            self._collisions = (pairs.unique().numel() < different, hard)
        return self._collisions

    def _positive_cosines(self) -> Tensor:
        """-> (M, G)."""
        query = self.sides[QUERY]
        document = self.sides[DOCUMENT]
        whole = (query * document).sum(1)
        prefixes = [
            (query[:, :end] * document[:, :end]).sum(1)
            * self.norms[QUERY][number]
            * self.norms[DOCUMENT][number]
            for number, end in enumerate(self.ends[:-1])
        ]
        return torch.stack([*prefixes, whole])

    def _choose_shift(self) -> None:
        """The shift that keeps every exp and every sum from overflowing, and the anchors that it
        would drown.

        An anchor's partition is at least its positive: what underflows beside a positive that is
        e^32 above the smallest number is less than 1e-13 of it a term.
        """
        numbers = torch.finfo(self.positive.dtype)
        longest = max(
            float(side.square().sum(1).amax()) for side in self.sides
        )  # 1, if the vectors are unit vectors
        strongest = max(self.scale + block.hardness for block in self.blocks) * max(
            longest, 1.0
        )
        num_candidates = sum(map(len, self.sides)) + 2 * len(self.sides[QUERY])
        # A whole number: a fraction would round every logit the same way, and the loss with them.
        self.shift = float(
            math.ceil(
                max(
                    0.0,
                    strongest - (math.log(numbers.max) - math.log(num_candidates) - 1),
                )
            )
        )
        floor = self.shift + math.log(numbers.tiny) + 32
        self.weak = (
            self.positive.amin(0) < floor
        ).cpu()  # (G,) on the host: the choice of a tile must not wait

    def _tile_buffers(self, tile: _Tile) -> tuple[Tensor, Tensor, Tensor]:
        shape = tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start
        if (
            len(self.ends) == 1
        ):  # no prefix is normalised, so that the products are all there is
            products = self._buffer(0, *shape)
            return products, products, products
        return self._buffer(0, *shape), self._buffer(1, *shape), self._buffer(2, *shape)

    def _buffer(self, number: int, rows: int, columns: int) -> Tensor:
        """A (rows, columns) part of memory that stays: a tile of fresh memory would cost its page
        faults.
        """
        while len(self._buffers) <= number:
            self._buffers.append(
                torch.empty(0, dtype=self.positive.dtype, device=self.positive.device)
            )
        if self._buffers[number].numel() < rows * columns:
            self._buffers[number] = self._buffers[number].new_empty(rows * columns)
        return self._buffers[number][: rows * columns].view(rows, columns)


def _log_sum_exp(logits: Tensor, dim: int) -> Tensor:
    """logsumexp with its logarithm in float64; -inf where there is nothing but -inf."""
    highest = logits.amax(dim, keepdim=True).clamp_min_(torch.finfo(logits.dtype).min)
    return (logits - highest).exp_().sum(dim).double().log_() + highest.squeeze(dim)


def _diagonal(rows: slice, columns: slice) -> tuple[slice, slice, slice] | None:
    """Where a tile crosses the diagonal of its matrix: there in rows, there in columns, there in
    the whole.
    """
    start = max(rows.start, columns.start)
    stop = min(rows.stop, columns.stop)
    if start >= stop:
        return None
    return (
        slice(start - rows.start, stop - rows.start),
        slice(start - columns.start, stop - columns.start),
        slice(start, stop),
    )


def _on_diagonal(matrix: Tensor, place: tuple[slice, slice, slice]) -> Tensor:
    return matrix[place[0], place[1]].diagonal()
