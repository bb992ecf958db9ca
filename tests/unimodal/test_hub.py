"""Models of every format load by their hub ids, over the hub's protocol."""

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
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

import unimodal
from tests.unimodal.formats.sentence_folders import (
    write,
    write_backbone,
    write_modules,
)
from unimodal.embedder import Embedder
from unimodal.formats import native
from unimodal.formats.open_clip import _check_weights
from unimodal.model import DualEncoder
from unimodal.preprocess.tokenizers import Tokenizer


@pytest.fixture
def folder(tmp_path: Path, tokenizer_file: Path, bert_kwargs: dict[str, Any]) -> Path:
    write_backbone(tmp_path / "sentences", tokenizer_file, bert_kwargs)
    write_modules(tmp_path / "sentences", {"pooling_mode_mean_tokens": True})
    return tmp_path / "sentences"


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
        vectors = unimodal.load(source, device="cpu").encode(["a red hat", "a cup"])
        numpy.save(f"{sys.argv[1]}/{number}.npy", vectors)
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
    native.save(tmp_path / "ours", model, tokenizer)
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
        "model 'someone/nothing' is not a folder here and the hub did not give it"
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
        "model 'someone/nothing' is not a folder here and the hub did not give it"
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
    assert errors[0].startswith("the weights 'openai' of 'ViT-B-32': the hub")
    assert "(Got: ConnectError" in errors[0]


def test_open_clip_weights_that_lie_here_need_no_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="the weights 'openai' of 'ViT-B-32': the hub"):
        _check_weights("ViT-B-32", "openai")
    repository = tmp_path / "models--timm--vit_base_patch32_clip_224.openai"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc", encoding="utf-8")
    _check_weights("ViT-B-32", "openai")


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
    assert errors[0].startswith("open_clip cannot build 'hf-hub:someone/nothing' (")
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
