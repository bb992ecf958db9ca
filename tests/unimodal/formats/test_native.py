"""A model directory holds everything, is written whole or not at all, and is refused if anything in
it is amiss.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import unimodal
from unimodal.embedder import Embedder, Item
from unimodal.files import replace_folder, replace_text
from unimodal.formats import native
from unimodal.formats.card import count_parameters, model_card, write_card
from unimodal.formats.open_clip import load as load_open_clip
from unimodal.model import DualEncoder, build_model
from unimodal.model_config import ImageTowerConfig, ModelConfig, TextTowerConfig
from unimodal.preprocess.tokenizers import Tokenizer, load_tokenizer
from unimodal.weights import load_tensors, write_tensors

SMALL = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
SPECIAL = (
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "cls_token_id",
    "sep_token_id",
)
FILES = ["README.md", "config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def folder(tmp_path: Path, model: DualEncoder, tokenizer: Tokenizer) -> Path:
    native.save(tmp_path / "deep" / "model", model, tokenizer)
    return tmp_path / "deep" / "model"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_model_saved_before_there_was_a_choice_drops_alpha_and_keeps_its_name(
    folder: Path, embedder: Embedder, tokenizer: Tokenizer
) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["preprocess"].pop("transparency") == "white"
    (folder / "config.json").write_text(json.dumps(config))
    loaded = unimodal.load(folder, device="cpu")
    assert loaded.config.preprocess.transparency == "drop"
    nothing = Image.new("RGBA", (32, 32), (200, 30, 30, 0))
    assert np.array_equal(
        loaded.encode(nothing), embedder.encode(nothing.convert("RGB"))
    )
    assert np.array_equal(
        embedder.encode(nothing), embedder.encode(Image.new("RGB", (32, 32), "white"))
    )

    digest = xxhash.xxh3_128()  # what the fingerprint was before the key
    del config["text"]["tokenizer"]
    parts = [
        json.dumps(config, sort_keys=True).encode(),
        tokenizer.backend.to_str().encode(),
    ]
    for name, tensor in sorted(loaded.models[0].state_dict().items()):
        parts += [
            f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(),
            tensor.numpy().tobytes(),
        ]
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    assert loaded.fingerprint() == digest.hexdigest() != embedder.fingerprint()

    native.save(folder.with_name("again"), loaded.models[0], loaded.tokenizer)
    again = unimodal.load(folder.with_name("again"), device="cpu")
    assert (again.config, again.fingerprint()) == (loaded.config, loaded.fingerprint())


def test_a_loaded_model_gives_bit_identical_vectors(
    folder: Path, embedder: Embedder, mixture: list[Item]
) -> None:
    loaded = unimodal.load(folder, device="cpu")
    assert loaded.config == embedder.config
    assert np.array_equal(loaded.encode(mixture), embedder.encode(mixture))
    assert np.array_equal(loaded.encode_query(mixture), embedder.encode_query(mixture))


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (
            ImageTowerConfig(
                name="test_vit", kwargs={"depth": 1}, pooling="mean", projection="mlp"
            ),
            None,
        ),
        (
            ImageTowerConfig(
                name="resnet18",
                kwargs={"layers": [1] * 4, "channels": [8] * 4},
                pooling="attention",
            ),
            None,
        ),
        (None, {"pooling": "attention", "projection": "mlp"}),
        (
            None,
            {
                "name": "modernbert",
                "pooling": "cls",
                "kwargs": {**SMALL, **dict.fromkeys(SPECIAL, 1)},
            },
        ),
        (
            None,
            {
                "name": "qwen3",
                "pooling": "last",
                "kwargs": {**SMALL, "num_key_value_heads": 1, "head_dim": 16},
            },
        ),
    ],
)
def test_models_of_every_make_come_back(
    tmp_path: Path,
    tiny: ModelConfig,
    image: ImageTowerConfig | None,
    text: dict[str, Any] | None,
    texts: list[str],
    images: list[Image.Image],
) -> None:
    assert tiny.text is not None
    torch.manual_seed(0)
    text_config = None if text is None else tiny.text.model_copy(update=text)
    tokenizer = None if text_config is None else load_tokenizer(text_config)[0]
    made = Embedder(
        build_model(tiny.model_copy(update={"image": image, "text": text_config})),
        tokenizer,
        device="cpu",
    )
    items: list[Any] = [*(texts if text else ()), *(images if image else ())]
    native.save(tmp_path / "model", made.models[0], tokenizer)
    torch.manual_seed(1)
    assert names(tmp_path / "model") == (FILES if text else FILES[:3])
    assert np.array_equal(
        unimodal.load(tmp_path / "model", device="cpu").encode(items),
        made.encode(items),
    )


def test_an_open_clip_model_comes_back(
    tmp_path: Path, open_clip_name: str, mixture: list[Item]
) -> None:
    made = Embedder(*load_open_clip(f"open_clip:{open_clip_name}"), device="cpu")
    native.save(tmp_path / "model", made.models[0], made.tokenizer)
    loaded = unimodal.load(tmp_path / "model", device="cpu")
    mixture = ["fish &amp;  CHIPS", *mixture]
    assert np.array_equal(loaded.encode(mixture), made.encode(mixture))


def test_a_loaded_model_is_saved_again_as_the_same_bytes(
    folder: Path, tmp_path: Path
) -> None:
    native.save(tmp_path / "again", *native.load(folder))
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (
            folder / name
        ).read_bytes(), name


def test_a_model_directory_holds_these_files_and_no_pickle(folder: Path) -> None:
    assert names(folder) == FILES
    assert names(folder.parent) == ["model"]
    for name in FILES:
        content = (folder / name).read_bytes()
        assert not content.startswith((b"PK\x03\x04", b"\x80"))


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_are_as_readable_as_the_umask_says(
    tmp_path: Path, model: DualEncoder, tokenizer: Tokenizer, mask: int
) -> None:
    before = os.umask(mask)
    try:
        native.save(tmp_path / "model", model, tokenizer)
    finally:
        os.umask(before)
    modes = {
        path.name: path.stat().st_mode & 0o777
        for path in (tmp_path / "model").iterdir()
    }
    assert modes == dict.fromkeys(FILES, 0o666 & ~mask)


def test_the_logit_scales_are_saved_with_the_model(
    tmp_path: Path, model: DualEncoder, tokenizer: Tokenizer
) -> None:
    with torch.no_grad():
        model.logit_scales["texts"].fill_(1.25)
    native.save(tmp_path / "model", model, tokenizer)
    assert native.load(tmp_path / "model")[0].logit_scales["texts"].item() == 1.25


def test_a_loaded_model_is_in_evaluation_mode(folder: Path) -> None:
    assert not any(module.training for module in native.load(folder)[0].modules())


def change_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"text_projection__weight": None},
            "lacks 1 tensor, first 'text_projection.weight'",
        ),
        ({"head__weight": torch.ones(3)}, "has 1 unknown tensor, first 'head.weight'"),
        (
            {"text_projection__weight": torch.ones(24, 31)},
            r"'text_projection.weight', which is \(24, 31\) but .* \(24, 32\)",
        ),
        (
            {"text_projection__weight": torch.full((24, 32), torch.nan)},
            "model.safetensors has 1 tensor with values that are not finite .NaN or "
            "infinity., first 'text_proj",
        ),
        (
            {
                "text_projection__weight": None,
                "head__weight": torch.ones(3),
                "image_projection__weight": torch.ones(2),
            },
            "lacks 1 tensor, first .*, and has 1 unknown tensor, first .*, and has 1 "
            "tensor of another shape, first",
        ),
        (
            {"logit_scales__texts": torch.ones(1)},
            r"'logit_scales.texts', which is \(1,\) but the configuration says \(\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    folder: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    change_tensors(folder, **changes)
    with pytest.raises(ValueError, match=message):
        native.load(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "is not a model directory: config.json is missing"),
        ("model.safetensors", "is not a model directory: model.safetensors is missing"),
        ("tokenizer.json", "has no tokenizer.json"),
    ],
)
def test_a_missing_file_is_refused(folder: Path, name: str, message: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=message):
        native.load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"\x00" * 64])
def test_a_broken_file_is_refused(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as caught:
        native.load(folder)
    assert "\n" not in str(caught.value)


def test_a_cut_weights_file_is_refused(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match=r"model.safetensors is not a readable safetensors file"
    ):
        native.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "config.json: format_version"),
        ({"embed_dims": 24}, "unknown key 'embed_dims'; did you mean 'embed_dim'"),
    ],
)
def test_a_configuration_of_another_kind_is_refused(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(
        json.dumps({**values, **change}), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=message):
        native.load(folder)


def test_what_is_there_is_replaced_only_when_that_is_asked_for(
    folder: Path, model: DualEncoder, tokenizer: Tokenizer
) -> None:
    (folder / "more").touch()
    with pytest.raises(ValueError, match="already exists; choose another folder"):
        native.save(folder, model, tokenizer)
    assert (folder / "more").exists()
    native.save(folder, model, tokenizer, overwrite=True)
    assert names(folder) == FILES
    assert names(folder.parent) == ["model"]


class BreaksOnSaving(Tokenizer):
    def save(self, folder: Path) -> None:
        raise OSError("no space left on device")


def test_nothing_is_half_written_if_writing_fails(
    folder: Path,
    tmp_path: Path,
    model: DualEncoder,
    tokenizer: Tokenizer,
    text_config: TextTowerConfig,
) -> None:
    before = {name: (folder / name).read_bytes() for name in FILES}
    breaking = BreaksOnSaving(tokenizer.backend, text_config)
    with torch.no_grad():
        model.logit_scales["texts"].fill_(1.25)
    for place in (folder, tmp_path / "new"):
        with pytest.raises(OSError, match="no space left"):
            native.save(place, model, breaking, overwrite=True)
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    assert not (tmp_path / "new").exists()
    native.save(
        tmp_path / "new", model, tokenizer
    )  # what was left of the first attempt is in nobody's way
    assert names(tmp_path / "new") == FILES
    assert not list(tmp_path.glob("new.*"))


def test_on_a_full_disk_the_model_that_was_there_stays_and_nothing_is_left_beside_it(
    folder: Path, model: DualEncoder, tokenizer: Tokenizer
) -> None:
    """Files may not grow beyond a size that the weights are over, then one that the tokenizer is
    over.
    """
    before = {name: (folder / name).read_bytes() for name in FILES}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = [len(before["model.safetensors"]) - 1, len(before["tokenizer.json"]) - 1, 0]
    for size in sizes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            with pytest.raises(OSError, match=r"(?i)file too large"):
                native.save(folder, model, tokenizer, overwrite=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    assert names(folder.parent) == ["model"]


def test_a_text_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    replace_text(file, "before")
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            replace_text(file, "after")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_text() == "before"
    assert names(tmp_path) == ["config.yaml"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("model", "model.part", "model.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace_folder(tmp_path / "model.part", tmp_path / "model")
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["model.part"]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.table.weight


def test_tied_weights_survive(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tied = Tied()
    other = Tied()
    write_tensors(tmp_path / "a.safetensors", tied.state_dict())
    load_tensors(other, tmp_path / "a.safetensors")
    assert torch.equal(other.table.weight, tied.table.weight)
    assert other.head.weight is other.table.weight


def test_tensors_that_share_memory_or_are_laid_out_otherwise_come_back(
    tmp_path: Path,
) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    image = torch.rand(1, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    tensors = {
        "whole": whole,
        "part": whole[1:],
        "turned": whole.T,
        "image": image,
        "half": whole.bfloat16(),
    }
    write_tensors(tmp_path / "a.safetensors", tensors)
    loaded = load_file(tmp_path / "a.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(
        torch.equal(loaded[name], tensors[name])
        and loaded[name].dtype == tensors[name].dtype
        for name in loaded
    )


def test_the_card_says_what_it_is_how_to_use_it_and_what_it_scored(
    tiny: ModelConfig,
) -> None:
    scores = [
        {
            "task": "figures",
            "metric": "ndcg",
            "value": 0.12345,
            "chance": 0.01,
            "baseline": None,
        },
        {
            "task": "sts",
            "metric": "spearman",
            "value": 0.5,
            "chance": 0.0,
            "baseline": 0.25,
        },
    ]
    card = model_card(tiny, 1_234_567, scores, "Trained on nothing.")
    assert card.startswith("---\nlibrary_name: unimodal\n")
    assert (
        "24 dimensions, 1.2 M parameters: image tower `test_vit` (timm), text tower "
        "`bert` (transformers)." in card
    )
    assert "Trained on nothing." in card
    assert "unimodal.load(" in card
    assert (
        "| figures | ndcg | 0.123 | 0.010 | - |\n| sts | spearman | 0.500 | 0.000 | 0.250 |\n"
        in card
    )


def test_the_card_is_written_anew_with_scores_and_nothing_else_changes(
    folder: Path, model: DualEncoder, tiny: ModelConfig
) -> None:
    before = {name: (folder / name).read_bytes() for name in FILES}
    scores = [
        {
            "task": "figures",
            "metric": "ndcg",
            "value": 0.5,
            "chance": 0.1,
            "baseline": 0.2,
        }
    ]
    write_card(folder, scores, "Trained on figures.")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card == model_card(
        tiny, count_parameters(model), scores, "Trained on figures."
    )
    assert all((folder / name).read_bytes() == before[name] for name in FILES[1:])


def test_a_card_of_ones_own_is_kept(
    tmp_path: Path, model: DualEncoder, tokenizer: Tokenizer
) -> None:
    native.save(tmp_path / "model", model, tokenizer, card="# Mine\n")
    assert (tmp_path / "model" / "README.md").read_text(encoding="utf-8") == "# Mine\n"


OFFLINE = """
import socket, sys

def refuse(*address, **options):
    raise AssertionError(f"the network was asked for: {address}")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import numpy, unimodal
numpy.save(sys.argv[2], unimodal.load(sys.argv[1], device="cpu").encode(["a red hat"]))
"""


def test_loading_needs_no_hub_no_network_and_no_file_but_its_own(
    folder: Path, tmp_path: Path, embedder: Embedder
) -> None:
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HOME": str(tmp_path),
    }
    arguments = [str(moved), str(tmp_path / "vectors.npy")]
    subprocess.run(
        [sys.executable, "-c", OFFLINE, *arguments], check=True, env=environment
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "vectors.npy"),
        embedder.encode(["a red hat"]),
        rtol=0,
        atol=1e-6,
    )
