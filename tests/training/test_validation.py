"""Validation on two ranks: the vectors and scores of one, stopped at once, and no rank waits for
one that is gone.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import Recipe
from tests.ranks import TIMEOUT, on_two_ranks
from tests.training.runs import rows_of
from training import validation
from training.config import TrainConfig
from training.loop import train
from training.main_rank import stop_requested
from training.run.resume import write_config
from training.run.stopping import StopSignals
from training.validation import SharedEncoder, load_on_main, validate
from unimodal import distributed
from unimodal.embedder import Embedder, Item
from unimodal.encoder import Encoder
from unimodal.model import build_model
from unimodal.preprocess.tokenizers import load_tokenizer
from unimodal.vectors import Vectors, cosines

TEXTS = [
    f"a {colour} mug " + "and so on " * (number % 5)
    for number in range(9)
    for colour in ("red", "blue")
]


def embedder_of(config: TrainConfig) -> Embedder:
    torch.manual_seed(0)
    assert config.model is not None
    assert config.model.text is not None
    return Embedder(
        build_model(config.model).eval(),
        load_tokenizer(config.model.text)[0],
        device="cpu",
    )


class Counting(Embedder):
    """Counts what this rank itself encodes."""

    count = 0

    def encode(self, inputs: Any, **options: Any) -> Vectors:
        self.count += len(inputs)
        return super().encode(inputs, **options)


def _encode(rank: int, config: TrainConfig, items: list[Item]) -> Any:
    embedder = embedder_of(config)
    found = []
    embedder.__class__ = Counting
    embedder.config = embedder.config.model_copy(update={"prompts": {"query": "find "}})
    validate(
        embedder,
        lambda shared: found.append(
            (shared.encode(items), shared.encode_query(TEXTS[:5]))
        ),
        60,
        bool,
    )
    return found, embedder.count  # type: ignore[attr-defined]  # a Counting


def test_two_ranks_give_the_vectors_of_one_and_each_encodes_half(
    recipe: Recipe, world: Path, tmp_path: Path
) -> None:
    config = recipe()
    items: list[Item] = [
        *TEXTS,
        *(world / f"images/{number}.png" for number in range(8)),
    ]
    found = on_two_ranks(
        tmp_path, functools.partial(_encode, config=config, items=items)
    )
    (vectors, asked), count = found[0][0][0], found[0][1]
    one = embedder_of(config)
    np.testing.assert_allclose(vectors, one.encode(items), atol=1e-6)
    np.testing.assert_allclose(
        asked, one.encode([f"find {text}" for text in TEXTS[:5]]), atol=1e-6
    )
    assert found[1][0] == []
    assert (count, found[1][1]) == (13 + 3, 13 + 2)


def _stop_while_encoding(rank: int, config: TrainConfig) -> Any:
    embedder = embedder_of(config)
    signals = StopSignals()
    seconds = []
    signals.hold()
    began = time.perf_counter()

    def work(shared: Embedder | SharedEncoder) -> None:
        while not stop_requested() and time.perf_counter() - began < 30:
            shared.encode(TEXTS)
        seconds.append(time.perf_counter() - began < 10)

    if rank == 1:
        threading.Timer(1.0, signals.receive, (int(signal.SIGTERM),)).start()
    validate(embedder, work, 60, signals.should_stop)
    return signals.agree(), seconds


def test_a_signal_to_one_rank_in_the_middle_of_a_validation_ends_it_on_all(
    recipe: Recipe, tmp_path: Path
) -> None:
    number = int(signal.SIGTERM)
    found = on_two_ranks(
        tmp_path, functools.partial(_stop_while_encoding, config=recipe())
    )
    assert found == {0: (number, [True]), 1: (number, [])}


def _encode_where_only_the_first_has_files(
    rank: int, config: TrainConfig, world: Path, items: list[Item], largest: int
) -> Any:
    os.chdir(world if rank == 0 else world.parent)  # the paths are relative
    validation.BYTES_PER_CALL = largest
    found: list[Vectors] = []
    validate(
        embedder_of(config), lambda shared: found.append(shared.encode(items)), 60, bool
    )
    return found


@pytest.mark.parametrize("largest", [1, 1 << 20])
def test_the_first_rank_alone_needs_the_files_of_images(
    recipe: Recipe, world: Path, tmp_path: Path, largest: int
) -> None:
    config = recipe()
    items: list[Item] = [Path(f"images/{number}.png") for number in range(6)]
    items += [*TEXTS[:3], {"image": items[0], "text": "a mug"}]
    job = functools.partial(
        _encode_where_only_the_first_has_files,
        config=config,
        world=world,
        items=items,
        largest=largest,
    )
    (vectors,) = on_two_ranks(tmp_path, job)[0]
    with contextlib.chdir(world):
        np.testing.assert_allclose(
            vectors, embedder_of(config).encode(items), atol=1e-6
        )


def _encode_in_calls(rank: int, config: TrainConfig, is_asked: bool) -> Any:
    validation.INPUTS_PER_RANK = 2
    embedder = embedder_of(config)
    found = []
    sizes = []
    own = embedder.tokenizer
    assert own is not None

    def counted(texts: list[str]) -> Any:
        sizes.append(len(texts))
        return own(texts)

    embedder.tokenizer = counted  # type: ignore[assignment]  # no tokenizer
    validate(
        embedder,
        lambda shared: found.append(shared.encode(TEXTS)),
        60,
        lambda: is_asked and len(sizes) > rank,
    )
    return found, sizes


def test_much_that_is_asked_for_at_once_is_encoded_in_several_calls(
    recipe: Recipe, tmp_path: Path
) -> None:
    config = recipe()
    found = on_two_ranks(
        tmp_path, functools.partial(_encode_in_calls, config=config, is_asked=False)
    )
    ((vectors,), sizes), theirs = found[0], found[1][1]
    np.testing.assert_allclose(vectors, embedder_of(config).encode(TEXTS), atol=1e-6)
    assert (sizes, theirs) == ([2, 2, 2, 2, 1], [2, 2, 2, 2, 1])


def test_a_rank_that_is_to_stop_is_heard_between_two_calls(
    recipe: Recipe, tmp_path: Path
) -> None:
    found = on_two_ranks(
        tmp_path, functools.partial(_encode_in_calls, config=recipe(), is_asked=True)
    )
    assert found[0][0] == []
    assert len(found[0][1]) == len(found[1][1]) < 5


def _fail_with_what_cannot_be_sent(rank: int, config: TrainConfig, fails: int) -> Any:
    embedder = embedder_of(config)
    own = embedder_of(config).tokenizer
    said = []

    class LocalError(Exception):
        lock = threading.Lock()

    def broken(texts: list[str]) -> Any:
        embedder.tokenizer = own
        raise LocalError("no room")

    def work(shared: Embedder | SharedEncoder) -> None:
        try:
            shared.encode(TEXTS)
        except RuntimeError as error:
            said.append(str(error))
        said.append(str(shared.encode(TEXTS).shape))

    if rank == fails:
        embedder.tokenizer = broken  # type: ignore[assignment]  # no tokenizer
    validate(embedder, work, 60, bool)
    return said


@pytest.mark.parametrize("fails", [0, 1])
def test_an_error_that_cannot_be_sent_is_raised_by_the_first_rank_in_words(
    recipe: Recipe, tmp_path: Path, fails: int
) -> None:
    found = on_two_ranks(
        tmp_path,
        functools.partial(_fail_with_what_cannot_be_sent, config=recipe(), fails=fails),
    )
    assert found == {0: [f"rank {fails}: LocalError: no room", "(18, 16)"], 1: []}


def _encode_something_broken(rank: int, config: TrainConfig, items: list[Item]) -> Any:
    embedder = embedder_of(config)
    said = []

    def work(shared: Embedder | SharedEncoder) -> None:
        try:
            shared.encode(items)
        except ValueError as error:
            said.append(str(error))
        said.append(str(shared.encode(TEXTS).shape))

    validate(embedder, work, 60, bool)
    return said


@pytest.mark.parametrize("place", [0, 1])
def test_what_one_rank_cannot_encode_is_raised_by_the_first_and_all_go_on(
    recipe: Recipe, tmp_path: Path, place: int
) -> None:
    items: list[Item] = [*TEXTS[:place], b"no image", *TEXTS[place:]]
    found = on_two_ranks(
        tmp_path,
        functools.partial(_encode_something_broken, config=recipe(), items=items),
    )
    assert found[0][0].startswith(f"input {place}: ")
    assert "is not a readable image" in found[0][0]
    assert found[0][1] == "(18, 16)"
    assert found[1] == []


def _die_while_encoding(rank: int, config: TrainConfig, dies: int) -> Any:
    embedder = embedder_of(config)
    if rank == dies:

        def die(texts: object) -> Any:
            os.kill(os.getpid(), signal.SIGKILL)

        embedder.tokenizer = die  # type: ignore[assignment]
    validate(embedder, lambda shared: shared.encode(TEXTS), 60, bool)


@pytest.mark.parametrize("dies", [0, 1])
def test_a_rank_that_dies_in_its_share_is_an_error_on_the_other(
    recipe: Recipe, tmp_path: Path, dies: int
) -> None:
    found = on_two_ranks(
        tmp_path,
        functools.partial(_die_while_encoding, config=recipe(), dies=dies),
        wanted=1,
    )
    assert f"ConnectionError: rank {1 - dies} of 2 waited in vain" in found[1 - dies]


VALIDATES = """
import os, signal, sys
from pathlib import Path
from training.config import TrainConfig
from training.loop import Stopped, train
from unimodal.config import read_config
from tests.training.test_validation import scores

