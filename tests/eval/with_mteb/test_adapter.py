from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.cache import EmbeddingCache
from eval.data.pairs import PairData
from eval.data.retrieval import RetrievalData
from eval.data.zero_shot import ZeroShotData
from eval.scoring.metrics import METRICS, spearman
from eval.scoring.ranks import Ranks, ranks
from eval.scoring.retrieval import vector_values
from eval.with_mteb.adapter import MtebModel, check_encode_kwargs, mteb_model
from eval.with_mteb.run import run_mteb
from eval.with_mteb.search import top_documents
from eval.with_mteb.tables import loader_inputs
from eval.with_mteb.tasks import find_mteb_task, load_mteb_task
from tests.eval.conftest import TinyEmbedder
from tests.eval.mteb_hub import image_rows, jpeg, write_retrieval
from unimodal.embedder import Embedder

RETRIEVAL = ["SciFact", "Flickr30kT2IRetrieval", "Flickr30kI2TRetrieval"]
TASKS = [*RETRIEVAL, "STSBenchmark", "CIFAR10ZeroShot"]
pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # of mteb and scikit-learn, about tasks this small


@pytest.fixture(scope="module")
def embedder(tiny_embedder: TinyEmbedder) -> Embedder:
    return tiny_embedder(0)


@pytest.fixture(scope="module")
def results(
    embedder: Embedder, hub: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Where mteb's files of the model lie."""
    folder = tmp_path_factory.mktemp("results")
    run_mteb(embedder, TASKS, folder, name="unimodal/tiny", dims=[8], data=hub)
    return folder / "results/unimodal__tiny" / embedder.fingerprint()


def scores_of(folder: Path, task: str) -> dict[str, float]:
    scores: dict[str, float] = json.loads((folder / f"{task}.json").read_text())[
        "scores"
    ]["test"][0]
    return scores


def ranks_in(
    task: str, embedder: Embedder, hub: Path, ids: list[str] | None = None
) -> Ranks:
    data = load_mteb_task(task, folder=hub)
    store = EmbeddingCache(embedder)
    assert isinstance(data, RetrievalData)
    queries = store.encode(data.queries, "query")
    documents = store.encode(data.documents, "document")
    return ranks(
        queries, documents, data.relevant, ids or data.document_ids, gains=data.gains
    )


class EncoderAlone:
    """The same vectors without the search, so that mteb searches by its own wrapper."""

    def __init__(self, model: MtebModel) -> None:
        self.mteb_model_meta = model.mteb_model_meta
        self.encode = model.encode
        self.similarity = model.similarity
        self.similarity_pairwise = model.similarity_pairwise


@pytest.mark.parametrize("task", RETRIEVAL)
def test_our_retrieval_scores_are_mtebs_with_ties_and_grades(
    task: str, embedder: Embedder, results: Path, hub: Path
) -> None:
    found = ranks_in(task, embedder, hub)
    theirs = scores_of(results, task)
    for metric, values in METRICS.items():
        for k in (1, 3, 5, 10, 20):
            ours = float(values(found, k).mean())
            assert ours == pytest.approx(
                theirs[f"{metric}_at_{k}"], abs=5.1e-6
            )  # mteb keeps five decimals


def test_the_text_task_has_equal_scores_that_the_order_of_ids_decides(
    embedder: Embedder, hub: Path
) -> None:
    by_id = ranks_in("SciFact", embedder, hub)
    by_another_id = ranks_in("SciFact", embedder, hub, [f"{99 - n}" for n in range(60)])
    assert (by_id.flat != by_another_id.flat).any()


def test_our_sts_correlation_is_mtebs(
    embedder: Embedder, results: Path, hub: Path
) -> None:
    data = load_mteb_task("STSBenchmark", folder=hub)
    store = EmbeddingCache(embedder)
    assert isinstance(data, PairData)
    cosines = np.einsum(
        "pd,pd->p", store.encode(data.left), store.encode(data.right), dtype=np.float64
    )
    assert spearman(cosines, data.scores) == pytest.approx(
        scores_of(results, "STSBenchmark")["main_score"], abs=1e-6
    )


def test_our_zero_shot_accuracy_is_mtebs(
    embedder: Embedder, results: Path, hub: Path
) -> None:
    data = load_mteb_task("CIFAR10ZeroShot", folder=hub)
    store = EmbeddingCache(embedder)
    assert isinstance(data, ZeroShotData)
    classes = store.encode(
        [data.templates[0].replace("{c}", name) for name in data.class_names]
    )
    chosen = (store.encode(data.images) @ classes.T).argmax(axis=1)
    assert (chosen == data.labels).mean() == pytest.approx(
        scores_of(results, "CIFAR10ZeroShot")["accuracy"]
    )


def test_every_retrieval_metric_of_mtebs_own_search_comes_out(
    mteb: Any, embedder: Embedder, hub: Path
) -> None:
    model = mteb_model(embedder, "unimodal/tiny")
    for name in RETRIEVAL:
        ours, theirs = (
            mteb.evaluate(
                one,
                find_mteb_task(name, folder=hub),
                cache=None,
                co2_tracker=False,
                show_progress_bar=False,
            )
            .task_results[0]
            .scores["test"][0]
            for one in (model, EncoderAlone(model))
        )
        numbers = [key for key, value in ours.items() if isinstance(value, float)]
        assert len(numbers) > 140
        assert [ours[key] for key in numbers] == pytest.approx(
            [theirs[key] for key in numbers], abs=1.1e-5, nan_ok=True
        )


def test_the_model_has_both_protocols_of_mteb(mteb: Any, embedder: Embedder) -> None:
    from mteb.models import EncoderProtocol, SearchProtocol

    model = mteb_model(embedder, "unimodal/tiny")
    assert isinstance(model, EncoderProtocol)
    assert isinstance(model, SearchProtocol)


def test_the_model_says_what_it_is(mteb: Any, embedder: Embedder) -> None:
    meta = mteb_model(embedder, "unimodal/tiny", dims=8).mteb_model_meta
    assert (meta.revision, meta.embed_dim, meta.experiment_name) == (
        embedder.fingerprint(),
        8,
        "dims_8",
    )
    assert set(meta.modalities) == {"text", "image"}
    assert meta.n_parameters == sum(
        one.numel() for one in embedder.models[0].parameters()
    )
    assert meta.n_embedding_parameters == (120 + 32 + 2) * 24
    assert meta.training_datasets is None
    assert meta.max_tokens == 24


def test_fewer_dimensions_are_an_experiment_of_the_same_model(results: Path) -> None:
    whole = scores_of(results, "STSBenchmark")
    part = scores_of(results / "experiments/dims_8", "STSBenchmark")
    assert whole["main_score"] != part["main_score"]


def test_a_text_and_its_image_are_fused(mteb: Any, embedder: Embedder) -> None:
    from torch.utils.data import DataLoader

    model = mteb_model(embedder, "unimodal/tiny")
    table = image_rows(
        [jpeg(0, "red"), jpeg(1, "blue")],
        id=["a", "b"],
        text=["a red mug", "a blue lamp"],
    )
    loader = DataLoader(
        table,
        batch_size=1,
        collate_fn=lambda rows: {key: [r[key] for r in rows] for key in rows[0]},
    )
    task = mteb.get_task("STSBenchmark").metadata
    vectors = model.encode(
        loader, task_metadata=task, hf_split="test", hf_subset="default"
    )
    expected = embedder.encode(
        [
            {"text": "a red mug", "image": jpeg(0, "red")},
            {"text": "a blue lamp", "image": jpeg(1, "blue")},
        ]
    )
    assert vectors == pytest.approx(expected, abs=1e-6)


def test_a_loader_in_another_order_gives_the_same_inputs(
    mteb: Any, embedder: Embedder
) -> None:
    from torch.utils.data import DataLoader

    table = image_rows(
        [jpeg(n, "green") for n in range(5)],
        id=list("abcde"),
        text=[f"mug {n}" for n in range(5)],
    )
    collate = lambda rows: {key: [r[key] for r in rows] for key in rows[0]}  # noqa: E731
    straight = DataLoader(table, 2, collate_fn=collate)
    sampled = DataLoader(table, 2, sampler=range(5), collate_fn=collate)
    found = [
        EmbeddingCache(embedder).encode(loader_inputs(one, "x", ["text", "image"]))
        for one in (straight, sampled)
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_of_equal_scores_the_higher_ids_are_better() -> None:
    documents = np.array(
        [[1, 0], [0.6, 0.8], [1, 0], [0.6, 0.8], [1, 0], [0, 1]], dtype=np.float32
    )
    ids = ["b", "x", "c", "y", "a", "z"]
    query = np.array([[1, 0]], dtype=np.float32)
    for top_k in range(1, 8):
        (found,) = top_documents(query, documents, ids, top_k)
        assert list(found) == ["c", "b", "a", "y", "x", "z"][:top_k]
    assert found["y"] == np.float32(0.6)


def test_equal_vectors_have_equal_scores_wherever_they_stand() -> None:
    draw = np.random.default_rng(0)
    few = draw.standard_normal((7, 24)).astype(np.float32)
    documents = few[draw.integers(0, 7, 61)]
    ids = [f"{number:02}" for number in range(61)]
    for found in top_documents(
        draw.standard_normal((9, 24)).astype(np.float32), documents, ids, 61
    ):
        assert len(set(found.values())) == 7


def test_a_search_in_blocks_finds_what_sorting_all_scores_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = np.random.default_rng(1)
    queries, documents = (
        draw.integers(-1, 2, (n, 4)).astype(np.float32) for n in (20, 300)
    )
    ids = [str(number) for number in draw.permutation(300)]
    monkeypatch.setattr("eval.with_mteb.search.BLOCK_SCORES", 1000)  # 3 queries
    for query, found in zip(
        queries, top_documents(queries, documents, ids, 40), strict=True
    ):
        scores = dict(zip(ids, (documents @ query).tolist(), strict=True))
        best = sorted(ids, key=lambda name: (scores[name], name), reverse=True)[:40]
        assert list(found.items()) == [(name, scores[name]) for name in best]


def test_candidates_that_are_given_are_all_that_is_ranked(
    mteb: Any, embedder: Embedder, hub: Path
) -> None:
    task = find_mteb_task("SciFact", folder=hub)
    task.load_data()
    part = task.dataset["default"]["test"]
    model = mteb_model(embedder, "a/b")
    options: dict[str, Any] = {"hf_split": "test", "hf_subset": "default"}
    model.index(part["corpus"], task_metadata=task.metadata, **options)
    whole = model.search(
        part["queries"], task_metadata=task.metadata, top_k=60, **options
    )
    given = {"q0": ["d3", "d9", "d1"], "q1": []}
    found = model.search(
        part["queries"],
        task_metadata=task.metadata,
        top_k=2,
        top_ranked=given,
        **options,
    )
    best = sorted(given["q0"], key=lambda name: -whole["q0"][name])[:2]
    assert found["q0"] == pytest.approx(
        {name: whole["q0"][name] for name in best}, abs=1e-6
    )
    assert found["q1"] == found["q2"] == {}


def test_dims_that_the_model_has_not_are_refused(mteb: Any, embedder: Embedder) -> None:
    with pytest.raises(ValueError, match="dims 25 is not between 1 and the model's 24"):
        mteb_model(embedder, "a/b", dims=25)


@pytest.mark.parametrize(
    ("task", "where"),
    [
        ("SciFact", "SciFact/test/default document: 60 of 60"),
        ("STSBenchmark", "STSBenchmark/test/default: 50 of 50"),
        ("CIFAR10ZeroShot", "CIFAR10ZeroShot/test/default: "),
    ],
)
def test_a_model_that_gives_nan_is_refused(
    task: str, where: str, tiny_embedder: TinyEmbedder, hub: Path, tmp_path: Path
) -> None:
    broken = tiny_embedder(3)
    for parameter in broken.models[0].parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(ValueError, match=f"{where}.* vectors hold NaN"):
        run_mteb(broken, [task], tmp_path, name="unimodal/broken", data=hub)


@pytest.mark.parametrize("task", ["SciFact", "STSBenchmark", "CIFAR10ZeroShot"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"precision": "uint8"},
            r"precision .*'uint8'.* float32; let mteb compress",
        ),
        (
            {"normalize_embeddings": False},
            "encode_kwargs: 'normalize_embeddings' would have no effect",
        ),
    ],
)
def test_options_without_effect_are_refused_on_every_kind_of_task(
    mteb: Any,
    embedder: Embedder,
    hub: Path,
    task: str,
    options: dict[str, Any],
    message: str,
) -> None:
    model = mteb_model(embedder, "unimodal/tiny")
    with pytest.raises(ValueError, match=message):
        mteb.evaluate(
            model,
            find_mteb_task(task, folder=hub),
            cache=None,
            co2_tracker=False,
            encode_kwargs=options,
        )


