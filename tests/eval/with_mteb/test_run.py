from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.cache import EmbeddingCache
from eval.data.pairs import PairData
from eval.scoring.metrics import spearman
from eval.with_mteb.run import mteb_name, run_mteb
from eval.with_mteb.tasks import find_mteb_task, load_mteb_task, parts_of
from tests.eval.conftest import TinyEmbedder
from tests.eval.mteb_hub import jpeg, write_retrieval
from unimodal.embedder import Embedder

TASKS = [
    "SciFact",
    "Flickr30kT2IRetrieval",
    "Flickr30kI2TRetrieval",
    "STSBenchmark",
    "CIFAR10ZeroShot",
]
pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # of mteb and scikit-learn, about tasks this small


@pytest.fixture(scope="module")
def embedder(tiny_embedder: TinyEmbedder) -> Embedder:
    return tiny_embedder(0)


def test_other_weights_are_scored_anew_and_the_same_weights_are_not(
    tiny_embedder: TinyEmbedder, hub: Path, tmp_path: Path
) -> None:
    first = run_mteb(
        tiny_embedder(0), ["SciFact"], tmp_path, name="unimodal/tiny", data=hub
    )
    other = run_mteb(
        tiny_embedder(1), ["SciFact"], tmp_path, name="unimodal/tiny", data=hub
    )
    assert first[0].value != other[0].value
    again = tiny_embedder(0)
    again.encode = None  # type: ignore[assignment]  # so that encoding fails
    assert (
        run_mteb(again, ["SciFact"], tmp_path, name="unimodal/tiny", data=hub) == first
    )


def test_other_data_is_scored_anew(
    embedder: Embedder, hub: Path, tmp_path: Path
) -> None:
    shutil.copytree(hub / "mteb/scifact", tmp_path / "data/scifact")
    first = run_mteb(
        embedder, ["SciFact"], tmp_path, name="unimodal/tiny", data=tmp_path / "data"
    )
    import datasets

    queries = datasets.Dataset.from_dict(
        {"_id": ["q0", "q1"], "text": ["lamp", "shoe"]}
    )
    queries.to_parquet(str(tmp_path / "data/scifact/queries.parquet"))
    assert (
        run_mteb(
            embedder,
            ["SciFact"],
            tmp_path,
            name="unimodal/tiny",
            data=tmp_path / "data",
        )
        != first
    )


def test_missing_data_of_all_tasks_is_named_before_anything_is_encoded(
    hub: Path, tmp_path: Path, embedder: Embedder
) -> None:
    with pytest.raises(
        ValueError,
        match="hf download --repo-type dataset mteb/nfcorpus --revision ec0fa4f",
    ):
        run_mteb(
            embedder, ["SciFact", "NFCorpus"], tmp_path, name="unimodal/tiny", data=hub
        )
    assert not list(tmp_path.rglob("*.json"))


def test_images_that_two_directions_share_are_encoded_once(
    embedder: Embedder, hub: Path, tmp_path: Path
) -> None:
    store = EmbeddingCache(embedder)
    encoded = []
    plain = store._encode_plain

    def encode_and_note(block: Any) -> Any:
        encoded.extend(block)
        return plain(block)

    store._encode_plain = encode_and_note  # type: ignore[method-assign]
    run_mteb(
        embedder,
        TASKS[1:3],
        tmp_path,
        name="unimodal/tiny",
        data=hub,
        cache=store,
        dims=[8],
    )
    assert sum(one.kind == "image" for one in encoded) == 24


def test_a_text_model_leaves_tasks_with_images_unscored(
    embedder: Embedder, hub: Path, tmp_path: Path
) -> None:
    from unimodal.model import build_model

    config = embedder.config.model_copy(update={"image": None})
    text = Embedder(build_model(config).eval(), embedder.tokenizer, device="cpu")
    rows = run_mteb(
        text,
        ["Flickr30kT2IRetrieval", "SciFact"],
        tmp_path,
        name="unimodal/text",
        data=hub,
    )
    assert [(row.task, row.value is None) for row in rows] == [
        ("Flickr30kT2IRetrieval", True),
        ("SciFact", False),
    ]


def test_a_stop_ends_between_tasks(
    embedder: Embedder, hub: Path, tmp_path: Path
) -> None:
    store = EmbeddingCache(embedder)
    asked = iter([False, True])
    rows = run_mteb(
        embedder,
        TASKS,
        tmp_path,
        name="a/b",
        data=hub,
        cache=store,
        should_stop=lambda: next(asked),
    )
    assert [row.task for row in rows] == ["SciFact"]


def test_names_in_results_are_those_of_the_hub_or_say_where_the_model_came_from() -> (
    None
):
    assert mteb_name("runs/demo/model") == "unimodal/runs-demo-model"
    assert (
        mteb_name("open_clip:ViT-B-32/openai") == "unimodal/open_clip-ViT-B-32-openai"
    )
    assert mteb_name("jinaai/jina-clip-v1") == "jinaai/jina-clip-v1"


