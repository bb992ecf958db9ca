"""An image, and a model whose forward passes a test watches."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.unimodal.serve.engine.running import Watched
from unimodal.embedder import Embedder


@pytest.fixture
def watched(embedder: Embedder) -> Watched:
    return Watched(embedder)


@pytest.fixture(scope="session")
def image() -> Image.Image:
    """31 x 20 pixels of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