try:
    train(read_config(TrainConfig, sys.argv[1], []), evaluate=scores)
except Stopped as stopped:
    print(f"rank {os.environ['RANK']}: {stopped} [{stopped.signal}]\\n", end="", flush=True)
"""


COMMAND = """
import os, sys
from unimodal.cli.train import run_training_by
from unimodal.config import read_config
from unimodal.training.config import TrainConfig

os.chdir(os.environ["WORLD"] if os.environ["RANK"] == "0" else "/")
try:
    run_training_by(read_config(TrainConfig, sys.argv[1], []), resume=False)
except ValueError as error:
    print(f"rank {os.environ['RANK']}: {error}\\n", end="", flush=True)
"""


def scores(encoder: Encoder, should_stop: Callable[[], bool]) -> dict[str, float]:
    """How well captions find squares of their colour."""
    world = Path(os.environ["WORLD"])
    images = encoder.encode([world / f"images/{number}.png" for number in range(40)])
    if os.environ.get("STOPS"):
        assert type(encoder).__name__ == "SharedEncoder"
        os.kill(os.getpid(), signal.SIGTERM)
        assert should_stop()
        return {}
    texts = encoder.encode_query(
        [
            f"{('red', 'green', 'blue', 'yellow')[number % 4]} mug"
            for number in range(40)
        ]
    )
    similarities = cosines(texts, images)
    return {
        "squares mean": float(similarities.mean()),
        "squares own": float(np.diag(similarities).mean()),
    }


def _run_two(
    config: TrainConfig,
    folder: Path,
    world: Path,
    script: str = VALIDATES,
    **environment: str,
) -> str:
    write_config(folder, config)
    (folder / "script.py").write_text(script)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "0",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
        str(folder / "script.py"),
        str(folder / "config.yaml"),
    ]
    root = str(Path(__file__).parents[2])
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": root,
        "WORLD": str(world),
        **environment,
    }
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=variables, check=True
    ).stdout


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_of_two_ranks_has_the_validation_scores_of_one_process(
    recipe: Recipe,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parallel: str,
) -> None:
    monkeypatch.setenv("WORLD", str(world))
    changes = {
        "precision": "float64",
        "steps": 4,
        "eval": {"suite": "none", "every": 2},
    }
    one = recipe({"run": str(tmp_path / "one"), **changes})
    train(one, evaluate=scores)
    two = recipe({"run": str(tmp_path / "two"), "parallel": parallel, **changes})
    _run_two(two, tmp_path, world)
    validations = [
        [row for row in rows_of(config.run) if "val/squares own" in row]
        for config in (one, two)
    ]
    assert [row["step"] for row in validations[1]] == [2, 4]
    for ours, theirs in zip(*validations, strict=True):
        assert theirs == pytest.approx(ours, abs=1e-6)


def test_a_stop_in_the_middle_of_a_validation_ends_both_ranks_and_it_is_done_again(
    recipe: Recipe, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe({"steps": 4, "eval": {"suite": "none", "every": 2}})
    printed = _run_two(config, tmp_path, world, STOPS="1")
    for rank in range(2):
        assert (
            f"rank {rank}: stopped at step 2 of 4; continue with --resume. [15]"
            in printed
        )
    assert not [row for row in rows_of(config.run) if "val/squares own" in row]
    monkeypatch.setenv("WORLD", str(world))
    train(config, evaluate=scores, resume=True)
    assert [row["step"] for row in rows_of(config.run) if "val/squares own" in row] == [
        2,
        4,
    ]


def test_the_log_says_how_long_a_validation_took(
    recipe: Recipe, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD", str(world))
    config = recipe({"steps": 1, "eval": {"suite": "none", "every": 1}})
    train(config, evaluate=scores)
    assert "validation_seconds" in (Path(config.run) / "metrics.jsonl").read_text()


def _load(rank: int, error: Exception | None) -> list[str]:
    loaded: list[str] = []

    def load() -> None:
        loaded.append(f"by {rank}")
        time.sleep(1.5 * TIMEOUT)
        if error is not None:
            raise error

    try:
        load_on_main(load, TIMEOUT)
    except Exception as raised:
        loaded.append(f"{type(raised).__name__}: {raised}")
    distributed.barrier()  # nobody waits for one that is gone
    return loaded


@pytest.mark.parametrize(
    ("error", "here", "there"),
    [
        (None, [], []),
        (ValueError("no data"), ["ValueError: no data"], ["ValueError: no data"]),
        (KeyError("rows"), ["KeyError: 'rows'"], ["RuntimeError: KeyError: 'rows'"]),
    ],
)
def test_the_first_rank_alone_loads_and_what_it_raises_is_raised_by_all(
    tmp_path: Path, error: Exception | None, here: list[str], there: list[str]
) -> None:
    found = on_two_ranks(tmp_path, functools.partial(_load, error=error))
    assert found == {0: ["by 0", *here], 1: there}


def _validated_by(suite: Path, recipe: Recipe, steps: int) -> TrainConfig:
    suite.write_text(
        "tasks: {squares: {kind: image-text, rows: {input: pictures.jsonl}, text: captions}}\n"
    )
    return recipe(
        {
            "steps": steps,
            "timeout": 30,
            "eval": {"suite": str(suite), "data_root": ".", "every": 2},
        }
    )


def test_a_run_of_two_ranks_needs_the_data_of_validation_on_the_first_alone(
    recipe: Recipe, world: Path, tmp_path: Path
) -> None:
    config = _validated_by(tmp_path / "suite.yaml", recipe, steps=2)
    assert _run_two(config, tmp_path, world, COMMAND).count("rank") == 0
    assert [
        row["step"]
        for row in rows_of(config.run)
        if "val/squares/text->image hit_rate_at_1" in row
    ] == [2]


def test_missing_data_of_validation_is_said_by_both_ranks_before_the_run_begins(
    recipe: Recipe, tmp_path: Path
) -> None:
    config = _validated_by(tmp_path / "suite.yaml", recipe, steps=2)
    (tmp_path / "empty").mkdir()
    printed = _run_two(config, tmp_path, tmp_path / "empty", COMMAND)
    for rank in range(2):
        assert f"rank {rank}: the suite lacks files (1): pictures.jsonl" in printed
    assert not Path(config.run).exists()
