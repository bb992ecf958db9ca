"""`unimodal bench step`: a training step, compared with GradCache and sentence-transformers.

A step here is what `train_step` does up to the gradients of the weights: chunks, loss of the batch,
back through the chunks. B pairs, D embedding dimension.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from unimodal.compare import BenchRow, Run, Tick, cpu_clock, make_row, measuring, timed
from unimodal.model import DualEncoder, build_model
from unimodal.model_config import (
    ImageTowerConfig,
    ModelConfig,
    PreprocessConfig,
    TextTowerConfig,
)

from .. import grad_cache
from ..config import SourceConfig, StepConfig, TaskConfig
from ..data.collate import NUM_IDS, Batch, TokenLists
from ..data.mixture import BatchPlace
from ..losses.tasks import task_loss
from ..step import encode_batch

VOCABULARY = 4000
MAX_TOKENS = 512
# Documents as long as those of a web corpus: a log-normal cut at MAX_TOKENS.
MEDIAN_TOKENS = 95.0
SPREAD = 0.83
MEAN_TOKENS = 131
P95_TOKENS = 366
EVERYTHING = 1e6  # GiB of graphs: more than any machine has


class Cached(NamedTuple):
    """A step on images and captions in small chunks, with ViT-Ti and a BERT of six layers.

    Smaller in the tests.
    """

    batch: int = 32
    chunk: int = 4
    image_size: int = 112
    image: Mapping[str, Any] = {}  # what differs from vit_tiny_patch16_224
    layers: int = 6
    width: int = 192
    tokens: int = 32  # of every caption
    # of the activations: three chunks in four, since images come first and are larger
    kept: float = 0.9


class Texts(NamedTuple):
    """A step on pairs of long texts, with a BERT of four layers. Smaller in the tests."""

    pairs: int = 48
    layers: int = 4
    width: int = 256
    token_budget: int = 2048


FULL_CACHED = Cached()
FULL_TEXTS = Texts()


def bench_step(
    cached: Cached = FULL_CACHED,
    texts: Texts = FULL_TEXTS,
    rounds: int = 3,
    threads: int | None = 1,
) -> list[BenchRow]:
    """Time of a step up to its gradients.

    CPU seconds of one thread vary so little that three rounds are enough.
    """
    with measuring("bench step", 6 * (rounds + 1), threads) as tick:
        return [
            _beside_grad_cache(cached, rounds, tick),
            *_beside_padding(texts, rounds, tick),
        ]


def _beside_grad_cache(sizes: Cached, rounds: int, tick: Tick) -> BenchRow:
    image = ImageTowerConfig(name="vit_tiny_patch16_224", kwargs=dict(sizes.image))
    model = random_model(sizes.layers, sizes.width, image, sizes.image_size)
    task = TaskConfig(kind="image-text", sources=_NOWHERE, global_batch=sizes.batch)
    pixels = torch.randint(
        0, 256, (sizes.batch, 3, sizes.image_size, sizes.image_size), dtype=torch.uint8
    )
    batch = make_batch([sizes.tokens] * sizes.batch, pixels)
    config = StepConfig(
        micro_batch=sizes.chunk, token_budget=sizes.chunk * sizes.tokens
    )
    config = config.model_copy(
        update={"graph_memory": sizes.kept * graph_bytes(model, batch, config) / 2**30}
    )
    kept, count = _num_kept(model, batch, config)
    runs: dict[str, Run] = {
        "ours": lambda: our_step(model, batch, task, config),
        "GradCache": lambda: grad_cache_step(model, batch, task, config),
    }
    seconds = timed(runs, rounds, tick, clock := cpu_clock())
    name = (
        f"cached step, ViT-Ti {sizes.image_size} px + BERT L{sizes.layers} d{sizes.width}, B "
        f"{sizes.batch}, chunks of {sizes.chunk}, {kept} of {count} chunks keep their graphs"
    )
    peer = "GradCache's algorithm, which encodes every chunk twice"
    return make_row(
        name, peer, "<= 0.80", seconds["ours"], seconds["GradCache"], clock.unit
    )


def _beside_padding(sizes: Texts, rounds: int, tick: Tick) -> list[BenchRow]:
    model = random_model(sizes.layers, sizes.width)
    task = TaskConfig(kind="text-text", sources=_NOWHERE, global_batch=sizes.pairs)
    batch = make_batch(long_tailed_lengths(2 * sizes.pairs))
    sorted_chunks = StepConfig(token_budget=sizes.token_budget, graph_memory=EVERYTHING)
    one_chunk = StepConfig(token_budget=10**9, graph_memory=EVERYTHING)
    peer = SentenceTransformersStep(model, batch, 1 / task.start_temperature)
    runs: dict[str, Run] = {
        "ours": lambda: our_step(model, batch, task, sorted_chunks),
        "padded to the longest": lambda: our_step(model, batch, task, one_chunk),
        "sentence-transformers, cached": peer.cached,
        "sentence-transformers, graphs kept": peer.uncached,
    }
    seconds = timed(runs, rounds, tick, clock := cpu_clock())
    mean = np.mean(batch.texts.lengths)
    p95 = np.quantile(batch.texts.lengths, 0.95)
    name = (
        f"text-text step, BERT L{sizes.layers} d{sizes.width}, {sizes.pairs} pairs, texts of "
        f"{mean:.0f} tokens (p95 {p95:.0f}, at most {max(batch.texts.lengths)}), chunks sorted "
        f"by length of {sizes.token_budget:,} tokens, all graphs kept"
    )
    library = f"sentence-transformers {version('sentence-transformers')}"
    peers = {
        "padded to the longest": ("one chunk, padded to the longest", ">= 3"),
        "sentence-transformers, cached": (
            f"{library} CachedMultipleNegativesRankingLoss, mini-batches of 32, both directions",
            ">= 4",
        ),
        "sentence-transformers, graphs kept": (
            f"{library} mini-batches of 32 in the order of arrival, nothing encoded twice",
            ">= 2.5",
        ),
    }
    return [
        make_row(name, peer, target, seconds["ours"], seconds[run], clock.unit)
        for run, (peer, target) in peers.items()
    ]


def our_step(
    model: DualEncoder, batch: Batch, task: TaskConfig, config: StepConfig
) -> list[Tensor]:
    """Compute the gradients of the weights, as do the functions below."""
    model.zero_grad()
    encoded = encode_batch(model, batch, config, "float32", seed=0)
    vectors = {tower: found.vectors for tower, found in encoded.items()}
    task_loss(model, batch, vectors, task, config.loss_tile).backward()
    for found in encoded.values():
        grad_cache.backward(found)
    return _gradients(model)


def grad_cache_step(
    model: DualEncoder, batch: Batch, task: TaskConfig, config: StepConfig
) -> list[Tensor]:
    """GradCache (Gao et al., 2021, section 3.2), which is not on PyPI: no chunk keeps its graph.

    The state of the random generator is stored with each chunk and restored for its second pass.
    """
    model.zero_grad()
    cut = grad_cache.cut(model, batch, config, "float32")
    states: list[Tensor] = []
    vectors = {}
    for tower, found in cut.items():
        parts = []
        with torch.no_grad():
            for chunk in found:
                states.append(torch.get_rng_state())
                parts.append(chunk.encode())
        order = torch.tensor([row for chunk in found for row in chunk.rows])
        vectors[tower] = torch.cat(parts)[order.argsort()].requires_grad_()  # (B, D)
    task_loss(model, batch, vectors, task, config.loss_tile).backward()
    for tower, found in cut.items():
        gradient = vectors[tower].grad
        assert gradient is not None
        for chunk in found:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(states.pop(0))
                encoded = chunk.encode()
            torch.dot(encoded.flatten(), gradient[chunk.rows].flatten()).backward()
    return _gradients(model)


class SentenceTransformersStep:
    """The text tower of a model as sentence-transformers loads, feeds and trains it."""

    def __init__(self, model: DualEncoder, batch: Batch, scale: float) -> None:
        try:
            from sentence_transformers import SentenceTransformer
            from sentence_transformers.sentence_transformer.losses import (
                CachedMultipleNegativesRankingLoss,
            )
            from sentence_transformers.sentence_transformer.modules import (
                Pooling,
                Transformer,
            )
        except ImportError:
            raise ImportError(
                'bench needs sentence-transformers: pip install "unimodal[dev]".'
            ) from None
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        assert model.text is not None
        backbone: Any = model.text.backbone
        vocabulary = {"[PAD]": 0}
        vocabulary.update({f"w{number}": number for number in range(1, VOCABULARY)})
        words = Tokenizer(models.WordLevel(vocabulary))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")
        with tempfile.TemporaryDirectory() as folder, _no_progress_bars():
            backbone.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            transformer = Transformer(
                folder,
                max_seq_length=MAX_TOKENS,
                model_kwargs={"add_pooling_layer": False},
            )
        self.model: Any = SentenceTransformer(
            modules=[transformer, Pooling(model.config.embed_dim)], device="cpu"
        )
        self.model.train()
        texts = []
        for ids in batch.texts.lists():
            texts.append(" ".join(f"w{number}" for number in ids))
        size = len(batch.keys)
        self.features = [
            self.model.preprocess(side) for side in (texts[:size], texts[size:])
        ]  # as its collator does
        self.loss = CachedMultipleNegativesRankingLoss(
            self.model,
            scale=scale,
            directions=("query_to_doc", "doc_to_query"),
            partition_mode="per_direction",
        )

    def cached(self) -> list[Tensor]:
        """Run its cached loss without changes."""
        self.model.zero_grad()
        self.loss(self.features, None).backward()
        return _gradients(self.model)

    def uncached(self) -> list[Tensor]:
        """Run the same mini-batches and loss, but keep the graphs of the first pass."""
        self.model.zero_grad()
        sides = [
            self.loss.embed_minibatch_iter(
                side, with_grad=True, copy_random_state=False
            )
            for side in self.features
        ]
        vectors_of_sides = []
        for side in sides:
            vectors_of_sides.append([vectors for vectors, _ in side])
        self.loss.calculate_loss(vectors_of_sides).backward()
        return _gradients(self.model)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Run the block without the progress bars of transformers."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def random_model(
    layers: int,
    width: int,
    image: ImageTowerConfig | None = None,
    image_size: int = 224,
) -> DualEncoder:
    """A BERT, and the image tower if given, with random weights and without dropout."""
    torch.manual_seed(0)
    backbone = {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": 4 * width,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    text = TextTowerConfig(
        name="bert", kwargs=backbone, max_length=MAX_TOKENS, projection="none"
    )
    config = ModelConfig(
        embed_dim=width,
        image=image,
        text=text,
        preprocess=PreprocessConfig(image_size=image_size),
        logit_scales=(_TASK,),
    )
    return build_model(config).train()


def make_batch(lengths: list[int], pixels: Tensor | None = None) -> Batch:
    """Random texts of these lengths.

    They are the captions of pixels (B, 3, S, S), or B queries and then B documents.
    """
    size = len(lengths) if pixels is not None else len(lengths) // 2
    flat = torch.randint(
        1,
        VOCABULARY,
        (sum(lengths),),
        dtype=torch.int32,
        generator=torch.Generator().manual_seed(0),
    )
    return Batch(
        place=BatchPlace(stage=0, task=_TASK, source="random", epoch=0, step=0),
        keys=[str(number) for number in range(size)],
        pixels=pixels,
        texts=TokenLists(flat, lengths),
        ids=torch.arange(size)[:, None].repeat(1, NUM_IDS),
        hard_negative_ids=torch.empty(size, 0, dtype=torch.int64),
        scores=None,
        skipped=[],
    )


def long_tailed_lengths(count: int) -> list[int]:
    """Lengths of documents in random order.

    They are quantiles of a log-normal, so that a small sample has the distribution of a large one.
    """
    normal = NormalDist(math.log(MEDIAN_TOKENS), SPREAD)
    found = [
        min(MAX_TOKENS, round(math.exp(normal.inv_cdf((place + 0.5) / count))))
        for place in range(count)
    ]
    for measure, value, wanted in (
        ("mean", np.mean(found), MEAN_TOKENS),
        ("p95", np.quantile(found, 0.95), P95_TOKENS),
    ):
        if abs(value / wanted - 1) > 0.03:
            raise ValueError(
                f"{count} lengths have a {measure} of {value:.0f}, not of {wanted}; draw more."
            )
    return [
        found[place]
        for place in torch.randperm(
            count, generator=torch.Generator().manual_seed(0)
        ).tolist()
    ]


def graph_bytes(model: DualEncoder, batch: Batch, config: StepConfig) -> float:
    """Bytes of the graphs of all chunks, estimated from the first chunk of each tower."""
    total = 0.0
    for found in grad_cache.cut(model, batch, config, "float32").values():
        with grad_cache.measure_graph(model) as measured:
            found[0].encode()
        total += measured.num_bytes * sum(chunk.cost for chunk in found) / found[0].cost
    return total


def _num_kept(model: DualEncoder, batch: Batch, config: StepConfig) -> tuple[int, int]:
    towers = encode_batch(model, batch, config, "float32", seed=0).values()
    return sum(len(tower.graphs) for tower in towers), sum(
        len(tower.chunks) for tower in towers
    )


def _gradients(model: nn.Module) -> list[Tensor]:
    return [
        parameter.grad for parameter in model.parameters() if parameter.grad is not None
    ]


_TASK = "pairs"
_NOWHERE = {"random": SourceConfig(path="-")}