def test_a_batch_size_changes_nothing_and_says_so(embedder: Embedder) -> None:
    with pytest.warns(UserWarning, match="batch_size 8 is not used"):
        check_encode_kwargs({"batch_size": 8})
    check_encode_kwargs(
        {"batch_size": 32, "precision": "float32", "show_progress_bar": False}
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int8"])
def test_similarities_are_cosines_of_vectors_of_any_length(
    embedder: Embedder, mteb: Any, dtype: str
) -> None:
    model = mteb_model(embedder, "unimodal/tiny")
    random = np.random.default_rng(0)
    left, right = (random.integers(1, 100, (5, 24)).astype(dtype) for _ in range(2))
    exact = [
        side.astype(np.float64)
        / np.linalg.norm(side.astype(np.float64), axis=1)[:, None]
        for side in (left, right)
    ]
    for one, other in (
        (left, right),
        (torch.from_numpy(left), torch.from_numpy(right)),
    ):
        np.testing.assert_allclose(
            model.similarity(one, other), exact[0] @ exact[1].T, atol=1e-6
        )
        np.testing.assert_allclose(
            model.similarity_pairwise(one, other),
            (exact[0] * exact[1]).sum(axis=1),
            atol=1e-6,
        )


def test_mteb_s_compressed_vectors_are_compared_by_the_cosine(
    embedder: Embedder, mteb: Any, hub: Path
) -> None:
    from mteb.models import CompressionWrapper
    from mteb.types import OutputDType

    task = find_mteb_task("STSBenchmark", folder=hub)
    wrapped = CompressionWrapper(
        mteb_model(embedder, "unimodal/tiny"), OutputDType.UINT8
    )
    found = mteb.evaluate(wrapped, task, cache=None, co2_tracker=False).task_results[0]
    data = load_mteb_task("STSBenchmark", folder=hub)
    assert isinstance(data, PairData)
    left, right = (
        torch.as_tensor(
            wrapped._quantize_embeddings(torch.from_numpy(embedder.encode(side)))
        ).double()
        for side in (data.left, data.right)
    )
    cosines = torch.nn.functional.cosine_similarity(left, right).numpy()
    theirs = found.scores["test"][0]["cosine_spearman"]
    assert theirs == pytest.approx(spearman(cosines, data.scores), abs=1e-5)


def test_lost_documents_score_as_in_mteb(
    embedder: Embedder, mteb: Any, tmp_path: Path
) -> None:
    import datasets

    texts = [f"red mug {number}" for number in range(6)]
    corpus = datasets.Dataset.from_dict({"_id": list("abcdef"), "text": texts})
    queries = datasets.Dataset.from_dict(
        {"_id": ["x", "y", "z"], "text": ["red mug", "blue lamp", "green ball"]}
    )
    judged = {"x": {"a": 1, "lost": 2}, "y": {"b": 1, "c": 1}, "z": {"lost": 1}}
    write_retrieval(tmp_path / "mteb/scifact", corpus, queries, judged)
    run_mteb(
        embedder, ["SciFact"], tmp_path / "out", name="unimodal/tiny", data=tmp_path
    )
    theirs = scores_of(
        tmp_path / "out/results/unimodal__tiny" / embedder.fingerprint(), "SciFact"
    )
    data = load_mteb_task("SciFact", folder=tmp_path)
    store = EmbeddingCache(embedder)
    assert isinstance(data, RetrievalData)
    metrics = [f"{family}_at_{k}" for family in METRICS for k in (1, 3, 10)]
    vectors = (
        store.encode(data.queries, "query"),
        store.encode(data.documents, "document"),
    )
    for metric, values in vector_values(data.judgements, metrics, *vectors).items():
        assert values.mean() == pytest.approx(theirs[metric], abs=5.1e-6), metric


def test_an_undefined_score_of_mteb_is_not_a_number_of_ours(
    embedder: Embedder, mteb: Any, tmp_path: Path
) -> None:
    import datasets

    rows = {
        "sentence1": ["red mug", "a lamp", "one"],
        "sentence2": ["blue mug", "a chair", "two"],
        "score": [3.0] * 3,
    }
    folder = tmp_path / "mteb/stsbenchmark-sts"
    folder.mkdir(parents=True)
    datasets.Dataset.from_dict(rows).to_parquet(str(folder / "test.parquet"))
    (row,) = run_mteb(
        embedder,
        ["STSBenchmark"],
        tmp_path / "out",
        name="unimodal/tiny",
        data=tmp_path,
    )
    assert (row.value, row.note) == (None, "mteb gives nan")
    again = run_mteb(
        embedder,
        ["STSBenchmark"],
        tmp_path / "out",
        name="unimodal/tiny",
        data=tmp_path,
    )
    assert again == [row]
