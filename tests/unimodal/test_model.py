"""The dual encoder gives unit vectors, the same however its batches are cut."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from tests.unimodal.conftest import encode_token_lists
from unimodal.model import DualEncoder, build_model, length_sorted_chunks
from unimodal.model_config import (
    ImageTowerConfig,
    ModelConfig,
    PreprocessConfig,
    TextTowerConfig,
)
from unimodal.preprocess.tokenizers import Tokenizer, pad_ids

LENGTHS = (3, 20, 7, 7, 32, 4, 9, 3, 28, 15)


def token_lists() -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(4, 100, (length,), generator=generator).tolist()
        for length in LENGTHS
    ]


def pixels(count: int = 4) -> Tensor:
    return torch.randint(
        0,
        256,
        (count, 3, 32, 32),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )


def gradients(model: DualEncoder) -> dict[str, Tensor]:
    return {
        name: p.grad.clone()
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def largest_difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Of any tensor, relative to the norm of the whole gradient."""
    assert left.keys() == right.keys()
    whole = torch.stack([tensor.norm() for tensor in right.values()]).norm()
    return max(float((left[name] - right[name]).norm() / whole) for name in right)


def test_chunks_hold_every_text_once_within_the_budget_longest_first() -> None:
    chunks = length_sorted_chunks(LENGTHS, 40)
    assert sorted(index for chunk in chunks for index in chunk) == list(
        range(len(LENGTHS))
    )
    assert [LENGTHS[index] for chunk in chunks for index in chunk] == sorted(
        LENGTHS, reverse=True
    )
    for chunk in chunks:
        assert (
            len(chunk) == 1 or len(chunk) * max(LENGTHS[index] for index in chunk) <= 40
        )
    assert length_sorted_chunks(LENGTHS, 1) == [
        [index] for chunk in chunks for index in chunk
    ]
    assert length_sorted_chunks([], 40) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_both_encoders_give_unit_vectors(
    model: DualEncoder, dtype: torch.dtype
) -> None:
    model = model.to(dtype)
    for vectors in (
        model.encode_image(pixels()),
        model.encode_text(*pad_ids(token_lists(), 0)),
    ):
        assert vectors.dtype == (
            torch.float64 if dtype == torch.float64 else torch.float32
        )
        assert vectors.shape[1] == 24
        torch.testing.assert_close(
            vectors.norm(dim=1), torch.ones(len(vectors), dtype=vectors.dtype)
        )


def test_different_inputs_get_different_vectors(model: DualEncoder) -> None:
    for vectors in (
        model.encode_image(pixels()),
        model.encode_text(*pad_ids(token_lists(), 0)),
    ):
        assert torch.pdist(vectors).min() > 1e-3


@torch.no_grad()
def test_a_bf16_model_gives_nearly_the_same_vectors(model: DualEncoder) -> None:
    half = copy.deepcopy(model).bfloat16()
    text = pad_ids(token_lists(), 0)
    assert (
        torch.cosine_similarity(half.encode_text(*text), model.encode_text(*text)).min()
        > 0.999
    )
    assert (
        torch.cosine_similarity(
            half.encode_image(pixels()), model.encode_image(pixels())
        ).min()
        > 0.999
    )


def test_a_text_only_model_embeds_texts_and_refuses_images(
    text_config: TextTowerConfig,
) -> None:
    model = build_model(ModelConfig(embed_dim=24, text=text_config))
    assert model.encode_text(*pad_ids(token_lists(), 0)).shape == (10, 24)
    with pytest.raises(ValueError, match="no image tower"):
        model.encode_image(pixels())


def test_an_image_only_model_embeds_images_and_refuses_texts(
    image_config: ImageTowerConfig,
) -> None:
    model = build_model(
        ModelConfig(
            embed_dim=24, image=image_config, preprocess=PreprocessConfig(image_size=32)
        )
    )
    assert model.encode_image(pixels()).shape == (4, 24)
    with pytest.raises(ValueError, match="no text tower"):
        model.encode_text(*pad_ids(token_lists(), 0))


@pytest.mark.parametrize("projection", ["linear", "mlp", "none"])
def test_every_projection_ends_in_embed_dim(
    text_config: TextTowerConfig, projection: str
) -> None:
    text = text_config.model_copy(update={"projection": projection})
    assert build_model(ModelConfig(embed_dim=32, text=text)).encode_text(
        *pad_ids([[1, 2]], 0)
    ).shape == (1, 32)


