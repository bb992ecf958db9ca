"""Each input is encoded once, ever; a kill loses a block at most and never gives an input another's
vector.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eval.cache
from eval.cache import EmbeddingCache, Stopped
from eval.cache_file import Memory, VectorFile
from eval.data.inputs import Deferred, Fused, Input, Side
from unimodal.embedder import Embedder
from unimodal.inputs import Plain
from unimodal.preprocess.images import decode_image
from unimodal.vectors import Vectors

D = 24


def vector_of(content: bytes, dim: int = D) -> Vectors:
    seed = int.from_bytes(hashlib.sha256(content).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(dim).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector))


class HashEncoder:
    """A random unit vector for each text with its prompt, and for each image; remembers what it
    was asked.
    """

    modalities = frozenset(["text", "image"])

    def __init__(
        self,
        name: str = "one",
        seconds: float = 0.0,
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.seconds = seconds
        self.prompts = prompts or {}
        self.asked: list[Plain] = []

    def fingerprint(self) -> str:
        return self.name

    def encode(
        self,
        inputs: Sequence[Plain],
        *,
        show_progress: bool | None = None,
        prompt: str = "",
    ) -> Vectors:
        time.sleep(self.seconds * len(inputs))
        for one in inputs:
            if not isinstance(one, str):
                decode_image(one)
        self.asked += inputs
        return np.stack([vector_of(_bytes(one, prompt)) for one in inputs])

    def encode_query(
        self, inputs: Sequence[Plain], *, show_progress: bool | None = None
    ) -> Vectors:
        return self.encode(inputs, prompt=self.prompts.get("query", ""))

    def encode_document(
        self, inputs: Sequence[Plain], *, show_progress: bool | None = None
    ) -> Vectors:
        return self.encode(inputs, prompt=self.prompts.get("document", ""))


def _bytes(one: Plain, prompt: str = "") -> bytes:
    return (
        (prompt + one).encode()
        if isinstance(one, str)
        else one.read_bytes()
        if isinstance(one, Path)
        else one
    )


def make_image(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


TEXTS = [f"text {number} " + "and more of it " * (number % 7) for number in range(300)]


def test_an_input_that_comes_again_in_another_form_place_or_task_is_not_encoded_again(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.png").write_bytes(make_image(0))
    encoder = HashEncoder()
    store = EmbeddingCache(encoder)
    same: list[Input] = [
        tmp_path / "a.png",
        make_image(0),
        Deferred("tar/0.png", lambda: make_image(0)),
        "a",
        "a",
    ]
    found = store.encode(same)
    store.encode(["a", tmp_path / "a.png"])
    assert len(encoder.asked) == 2
    np.testing.assert_array_equal(
        found,
        np.stack([vector_of(_bytes(one)) for one in [make_image(0)] * 3 + ["a"] * 2]),
    )


@pytest.mark.parametrize("folder", [None, "store"])
def test_vectors_come_in_the_order_of_the_inputs_whatever_the_order_they_are_encoded_in(
    tmp_path: Path, folder: str | None
) -> None:
    inputs: list[Input] = [
        *TEXTS[:40],
        make_image(1),
        *TEXTS[20:60],
        make_image(2),
        TEXTS[0],
    ]
    found = EmbeddingCache(HashEncoder(), tmp_path / folder if folder else None).encode(
        inputs
    )
    np.testing.assert_array_equal(
        found,
        np.stack([vector_of(_bytes(one)) for one in inputs]),  # type: ignore[arg-type]  # plain
    )


def test_roles_share_a_text_where_their_prompts_are_the_same_and_only_there() -> None:
    for prompts, times in (
        ({}, 1),
        ({"query": "q: "}, 2),
        ({"query": "q: ", "document": "d: "}, 3),
    ):
        encoder = HashEncoder(prompts=prompts)
        store = EmbeddingCache(encoder)
        for role in ("", "query", "document"):
            expected = vector_of((prompts.get(role, "") + "a").encode())
            vectors = store.encode(["a"], role)  # type: ignore[arg-type]  # a role
            np.testing.assert_array_equal(vectors[0], expected)
        assert len(encoder.asked) == times


def test_a_prompt_is_not_mistaken_for_the_beginning_of_a_text() -> None:
    cache = EmbeddingCache(HashEncoder(prompts={"query": "a"}))
    sides = [Side(["b"], "query"), Side(["ab"]), Side(["ab"], "query")]
    assert len({item.key for item in cache.missing(sides)}) == 3


def test_an_image_has_one_vector_whatever_the_role() -> None:
    encoder = HashEncoder(prompts={"query": "q: ", "document": "d: "})
    store = EmbeddingCache(encoder)
    assert (
        store.encode([make_image(0)], "query")
        == store.encode([make_image(0)], "document")
    ).all()
    assert len(encoder.asked) == 1


def test_a_text_with_an_image_is_their_normalised_sum_and_its_parts_are_kept() -> None:
    encoder = HashEncoder(prompts={"query": "q: "})
    store = EmbeddingCache(encoder)
    text = vector_of(b"q: red")
    image = vector_of(make_image(0))
    found = store.encode([Fused("red", make_image(0)), "red"], "query")
    np.testing.assert_allclose(
        found[0], (text + image) / np.linalg.norm(text + image), atol=1e-6
    )
    np.testing.assert_array_equal(found[1], text)
    assert len(encoder.asked) == 2


def test_another_store_in_the_same_folder_encodes_nothing_that_is_there(
    tmp_path: Path,
) -> None:
    first = HashEncoder()
    second = HashEncoder()
    EmbeddingCache(first, tmp_path).encode(TEXTS[:100])
    found = EmbeddingCache(second, tmp_path).encode(TEXTS[:120])
    assert sorted(map(str, second.asked)) == sorted(TEXTS[100:120])
    np.testing.assert_array_equal(
        found, np.stack([vector_of(text.encode()) for text in TEXTS[:120]])
    )


def test_another_model_finds_nothing_and_a_model_without_a_name_keeps_nothing(
    tmp_path: Path,
) -> None:
    EmbeddingCache(HashEncoder("one"), tmp_path).encode(TEXTS[:10])
    other = HashEncoder("two")
    EmbeddingCache(other, tmp_path).encode(TEXTS[:10])
    assert len(other.asked) == 10
    before = sorted(tmp_path.rglob("*"))
    with pytest.warns(UserWarning, match="fingerprint"):
        EmbeddingCache(HashEncoder(""), tmp_path).encode(TEXTS[:10])
    assert sorted(tmp_path.rglob("*")) == before


def test_float16_takes_half_the_room_and_moves_a_cosine_by_less_than_a_ten_thousandth(
    tmp_path: Path,
) -> None:
    class Wide(HashEncoder):
        def encode(
            self,
            inputs: Sequence[Plain],
            *,
            show_progress: bool | None = None,
            prompt: str = "",
        ) -> Vectors:
            return np.stack([vector_of(_bytes(one, prompt), 384) for one in inputs])

    exact = EmbeddingCache(Wide(), tmp_path).encode(TEXTS)
    rounded = EmbeddingCache(Wide(), tmp_path, dtype="float16").encode(TEXTS)
    sizes = [
        (tmp_path / f"one-{dtype}/vectors").stat().st_size
        for dtype in ("float32", "float16")
    ]
    assert sizes[0] == 2 * sizes[1]
    errors = np.abs(exact @ exact.T - rounded @ rounded.T)
    assert 0 < errors.mean() < 1.5e-5
    assert errors.max() < 1e-4
    np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1, atol=1e-6)


def test_what_float16_rounds_is_repaired_only_for_unit_vectors(tmp_path: Path) -> None:
    class Long(HashEncoder):
        def encode(
            self,
            inputs: Sequence[Plain],
            *,
            show_progress: bool | None = None,
            prompt: str = "",
        ) -> Vectors:
            return 2 * super().encode(inputs, prompt=prompt)

    found = EmbeddingCache(Long(), tmp_path, dtype="float16").encode(TEXTS[:9])
    assert (
        np.linalg.norm(found, axis=1) > 1.9
    ).all()  # or nobody would notice such a model


def test_asked_to_stop_it_raises_within_a_block_and_what_was_done_is_kept(
    tmp_path: Path,
) -> None:
    encoder = HashEncoder(seconds=0.001)
    asked = iter([False, False, True])
    store = EmbeddingCache(encoder, tmp_path, should_stop=lambda: next(asked))
    with pytest.raises(Stopped, match="still to encode; the others are kept"):
        store.encode(TEXTS)
    done = list(encoder.asked)
    assert 0 < len(done) < 300
    again = HashEncoder()
    EmbeddingCache(again, tmp_path).encode(TEXTS)
    assert not set(again.asked) & set(done)
    assert len(again.asked) + len(done) == 300


def test_blocks_grow_to_about_two_seconds_and_hold_texts_of_like_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eval.cache, "_FIRST", {"text": 100, "image": 1})
    blocks: list[list[Plain]] = []

    class Counting(HashEncoder):
        def encode(
            self,
            inputs: Sequence[Plain],
            *,
            show_progress: bool | None = None,
            prompt: str = "",
        ) -> Vectors:
            blocks.append(list(inputs))
            return super().encode(inputs, prompt=prompt)

    EmbeddingCache(Counting()).encode(TEXTS)
    lengths = [len(str(text)) for block in blocks for text in block]
    assert lengths == sorted(lengths, reverse=True)
    assert len(blocks) < 12
    assert len(blocks[-1]) > 8 * len(blocks[0])


def test_all_broken_images_are_named_and_all_others_are_encoded(
    tmp_path: Path,
) -> None:
    good = [make_image(number) for number in range(20)]
    (tmp_path / "cut.png").write_bytes(make_image(30)[:60])
    broken: list[Input] = [
        tmp_path / "cut.png",
        Deferred("test/0.tar: 17.jpg", lambda: b"<html>"),
        b"nothing",
    ]
    encoder = HashEncoder()
    store = EmbeddingCache(encoder)
    with pytest.raises(ValueError, match="3 of 23 images cannot be decoded") as caught:
        store.encode([*good[:9], *broken, *good[9:]])
    assert str(tmp_path / "cut.png") in str(caught.value)
    assert "test/0.tar: 17.jpg" in str(caught.value)
    assert "an image of 7 bytes" in str(caught.value)
    assert len(store.encode(good)) == len(encoder.asked) == 20


def test_an_empty_text_and_an_image_that_is_gone_are_named() -> None:
    store = EmbeddingCache(HashEncoder())
    with pytest.raises(ValueError, match=r"input 1 of 2 is ' '"):
        store.encode(["a", " "])
    with pytest.raises(ValueError, match=r"gone\.png cannot be read"):
        store.encode([Path("gone.png")])


def test_memory_forgets_what_was_used_longest_ago_and_encodes_it_again() -> None:
    memory = Memory("float32", max_bytes=3 * 4 * D)
    for name in (b"a", b"b", b"c", b"d"):
        memory.append([name], vector_of(name)[None])
    memory.rows([b"a"])
    memory.trim()
    assert [name in memory for name in (b"a", b"b", b"c", b"d")] == [
        True,
        False,
        True,
        True,
    ]


def test_vectors_of_another_length_are_refused_with_the_way_out(tmp_path: Path) -> None:
    store = VectorFile(tmp_path, "float32")
    store.append([b"k" * 16], np.ones((1, 8), dtype=np.float32))
    with pytest.raises(
        ValueError,
        match=r"keeps vectors of 8 dimensions and these have 4.* name another folder",
    ):
        store.append([b"l" * 16], np.ones((1, 4), dtype=np.float32))


def _filled(folder: Path, blocks: int = 3) -> list[bytes]:
    store = VectorFile(folder, "float32")
    keys = [bytes([number]) * 16 for number in range(4 * blocks)]
    with store.writing(lambda: False):
        for start in range(0, len(keys), 4):
            store.append(
                keys[start : start + 4],
                np.stack([vector_of(key) for key in keys[start : start + 4]]),
            )
    return keys


@pytest.mark.parametrize("file", ["vectors", "index"])
def test_a_flipped_bit_is_an_error_that_names_the_file(
    tmp_path: Path, file: str
) -> None:
    keys = _filled(tmp_path)
    with (tmp_path / file).open("r+b") as opened:
        opened.seek(100)
        byte = opened.read(1)[0]
        opened.seek(100)
        opened.write(bytes([byte ^ 4]))
    with pytest.raises(
        ValueError, match=f"{file} is .*; remove {tmp_path} and encode again"
    ):
        VectorFile(tmp_path, "float32").rows(keys)


@pytest.mark.parametrize("index", range(0, 3 * (28 + 64), 7))
def test_an_index_that_ends_anywhere_loses_its_last_block_and_goes_on(
    tmp_path: Path, index: int
) -> None:
    keys = _filled(tmp_path)
    os.truncate(tmp_path / "index", index)
    store = VectorFile(tmp_path, "float32")
    whole = index // (28 + 64)
    assert [key in store for key in keys] == [
        number < 4 * whole for number in range(12)
    ]
    missing = keys[4 * whole :]
    with store.writing(lambda: False):
        store.append(missing, np.stack([vector_of(key) for key in missing]))
    np.testing.assert_array_equal(
        VectorFile(tmp_path, "float32").rows(keys),
        np.stack([vector_of(k) for k in keys]),
    )


def test_a_lost_power_may_leave_zeros_at_the_end(tmp_path: Path) -> None:
    keys = _filled(tmp_path)
    for file in ("index", "vectors"):
        with (tmp_path / file).open("ab") as opened:
            opened.write(bytes(4096))
    store = VectorFile(tmp_path, "float32")
    with store.writing(lambda: False):
        store.append([b"x" * 16], vector_of(b"x")[None])
    found = VectorFile(tmp_path, "float32").rows([*keys, b"x" * 16])
    np.testing.assert_array_equal(
        found, np.stack([vector_of(key) for key in [*keys, b"x"]])
    )


def test_a_full_disk_is_named_and_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    import resource

    keys = _filled(tmp_path)
    store = VectorFile(tmp_path, "float32")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(
            resource.RLIMIT_FSIZE,
            ((tmp_path / "vectors").stat().st_size + 50, before[1]),
        )
        with (
            store.writing(lambda: False),
            pytest.raises(OSError, match=r"1 vectors could not be written to .*space"),
        ):
            store.append([b"x" * 16], vector_of(b"x")[None])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    again = VectorFile(tmp_path, "float32")
    assert (tmp_path / "vectors").stat().st_size == 12 * 4 * D
    np.testing.assert_array_equal(
        again.rows(keys), np.stack([vector_of(key) for key in keys])
    )


def test_a_second_writer_waits_says_so_and_encodes_nothing_twice(
    tmp_path: Path,
) -> None:
    slow = HashEncoder(seconds=0.004)
    second = HashEncoder()
    thread = threading.Thread(
        target=EmbeddingCache(slow, tmp_path).encode, args=(TEXTS,)
    )
    thread.start()
    while not slow.asked:
        time.sleep(0.01)
    with pytest.warns(
        UserWarning, match="another process is encoding into .*; waiting for it"
    ):
        EmbeddingCache(second, tmp_path).encode(TEXTS)
    thread.join()
    assert len(slow.asked) == 300
    assert not second.asked


def test_waiting_for_another_writer_ends_when_asked_to_stop(tmp_path: Path) -> None:
    held = VectorFile(tmp_path / "one-float32", "float32")
    store = EmbeddingCache(HashEncoder(), tmp_path, should_stop=lambda: True)
    with (
        held.writing(lambda: False),
        pytest.warns(UserWarning, match="waiting"),
        pytest.raises(Stopped),
    ):
        store.encode(["a"])


def test_a_reader_sees_what_a_writer_has_finished_meanwhile(tmp_path: Path) -> None:
    reader = EmbeddingCache(HashEncoder(), tmp_path)
    EmbeddingCache(HashEncoder(), tmp_path).encode(TEXTS)
    reader.encode(TEXTS)
    assert not reader.encoder.asked  # type: ignore[attr-defined]  # a HashEncoder


def _encode_until_killed(folder: Path, counter: Path) -> None:
    class Telling(HashEncoder):
        def encode(
            self,
            inputs: Sequence[Plain],
            *,
            show_progress: bool | None = None,
            prompt: str = "",
        ) -> Vectors:
            with counter.open("a") as file:
                file.writelines(one + "\n" for one in map(str, inputs))
            return super().encode(inputs, prompt=prompt)

    eval.cache._FIRST["text"] = eval.cache._MOST["text"] = (
        400  # many blocks: most kills fall into the writing of one
    )
    EmbeddingCache(Telling(), folder).encode(TEXTS)


def test_kill_9_at_random_moments_loses_a_block_at_most_and_pairs_nothing_wrongly(
    tmp_path: Path,
) -> None:
    context = multiprocessing.get_context(
        "fork"
    )  # spawn would import for seconds before each kill
    counter = tmp_path / "encoded.txt"
    draw = random.Random(0)
    kills = 0
    counter.touch()
    while True:
        process = context.Process(
            target=_encode_until_killed, args=(tmp_path / "store", counter)
        )
        size = counter.stat().st_size
        process.start()
        while process.is_alive() and counter.stat().st_size == size:
            time.sleep(0.0005)
        process.join(draw.uniform(0, 0.006) if kills < 12 else 60)
        if process.exitcode is None:
            kills += 1
        process.kill()
        process.join()
        reader = VectorFile(tmp_path / "store/one-float32", "float32")
        store = EmbeddingCache(HashEncoder(), tmp_path / "store")
        known = {item.key for item in store.missing([Side(TEXTS)])}
        keys = {text: store._key(text, "") for text in TEXTS}
        kept = [text for text in TEXTS if keys[text] not in known]
        if kept:
            vectors = reader.rows([keys[text] for text in kept])
            np.testing.assert_array_equal(
                vectors, np.stack([vector_of(text.encode()) for text in kept])
            )
        if process.exitcode == 0:
            break
    assert kills >= 5
    assert kept == TEXTS
    encoded = counter.read_text().splitlines()
    assert len(set(encoded)) == 300
    assert len(encoded) - 300 <= kills * 18  # texts in a block


def test_an_embedder_is_an_encoder_whose_vectors_are_those_of_one_call(
    tiny_embedder: Callable[[int], Embedder], tmp_path: Path
) -> None:
    embedder = tiny_embedder(0)
    found = EmbeddingCache(embedder, tmp_path).encode(TEXTS, "query")
    np.testing.assert_allclose(found, embedder.encode_query(TEXTS), atol=1e-6)
    assert (tmp_path / f"{embedder.fingerprint()}-float32/vectors").is_file()


def test_another_precision_than_two_is_refused() -> None:
    with pytest.raises(ValueError, match="kept in float32 or float16, not in 'float8'"):
        EmbeddingCache(HashEncoder(), dtype="float8")  # type: ignore[arg-type]  # a user's
