"""Every format: a model that was loaded from it is saved as ours and comes back the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unimodal.formats.sentence_folders import write_backbone, write_modules
from unimodal.embedder import Embedder, Item
from unimodal.formats import FORMATS, load_model, native
from unimodal.model import DualEncoder
from unimodal.preprocess.tokenizers import Tokenizer


@pytest.fixture
def sources(
    tmp_path: Path,
    model: DualEncoder,
    tokenizer: Tokenizer,
    open_clip_name: str,
    tokenizer_file: Path,
    bert_kwargs: dict[str, Any],
) -> dict[str, Callable[[], str]]:
    """What makes a model of each format and returns its name."""

    def native_folder() -> str:
        native.save(tmp_path / "native", model, tokenizer)
        return str(tmp_path / "native")

    def sentence_folder() -> str:
        write_backbone(tmp_path / "sentences", tokenizer_file, bert_kwargs)
        write_modules(tmp_path / "sentences", {"pooling_mode_mean_tokens": True})
        return f"hf:{tmp_path / 'sentences'}"

    return {
        "open_clip": lambda: f"open_clip:{open_clip_name}",
        "sentence_transformers": sentence_folder,
        "native": native_folder,
    }


@pytest.mark.parametrize("name", FORMATS)
def test_a_model_of_any_format_is_saved_and_comes_back_the_same(
    name: str,
    sources: dict[str, Callable[[], str]],
    tmp_path: Path,
    texts: list[str],
    images: list[Image.Image],
) -> None:
    source = sources[name]()
    assert [key for key, known in FORMATS.items() if known.detect(source)] == [name]

    loaded, tokenizer = load_model(source)
    native.save(tmp_path / "saved", loaded, tokenizer)
    before = Embedder(loaded.eval(), tokenizer, device="cpu")
    after = Embedder(*load_model(str(tmp_path / "saved")), device="cpu")

    assert after.fingerprint() == before.fingerprint()
    assert after.modalities == before.modalities
    items: list[Item] = [*texts]
    if "image" in before.modalities:
        items += images
    assert np.array_equal(after.encode(items), before.encode(items))


@pytest.mark.parametrize("source", ["mteb:name", "onnx:owner/name"])
def test_a_prefix_that_no_format_has_is_refused_with_those_that_there_are(
    source: str,
) -> None:
    with pytest.raises(
        ValueError, match=rf"'{source}' is not a folder.*open_clip:.*hf:"
    ):
        load_model(source)
