"""The same model has the same fingerprint wherever it lies; whatever changes a vector gives
another.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from unimodal.embedder import Embedder, load
from unimodal.fingerprint import model_fingerprint
from unimodal.formats import native
from unimodal.model import DualEncoder, build_model
from unimodal.model_config import ModelConfig
from unimodal.preprocess.tokenizers import Tokenizer, train_tokenizer


def test_a_model_that_is_saved_and_loaded_from_two_folders_keeps_its_fingerprint(
    model: DualEncoder, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    before = model_fingerprint(model, tokenizer)
    for name in ("one", "two"):
        native.save(tmp_path / name, model, tokenizer)
    assert {
        load(tmp_path / name, device="cpu").fingerprint() for name in ("one", "two")
    } == {before}
    assert len(before) == 32


def test_an_embedder_that_cuts_its_vectors_has_another(
    model: DualEncoder, tokenizer: Tokenizer
) -> None:
    full = model.config.embed_dim
    made = [
        Embedder(model, tokenizer, device="cpu", truncate_dim=dim).fingerprint()
        for dim in (None, full, 8, 4)
    ]
    assert made[0] == made[1]
    assert len(set(made)) == 3


def _another_weight(model: DualEncoder) -> DualEncoder:
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[0].add_(1e-6)
    return model


def _another_precision(model: DualEncoder) -> DualEncoder:
    return model.to(torch.bfloat16)


def _of_config(**changes: object) -> Callable[[DualEncoder], DualEncoder]:
    def change(model: DualEncoder) -> DualEncoder:
        model.config = model.config.model_copy(update=changes)
        return model

    return change


@pytest.mark.parametrize(
    "change",
    [
        _another_weight,
        _another_precision,
        _of_config(prompts={"query": "find: ", "document": ""}),
        lambda model: _of_config(
            preprocess=model.config.preprocess.model_copy(update={"resize": "pad"})
        )(model),
        *(
            lambda model, transparency=transparency: _of_config(
                preprocess=model.config.preprocess.model_copy(
                    update={"transparency": transparency}
                )
            )(model)
            for transparency in ("black", "drop", "open_clip")
        ),
    ],
    ids=[
        "weight",
        "precision",
        "prompts",
        "preprocessing",
        "black",
        "drop",
        "open_clip",
    ],
)
def test_whatever_changes_a_vector_gives_another(
    model: DualEncoder,
    tokenizer: Tokenizer,
    change: Callable[[DualEncoder], DualEncoder],
) -> None:
    before = model_fingerprint(model, tokenizer)
    assert model_fingerprint(change(model), tokenizer) != before


def test_another_tokenizer_or_text_length_gives_another(
    model: DualEncoder, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    assert model.config.text is not None
    train_tokenizer(["other words"], tmp_path / "tokenizer.json", vocab_size=60)
    other = Tokenizer(
        type(tokenizer.backend).from_file(str(tmp_path / "tokenizer.json")),
        model.config.text,
    )
    shorter = tokenizer.with_max_length(model.config.text, 7)
    assert (
        len({model_fingerprint(model, one) for one in (tokenizer, other, shorter)}) == 3
    )


def test_transparency_is_nothing_to_a_model_of_texts_alone(
    tiny: ModelConfig, tokenizer: Tokenizer
) -> None:
    torch.manual_seed(0)
    model = build_model(tiny.model_copy(update={"image": None}))
    before = model_fingerprint(model, tokenizer)
    preprocess = tiny.preprocess.model_copy(update={"transparency": "drop"})
    assert (
        model_fingerprint(_of_config(preprocess=preprocess)(model), tokenizer) == before
    )


def test_two_models_drawn_apart_differ(tiny: ModelConfig, tokenizer: Tokenizer) -> None:
    torch.manual_seed(1)
    assert len({model_fingerprint(build_model(tiny), tokenizer) for _ in range(2)}) == 2
