"""Anything goes in, unit vectors come out, in order; what cannot be embedded is named with its
position.
"""

from __future__ import annotations

import copy
import io
import queue
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

import unimodal
import unimodal.embedder
from tests.unimodal.conftest import encode_token_lists
from unimodal.calibration import fit_calibration
from unimodal.embedder import Embedder, Item
from unimodal.formats import native
from unimodal.model import DualEncoder, build_model
from unimodal.model_config import ModelConfig
from unimodal.preprocess.images import image_to_pixels, load_image
from unimodal.preprocess.tokenizers import Tokenizer


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def assert_close(left: Any, right: Any) -> None:
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-6)


def test_vectors_are_float32_unit_rows_of_numpy(
    embedder: Embedder, texts: list[str]
) -> None:
    vectors = embedder.encode(texts)
    assert isinstance(vectors, np.ndarray)
    assert vectors.dtype == np.float32
    assert vectors.shape == (10, 24)
    assert_close(np.linalg.norm(vectors, axis=1), 1)


def test_vectors_are_those_of_the_model(
    embedder: Embedder, texts: list[str], images: list[Image.Image]
) -> None:
    model = embedder.models[0]
    with torch.no_grad():
        expected_texts = encode_token_lists(model, embedder.tokenizer(texts))  # type: ignore[misc]
        pixels = [image_to_pixels(image, model.config.preprocess) for image in images]
        expected_images = model.encode_image(torch.stack(pixels))
    assert_close(embedder.encode(texts), expected_texts)
    assert_close(embedder.encode(images), expected_images)


def test_the_order_of_a_mixture_is_kept_however_it_is_batched(
    embedder: Embedder, texts: list[str], images: list[Image.Image]
) -> None:
    items: list[Item] = [
        item for pair in zip(texts, images, strict=False) for item in pair
    ]
    items += texts[6:]
    expected = np.concatenate([embedder.encode(item) for item in items])
    assert_close(embedder.encode(items), expected)
    embedder.tokens_per_batch = 8
    embedder.images_per_batch = 2
    assert_close(embedder.encode(items), expected)
    assert_close(embedder.encode(items[::-1]), expected[::-1])


def test_one_item_alone_is_a_row(embedder: Embedder, images: list[Image.Image]) -> None:
    for item in ("a hat", images[0], png(images[0]), {"text": "a hat"}):
        assert embedder.encode(item).shape == (1, 24)
    assert embedder.encode(iter(["a hat", "a cup"])).shape == (2, 24)  # type: ignore[arg-type]


def test_an_empty_list_gives_no_rows(embedder: Embedder) -> None:
    vectors = embedder.encode([])
    assert vectors.shape == (0, 24)
    assert vectors.dtype == np.float32
    assert embedder.encode([], truncate_dim=8).shape == (0, 8)


@pytest.mark.parametrize("weight", [None, 0, 0.25, 1])
def test_text_and_image_together_are_their_normalised_weighted_sum(
    embedder: Embedder, images: list[Image.Image], weight: float | None
) -> None:
    text, image = embedder.encode(["a red hat", images[0]])
    share = 0.5 if weight is None else weight
    expected = (1 - share) * text + share * image
    item: dict[str, Any] = {"text": "a red hat", "image": images[0]}
    vector = embedder.encode(item if weight is None else {**item, "weight": weight})[0]
    assert_close(vector, expected / np.linalg.norm(expected))


def test_a_mapping_with_one_part_is_that_part_whatever_the_weight(
    embedder: Embedder, images: list[Image.Image]
) -> None:
    expected = embedder.encode(["a red hat", images[0]])
    one_each: list[dict[str, Any]] = [
        {"text": "a red hat", "weight": 1},
        {"image": images[0], "text": None},
    ]
    assert_close(embedder.encode(one_each), expected)