def test_pairs_of_images_are_scored(
    mteb: Any, embedder: Embedder, tmp_path: Path
) -> None:
    import datasets

    features = datasets.Features(
        {
            "sentence1": datasets.Image(),
            "sentence2": datasets.Image(),
            "score": datasets.Value("float64"),
        }
    )
    left, right = ([jpeg(n + base, "red") for n in range(12)] for base in (0, 50))
    cells = [[{"bytes": one, "path": None} for one in side] for side in (left, right)]
    scores = [n * 5 % 12 / 3 for n in range(12)]
    rows = {"sentence1": cells[0], "sentence2": cells[1], "score": scores}
    (tmp_path / "data/rendered-sts13").mkdir(parents=True)
    table = datasets.Dataset.from_dict(rows, features=features)
    table.to_parquet(str(tmp_path / "data/rendered-sts13/test.parquet"))
    (row,) = run_mteb(
        embedder,
        ["STS13VisualSTS"],
        tmp_path,
        name="unimodal/tiny",
        data=tmp_path / "data",
    )
    cosines = np.einsum(
        "pd,pd->p", embedder.encode(left), embedder.encode(right), dtype=np.float64
    )
    assert row.value == pytest.approx(spearman(cosines, scores), abs=1e-6)


def test_each_language_of_a_task_has_a_row(
    mteb: Any, embedder: Embedder, tmp_path: Path
) -> None:
    import datasets

    folder = tmp_path / "data/sts17-crosslingual-sts"
    languages = find_mteb_task("STS17").hf_subsets
    for number, language in enumerate(languages):
        texts = [
            f"{colour} {thing} {number}"
            for colour in ("red", "green", "blue")
            for thing in ("mug", "lamp")
        ]
        turned = texts[number % 5 + 1 :] + texts[: number % 5 + 1]
        rows = {
            "sentence1": texts,
            "sentence2": turned,
            "score": [*range(6)],
            "lang": [language] * 6,
        }
        (folder / language).mkdir(parents=True)
        datasets.Dataset.from_dict(rows).to_parquet(
            str(folder / language / "test.parquet")
        )
    card = "".join(
        f'- config_name: {name}\n  data_files:\n  - {{split: test, path: "{where}/*"}}\n'
        for name, where in [("default", "*"), *zip(languages, languages, strict=True)]
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{card}---\n")
    rows_of_all = run_mteb(
        embedder, ["STS17"], tmp_path, name="unimodal/tiny", data=tmp_path / "data"
    )
    assert sorted(row.task for row in rows_of_all) == sorted(
        f"STS17/test/{one}" for one in languages
    )
    pairs = load_mteb_task("STS17", folder=tmp_path / "data", subset="en-en")
    assert isinstance(pairs, PairData)
    cosines = np.einsum(
        "pd,pd->p",
        embedder.encode(pairs.left),
        embedder.encode(pairs.right),
        dtype=np.float64,
    )
    (value,) = [row.value for row in rows_of_all if row.task == "STS17/test/en-en"]
    assert value == pytest.approx(spearman(cosines, pairs.scores), abs=1e-6)


def test_an_average_of_tasks_is_scored_from_its_parts_and_once(
    mteb: Any, tiny_embedder: TinyEmbedder, tmp_path: Path
) -> None:
    import datasets

    for number, part in enumerate(parts_of(find_mteb_task("CQADupstackRetrieval"))):
        texts = [f"red mug {number + one}" for one in range(6)]
        corpus = datasets.Dataset.from_dict({"_id": list("abcdef"), "text": texts})
        queries = datasets.Dataset.from_dict(
            {"_id": ["x", "y"], "text": ["red mug", "blue lamp"]}
        )
        write_retrieval(
            tmp_path / part.metadata.dataset["path"],
            corpus,
            queries,
            {"x": {"a": 1}, "y": {"b": 1}},
        )
    embedder = tiny_embedder(0)
    rows = run_mteb(
        embedder,
        ["CQADupstackRetrieval"],
        tmp_path,
        name="unimodal/tiny",
        data=tmp_path,
    )
    parts = [
        json.loads(file.read_text())
        for file in tmp_path.rglob("CQADupstack?*Retrieval.json")
    ]
    scores = [
        one["scores"]["test"][0]["main_score"]
        for one in parts
        if one["task_name"] != "CQADupstackRetrieval"
    ]
    assert len(scores) == 12
    assert rows[0].value == pytest.approx(np.mean(scores), abs=1e-6)
    embedder.encode = None  # type: ignore[assignment]  # so that encoding fails
    assert (
        run_mteb(
            embedder,
            ["CQADupstackRetrieval"],
            tmp_path,
            name="unimodal/tiny",
            data=tmp_path,
        )
        == rows
    )