def test_no_projection_needs_a_tower_of_the_models_width(
    text_config: TextTowerConfig, image_config: ImageTowerConfig
) -> None:
    with pytest.raises(
        ValueError,
        match=r"text.projection 'none' needs embed_dim 24 to equal the tower's width 32",
    ):
        build_model(
            ModelConfig(
                embed_dim=24, text=text_config.model_copy(update={"projection": "none"})
            )
        )
    image = image_config.model_copy(update={"projection": "none"})
    with pytest.raises(
        ValueError,
        match=r"image.projection 'none' needs embed_dim 24 to equal the tower's width 48",
    ):
        build_model(
            ModelConfig(
                embed_dim=24, image=image, preprocess=PreprocessConfig(image_size=32)
            )
        )


CONVNET = {
    "layers": [1, 1, 1, 1],
    "channels": [8, 16, 24, 40],
    "norm_layer": "groupnorm1",
}


@pytest.mark.parametrize(
    ("image", "kwargs"),
    [
        ("test_vit", {"depth": 2}),
        ("resnet18", CONVNET),
        ("test_convnext", {}),
        ("tiny-clip", {}),
    ],
)
def test_gradient_checkpointing_leaves_loss_and_gradients_the_same(
    text_config: TextTowerConfig,
    open_clip_name: str,
    image: str,
    kwargs: dict[str, object],
) -> None:
    image_config = ImageTowerConfig(
        library="open_clip" if image == open_clip_name else "timm",
        name=image,
        kwargs=kwargs,
    )
    preprocess = PreprocessConfig(image_size=32)
    torch.manual_seed(0)
    model = build_model(
        ModelConfig(
            embed_dim=24, image=image_config, text=text_config, preprocess=preprocess
        )
    ).double()

    def loss() -> Tensor:
        torch.manual_seed(1)  # of the dropout
        return (
            (
                model.encode_image(pixels())
                @ model.encode_text(*pad_ids(token_lists(), 0)).T
            )
            .square()
            .sum()
        )

    plain = loss()
    plain.backward()
    plain_gradients = gradients(model)
    model.zero_grad(set_to_none=True)
    model.set_grad_checkpointing()
    checkpointed = loss()
    checkpointed.backward()
    torch.testing.assert_close(checkpointed, plain, rtol=0, atol=1e-12)
    assert largest_difference(gradients(model), plain_gradients) < 1e-12


def test_gradient_checkpointing_keeps_fewer_activations(model: DualEncoder) -> None:
    def kept() -> int:
        sizes: list[int] = []

        def keep(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        model.train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            (
                model.encode_image(pixels()).sum()
                + model.encode_text(*pad_ids(token_lists(), 0)).sum()
            )
        return sum(sizes)

    plain = kept()
    model.set_grad_checkpointing()
    assert kept() < 0.7 * plain


def test_an_open_clip_models_text_tower_is_checkpointed_too(
    open_clip_name: str,
) -> None:
    text = TextTowerConfig(library="open_clip", name=open_clip_name, pooling="native")
    model = build_model(ModelConfig(embed_dim=32, text=text)).double()
    ids = pad_ids([[49406, 5, 49407]], 0, 16)
    plain = model.encode_text(*ids)
    model.set_grad_checkpointing()
    torch.testing.assert_close(model.encode_text(*ids), plain, rtol=0, atol=1e-12)


def test_the_same_seed_draws_the_same_model(tiny: ModelConfig) -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(7)
        drawn.append(build_model(tiny).state_dict())
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])


def test_the_logit_scales_start_at_clips(model: DualEncoder) -> None:
    assert list(model.logit_scales) == ["pictures", "texts"]
    assert model.logit_scales["texts"].exp().item() == pytest.approx(1 / 0.07)


@torch.no_grad()
def test_padding_to_a_fixed_length_changes_nothing(
    model: DualEncoder, tiny: ModelConfig, tokenizer: Tokenizer, texts: list[str]
) -> None:
    expected = encode_token_lists(model, tokenizer(texts))
    assert model.config.text is not None
    fixed = model.config.text.model_copy(update={"pad_to_max_length": True})
    model.config = model.config.model_copy(update={"text": fixed})
    torch.testing.assert_close(
        encode_token_lists(model, tokenizer(texts)), expected, rtol=0, atol=1e-6
    )


def test_both_towers_of_a_model_start_in_the_same_mode(tiny: ModelConfig) -> None:
    assert {module.training for module in build_model(tiny).modules()} == {True}