def test_a_str_is_a_text_even_if_an_image_has_that_name(
    embedder: Embedder,
    images: list[Image.Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = embedder.encode("hat.png")
    images[0].save("hat.png")
    assert np.array_equal(embedder.encode("hat.png"), before)
    assert not np.allclose(embedder.encode(Path("hat.png")), before)


def test_a_path_its_bytes_and_the_opened_image_have_one_vector(
    embedder: Embedder, images: list[Image.Image], tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    file = tmp_path / "a.png"
    images[1].save(file, exif=exif)
    vectors = embedder.encode([file, file.read_bytes(), Image.open(file)])
    assert np.array_equal(vectors, vectors[[0, 0, 0]])


def test_truncated_vectors_are_normalised_again(
    embedder: Embedder, model: DualEncoder, tokenizer: Tokenizer, texts: list[str]
) -> None:
    whole = embedder.encode(texts)
    expected = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    assert_close(embedder.encode(texts, truncate_dim=8), expected)
    short = Embedder(model, tokenizer, device="cpu", truncate_dim=8)
    assert_close(short.encode(texts), expected)
    assert short.encode(texts, truncate_dim=12).shape == (10, 12)


@pytest.mark.parametrize("dim", [0, -1, 25])
def test_a_truncation_outside_the_vector_is_refused(
    embedder: Embedder, model: DualEncoder, tokenizer: Tokenizer, dim: int
) -> None:
    with pytest.raises(
        ValueError, match=f"truncate_dim {dim} is not between 1 and embed_dim 24"
    ):
        embedder.encode("a hat", truncate_dim=dim)
    with pytest.raises(ValueError, match=f"truncate_dim {dim} is not between"):
        Embedder(model, tokenizer, device="cpu", truncate_dim=dim)


def test_a_model_that_was_not_trained_to_be_cut_gives_whole_vectors_only(
    tiny: ModelConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    plain = build_model(tiny.model_copy(update={"matryoshka_dims": ()}))
    message = "truncate_dim 8: .* matryoshka_dims.* 24"
    with pytest.raises(ValueError, match=message):
        Embedder(plain, tokenizer, device="cpu", truncate_dim=8)
    with pytest.raises(ValueError, match=message):
        Embedder(plain, tokenizer, device="cpu").encode("a hat", truncate_dim=8)
    native.save(tmp_path / "model", plain, tokenizer)
    with pytest.raises(ValueError, match=message):
        unimodal.load(tmp_path / "model", device="cpu", truncate_dim=8)
    assert unimodal.load(tmp_path / "model", device="cpu", truncate_dim=24).encode(
        "a hat"
    ).shape == (1, 24)


def test_prompts_are_put_before_texts_alone(
    embedder: Embedder, texts: list[str], images: list[Image.Image]
) -> None:
    assert_close(
        embedder.encode_query(texts),
        embedder.encode([f"search query: {text}" for text in texts]),
    )
    assert_close(
        embedder.encode_document(texts),
        embedder.encode([f"document: {text}" for text in texts]),
    )
    assert_close(
        embedder.encode(texts, prompt="old "),
        embedder.encode([f"old {text}" for text in texts]),
    )
    assert_close(embedder.encode_query(images), embedder.encode(images))
    assert not np.allclose(
        embedder.encode_query(texts), embedder.encode_document(texts)
    )
    assert embedder.encode_query(texts, truncate_dim=3).shape == (10, 3)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("", "input 2: text is ''; give a text that is not empty"),
        (" \n", "input 2: text is"),
        (
            3,
            r"input 2: it is of type int; give a PIL image, .* or a str .text.",
        ),
        (None, "input 2: it is of type NoneType; give"),
        (["a"], "input 2: it is of type list; give"),
        (
            "half a pair: \ud83d",
            "input 2: text .* is not valid Unicode: character 13 is half a surrogate pair .U.D83D",
        ),
        (
            {"text": "\udcff"},
            "input 2: text .* is not valid Unicode: character 0 is half a surrogate pair",
        ),
        (b"<html>", "input 2: 6 bytes is not a readable image"),
        (b"", "input 2: 0 bytes is not a readable image"),
        (Path("nowhere.png"), "input 2: image nowhere.png does not exist"),
        (
            np.zeros((4, 4, 3), np.uint8),
            "input 2: it is of type ndarray; give .*; PIL.Image.fromarray makes an",
        ),
        (
            torch.zeros(3, 4, 4),
            "input 2: it is of type Tensor; give .*; PIL.Image.fromarray makes an",
        ),
        (bytearray(b"a"), "it is of type bytearray"),
        (
            {"text": "a", "image": [1]},
            "an image is a PIL image, a Path or bytes, and this is of type list",
        ),
        (
            Image.new("F", (4, 4)),
            "input 2: the PIL image has pixels of floating-point numbers",
        ),
        (Image.new("RGB", (0, 0)), "input 2: the PIL image is 0 x 0 pixels"),
        ({}, "input 2: its keys are"),
        ({"txt": "a"}, "input 2: its keys are .'txt'.; give 'text', 'image' or both"),
        ({"text": "a", "weight": 2}, "input 2: weight 2 is not between 0"),
        (
            {"text": "a", "image": "b.png"},
            "and this is of type str; a str is always text",
        ),
        ({"text": 5}, "input 2: text is 5, of type int; give a str"),
        (
            {"text": None, "image": None, "weight": 0.5},
            "input 2: neither its text nor its image has a value",
        ),
        (
            {"text": "a", 1: "b", "z": 2},
            r"input 2: its keys are .1, 'text', 'z'.; give",
        ),
    ],
)
def test_what_cannot_be_embedded_is_named_with_its_position(
    embedder: Embedder, item: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        embedder.encode(["a", "b", item])


@pytest.mark.parametrize(
    "inputs",
    [np.zeros((4, 4, 3), np.uint8), torch.zeros(3, 4, 4), bytearray(b"a"), None, 5],
)
def test_what_is_neither_an_item_nor_a_sequence_of_items_is_refused_in_a_sentence(
    embedder: Embedder, inputs: Any
) -> None:
    with pytest.raises(
        ValueError, match=f"input 0: it is of type {type(inputs).__name__}; give"
    ):
        embedder.encode(inputs)


def test_an_array_of_texts_is_a_sequence_of_texts(
    embedder: Embedder, texts: list[str]
) -> None:
    array: Any = np.array(texts)
    assert np.array_equal(embedder.encode(array), embedder.encode(texts))


def logo(shape: str, mode: str = "RGBA") -> Image.Image:
    """A black shape on nothing."""
    image = Image.new("RGBA", (40, 40))
    pen = ImageDraw.Draw(image)
    (pen.ellipse if shape == "circle" else pen.rectangle)(
        (4, 4, 20, 34), fill=(0, 0, 0, 255)
    )
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_two_black_logos_on_nothing_are_not_one_black_square(
    embedder: Embedder, mode: str
) -> None:
    circle, box = embedder.encode([logo("circle", mode), logo("box", mode)])
    assert float(circle @ box) < 0.9999
    on_white = Image.new("RGB", (40, 40), "white")
    on_white.paste(logo("box"), mask=logo("box"))
    assert_close(box, embedder.encode(on_white)[0])
    dropping = embedder.config.preprocess.model_copy(update={"transparency": "drop"})
    embedder.config = embedder.config.model_copy(update={"preprocess": dropping})
    circle, box = embedder.encode([logo("circle"), logo("box")])
    assert float(circle @ box) > 0.9999


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I;16"],
)
def test_a_pil_image_of_any_mode_with_a_known_range_is_embedded(
    embedder: Embedder, images: list[Image.Image], mode: str
) -> None:
    if mode == "I;16":
        image = Image.fromarray(
            np.asarray(images[0].convert("L")).astype(np.uint16) * 257
        )
        assert_close(embedder.encode(image), embedder.encode(images[0].convert("L")))
    elif mode == "LAB":
        image = Image.new("LAB", (40, 30), (128, 0, 0))
        assert_close(embedder.encode(image), embedder.encode(image.convert("RGB")))
    else:
        image = images[0].convert(mode)
        assert_close(embedder.encode(image), embedder.encode(image.convert("RGB")))


def test_a_model_of_one_kind_refuses_the_other(
    tiny: ModelConfig, tokenizer: Tokenizer, images: list[Image.Image]
) -> None:
    text_only = Embedder(
        build_model(tiny.model_copy(update={"image": None})), tokenizer, device="cpu"
    )
    image_only = Embedder(
        build_model(tiny.model_copy(update={"text": None})), None, device="cpu"
    )
    assert (text_only.modalities, image_only.modalities) == (
        frozenset({"text"}),
        frozenset({"image"}),
    )
    assert text_only.encode("a").shape == image_only.encode(images[0]).shape == (1, 24)
    with pytest.raises(
        ValueError, match="input 1: it is an image, and this model embeds text only"
    ):
        text_only.encode(["a", images[0]])
    with pytest.raises(
        ValueError, match="input 1: it is a text, and this model embeds image only"
    ):
        image_only.encode([images[0], {"text": "a", "image": images[0]}])
    for wrong in (None, 3, ["a"]):
        with pytest.raises(
            ValueError,
            match=rf"input 0: it is of type {type(wrong).__name__}; give a str \(text\)\.$",
        ):
            text_only.encode([wrong])  # type: ignore[list-item]  # what is refused


def test_a_prompt_that_is_not_unicode_is_refused(embedder: Embedder) -> None:
    with pytest.raises(
        ValueError,
        match=r"prompt '\\ud800: ' is not valid Unicode: character 0 is half a surrogate",
    ):
        embedder.encode("a hat", prompt="\ud800: ")


def test_a_tokenizer_of_more_tokens_than_the_tower_embeds_is_refused(
    tiny: ModelConfig, tokenizer: Tokenizer
) -> None:
    assert tiny.text is not None
    small = tiny.text.model_copy(
        update={"kwargs": {**tiny.text.kwargs, "vocab_size": 100}}
    )
    model = build_model(tiny.model_copy(update={"text": small}))
    with pytest.raises(
        ValueError,
        match=r"the tokenizer has 120 tokens and the text tower embeds 100; give",
    ):
        Embedder(model, tokenizer, device="cpu")


def test_a_special_token_that_the_tower_has_no_row_for_is_plain_text(
    model: DualEncoder, tokenizer: Tokenizer, tiny: ModelConfig
) -> None:
    assert tiny.text is not None
    assert model.text is not None
    before = Embedder(model, tokenizer, device="cpu").encode("a <soft> mug")
    longer = tokenizer.with_max_length(tiny.text, tiny.text.max_length)
    longer.backend.add_tokens(
        [f"filler{number}" for number in range(model.text.num_tokens - 120)]
    )
    longer.backend.add_special_tokens(["<soft>"])
    assert longer.backend.token_to_id("<soft>") == model.text.num_tokens
    np.testing.assert_array_equal(
        Embedder(model, longer, device="cpu").encode("a <soft> mug"), before
    )
    longer.backend.add_tokens(["mug"])
    longer.backend.add_tokens(["newword"])
    with pytest.raises(ValueError, match="the text tower embeds"):
        Embedder(model, longer, device="cpu")


def test_several_devices_give_the_vectors_of_one(
    embedder: Embedder, model: DualEncoder, tokenizer: Tokenizer, mixture: list[Item]
) -> None:
    several = Embedder(copy.deepcopy(model), tokenizer, device=["cpu", "cpu", "cpu"])
    several.tokens_per_batch = 8
    several.images_per_batch = 1
    assert len(several.models) == 3
    assert_close(several.encode(mixture * 3), embedder.encode(mixture * 3))


def test_several_devices_pass_an_error_on_and_go_on_working(
    model: DualEncoder, tokenizer: Tokenizer, images: list[Image.Image]
) -> None:
    several = Embedder(model, tokenizer, device=["cpu", "cpu"])
    several.images_per_batch = 1
    with pytest.raises(ValueError, match="input 3: "):
        several.encode([*images[:3], b"broken", *images[3:]])
    assert several.encode(images).shape == (6, 24)


def modes(models: Sequence[DualEncoder]) -> list[bool]:
    return [module.training for model in models for module in model.modules()]


def test_encoding_leaves_the_mode_of_every_module_as_it_was(
    embedder: Embedder, mixture: list[Item]
) -> None:
    model = embedder.models[0]
    model.train()
    assert model.image is not None
    model.image.backbone.eval()  # frozen
    before = modes(embedder.models)
    expected = embedder.encode(mixture)
    assert modes(embedder.models) == before
    assert np.array_equal(embedder.encode(mixture), expected)  # no dropout
    with pytest.raises(ValueError, match="input 0"):
        embedder.encode(b"broken")
    assert modes(embedder.models) == before


def test_a_model_can_be_trained_after_encoding(
    embedder: Embedder, texts: list[str]
) -> None:
    embedder.encode(texts)
    model = embedder.models[0]
    assert embedder.tokenizer is not None
    encode_token_lists(model, embedder.tokenizer(texts)).sum().backward()
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("dtype", "least"),
    [("bfloat16", 0.999), ("float16", 0.9999), ("float64", 0.9999999)],
)
def test_other_precisions_give_nearly_the_same_vectors_as_float32(
    embedder: Embedder,
    tokenizer: Tokenizer,
    mixture: list[Item],
    dtype: str,
    least: float,
) -> None:
    other = Embedder(
        copy.deepcopy(embedder.models[0]), tokenizer, device="cpu", dtype=dtype
    )
    vectors = other.encode(mixture)
    assert vectors.dtype == np.float32
    assert np.einsum("nd,nd->n", vectors, embedder.encode(mixture)).min() > least


def test_an_unknown_dtype_is_refused(model: DualEncoder) -> None:
    with pytest.raises(
        ValueError, match="dtype 'half' is not one of float32, bfloat16"
    ):
        Embedder(model, None, dtype="half")


def test_similarity_is_the_cosine(embedder: Embedder, texts: list[str]) -> None:
    vectors = embedder.encode(texts)
    similarity = embedder.similarity(vectors[:2], vectors)
    assert similarity.shape == (2, 10)
    assert similarity[1, 7] == pytest.approx(float(vectors[1] @ vectors[7]), abs=1e-6)


def test_similarity_is_the_cosine_of_vectors_of_any_length_and_type(
    embedder: Embedder, texts: list[str]
) -> None:
    vectors = embedder.encode(texts)
    right = vectors @ vectors.T

    for one, atol in (
        (vectors * 5, 1e-6),
        (vectors * np.float32(1e30), 1e-6),
        (vectors.tolist(), 1e-6),
        (torch.tensor(vectors), 1e-6),
        ((vectors * 127).round().astype(np.int8), 0.03),
    ):
        assert embedder.similarity(one, vectors) == pytest.approx(right, abs=atol)
    assert embedder.similarity(vectors[0], vectors) == pytest.approx(right[0], abs=1e-6)
    assert embedder.similarity(vectors[:0], vectors).shape == (0, 10)


@pytest.mark.parametrize(
    ("left", "message"),
    [
        (
            [[1.0, 0.0], [np.nan, 1.0]],
            "left vector 1 is not finite and so has no cosine .* .1 of 2 are like it",
        ),
        ([[0.0, 0.0]], "left vector 0 is zero and so has no cosine"),
        ([[1.0, 0.0, 0.0]], "the left vectors have 3 dimensions and the right ones 2"),
        (["a red hat"], "the left vectors are .'a red hat'.; give an array of numbers"),
        (None, "the left vectors are None; give an array of numbers"),
        ([[1.0], [1.0, 2.0]], "give an array of numbers"),
    ],
)
def test_what_has_no_cosine_is_refused(
    embedder: Embedder, left: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        embedder.similarity(left, [[1.0, 0.0]])


def test_a_table_and_a_set_are_not_lists_of_inputs(embedder: Embedder) -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(
        ValueError, match="a DataFrame is a table; give one column of it"
    ):
        embedder.encode(
            pandas.DataFrame({"title": ["a red hat"]})
        )  # its columns' names would be the texts
    with pytest.raises(ValueError, match="a set has no order"):
        embedder.encode({"a", "b"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="input 0: it is of type BytesIO; give"):
        embedder.encode(io.BytesIO(b"a\nb"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="input 0: it is of type ndarray; give"):
        embedder.encode(np.array("a"))  # type: ignore[arg-type]
    assert len(embedder.encode(pandas.Series(["a", "b"], index=[7, 8]))) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"truncate_dim": "3"},
            "truncate_dim '3' is of type str; give a whole number from 1 to",
        ),
        ({"truncate_dim": True}, "truncate_dim True is of type bool"),
        ({"prompt": 3}, "prompt is 3, of type int; give a str"),
    ],
)
def test_an_option_of_another_type_is_refused(
    embedder: Embedder, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        embedder.encode(["a"], **options)


@pytest.mark.parametrize("device", ["gpu", "", 0, ["cpu", "tpu"], []])
def test_a_device_that_is_not_there_is_refused(model: DualEncoder, device: Any) -> None:
    with pytest.raises(
        ValueError,
        match=r"device .*(cannot be used .*; give cpu, cuda|is an empty list)",
    ):
        Embedder(model, None, device=device)
    assert (
        Embedder(model, None, device=torch.device("cpu")).models[0].device.type == "cpu"
    )


def test_a_bar_counts_to_the_end_where_it_is_asked_for(
    embedder: Embedder, mixture: list[Item], capfd: pytest.CaptureFixture[str]
) -> None:
    embedder.encode(mixture)
    assert capfd.readouterr() == ("", "")
    embedder.encode(mixture, show_progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "16/16" in shown.err


@pytest.mark.parametrize(
    "source",
    ["nowhere", "./no/where", "/no/where", "a/b/c", "open_clip:ViT-B-33", "hf:nowhere"],
)
def test_a_model_that_is_nowhere_is_refused(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match=rf"'{source}' is not a folder|is not an open_clip model"
    ):
        unimodal.load(source)


def test_the_open_clip_models_that_others_publish_load_by_name(
    open_clip_name: str, mixture: list[Item]
) -> None:
    embedder = unimodal.load(f"open_clip:{open_clip_name}", device="cpu")
    assert embedder.encode(mixture).shape == (16, 32)
    assert embedder.config.preprocess.image_size == 32


def test_the_next_batch_of_images_and_no_more_is_decoded_while_the_model_runs(
    embedder: Embedder, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = embedder.encode(images)
    decoded = queue.Queue[int]()
    model = embedder.models[0]
    waits: list[int] = []

    def decode(image: Image.Image) -> Image.Image:
        decoded.put(1)
        return load_image(image)

    def encode_image(pixels: Tensor) -> Tensor:
        waits.append(
            sum(
                decoded.get(timeout=20)
                for _ in range(4 if not waits else 2 if len(waits) == 1 else 0)
            )
        )
        time.sleep(0.1)
        assert decoded.empty()
        return type(model).encode_image(model, pixels)

    monkeypatch.setattr(unimodal.embedder, "load_image", decode)
    monkeypatch.setattr(model, "encode_image", encode_image)
    embedder.images_per_batch = 2
    np.testing.assert_allclose(embedder.encode(images), expected, atol=1e-6)
    assert waits == [4, 2, 0]  # its own two and the next two; the last two; none


def test_several_copies_of_a_model_give_the_images_in_order(
    model: DualEncoder, tokenizer: Tokenizer, images: list[Image.Image]
) -> None:
    several = Embedder(model, tokenizer, device=["cpu", "cpu", "cpu"])
    several.images_per_batch = 1
    expected = Embedder(model, tokenizer, device="cpu").encode(images * 5)
    np.testing.assert_allclose(several.encode(images * 5), expected, atol=1e-6)


def test_what_was_prepared_apart_gives_the_vectors_of_encode(
    embedder: Embedder, texts: list[str], images: list[Image.Image]
) -> None:
    kinds: tuple[Sequence[str | Image.Image], ...] = (texts, images)
    for parts in kinds:
        vectors = embedder.encode_prepared([embedder.prepare(part) for part in parts])
        assert vectors.dtype == np.float32
        assert_close(vectors, embedder.encode(parts))


def test_a_calibrated_embedder_centres_what_was_prepared(
    model: DualEncoder,
    tokenizer: Tokenizer,
    texts: list[str],
    images: list[Image.Image],
) -> None:
    plain = Embedder(model, tokenizer, device="cpu")
    calibration = fit_calibration(plain.encode(texts), plain.encode(images))
    centred = Embedder(model, tokenizer, device="cpu", calibration=calibration)
    parts: list[str | Image.Image] = [texts[0], images[0]]
    expected = centred.encode(parts)
    for part, vector in zip(parts, expected, strict=True):
        assert_close(centred.encode_prepared([centred.prepare(part)])[0], vector)
    assert not np.allclose(plain.encode(texts[0])[0], expected[0], atol=1e-3)


def test_a_prepared_text_is_padded_where_its_tower_wants_it(
    open_clip_name: str, embedder: Embedder
) -> None:
    fixed = unimodal.load(f"open_clip:{open_clip_name}", device="cpu")
    token_ids = fixed.prepare("a hat")
    assert isinstance(token_ids, list)
    assert (len(token_ids), fixed.padded_length(token_ids)) == (4, 16)
    assert embedder.padded_length(token_ids) == 4
    assert_close(fixed.encode_prepared([token_ids]), fixed.encode("a hat"))
