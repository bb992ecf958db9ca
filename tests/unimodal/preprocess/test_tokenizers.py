"""Token ids equal those of the library that a tower comes from, and a tokenizer is complete."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path

import open_clip
import pytest
import torch
from tokenizers import Tokenizer as TokenizerBackend

from unimodal.model_config import (
    TextTowerConfig,
)
from unimodal.preprocess.tokenizers import (
    Tokenizer,
    _clean_as_open_clip,
    clip_tokenizer,
    load_tokenizer,
    pad_ids,
    train_tokenizer,
)

NASTY = [
    "a photo of a cat",
    "",
    " ",
    "\t\n",
    "  A  photo\nof   A CAT  ",
    "don't we'll I'VE it'S they're he'd I'm",
    "fish &amp; chips &lt;b&gt; &amp;amp; &eacute;&#233;",
    "naïve café Ünïcödé ẞ İstanbul ﬁne ﬅ ſ it'ſ",
    "東京タワー 北京 서울",
    "🎉🎉 👩‍👩‍👧 🇩🇪 ❤️",
    "x" * 500,
    "word " * 300,
    "1234567890 3.14 1,000",
    "???!!! ... --- ___ #hash @at",
    "<start_of_text> a <end_of_text> b",
    "\u200b zero \u200d width \ufeff",
    "\x00 \x1c \x85 controls \u2028 \u3000",
    "âœ” schÃ¶n cafÃ©",
    "“quoted” ‘single’",
    "\u0345 a\u0345 b'\u0345",
    "עברית العربية हिन्दी ไทย",
    "𝕬𝖇𝖈 ① Ⅷ ½ ²",
]


def test_clip_ids_equal_open_clips_on_nasty_texts() -> None:
    theirs = open_clip.tokenizer.SimpleTokenizer()
    ours = Tokenizer(
        clip_tokenizer(),
        TextTowerConfig(library="open_clip", name="ViT-B-32", clean="clip"),
    )
    ids, _ = pad_ids(ours(NASTY), 0, 77)
    for text, left, right in zip(
        NASTY, ids.tolist(), theirs(NASTY).tolist(), strict=True
    ):
        assert left == right, repr(text)


def test_clip_ids_equal_open_clips_on_random_letters_of_all_scripts() -> None:
    rng = random.Random(0)
    codes = [*range(1, 0x3100), *range(0xFB00, 0xFFFE), *range(0x1F300, 0x1F700)]
    letters = [
        chr(code) for code in codes if unicodedata.category(chr(code)) != "Cn"
    ]  # assigned since long
    texts = [
        "".join(rng.choices([*letters, *" '!sStT0<>&;"], k=30)) for _ in range(300)
    ]
    theirs = open_clip.tokenizer.SimpleTokenizer()
    ours = Tokenizer(
        clip_tokenizer(),
        TextTowerConfig(library="open_clip", name="ViT-B-32", clean="clip"),
    )
    assert pad_ids(ours(texts), 0, 77)[0].tolist() == theirs(texts).tolist()


@pytest.mark.parametrize("kind", ["lower", "whitespace", "canonicalize"])
def test_plain_texts_are_cleaned_as_open_clip_cleans_them(kind: str) -> None:
    rng = random.Random(0)
    letters = [chr(code) for code in range(32, 127)]
    texts = [
        "".join(rng.choices([*letters, *" .'<>;#"], k=rng.randrange(40)))
        for _ in range(3000)
    ]
    theirs = open_clip.tokenizer.get_clean_fn(kind)
    for text in texts:
        assert _clean_as_open_clip(text, kind) == theirs(text), repr(text)


def test_the_tokenizer_of_an_open_clip_tower_has_its_length(
    open_clip_name: str,
) -> None:
    ours, config = load_tokenizer(
        TextTowerConfig(library="open_clip", name=open_clip_name)
    )
    assert (config.max_length, config.clean) == (16, "clip")
    assert (
        pad_ids(ours(NASTY), 0, 16)[0].tolist()
        == open_clip.get_tokenizer(open_clip_name)(NASTY).tolist()
    )


def test_a_text_is_cut_to_the_length_asked_for(
    text_config: TextTowerConfig, tokenizer: Tokenizer
) -> None:
    assert [len(ids) for ids in tokenizer(["a", "a " * 500])] == [3, 32]
    short = tokenizer.with_max_length(text_config, 5)
    assert [len(ids) for ids in short(["a", "a " * 500])] == [3, 5]
    assert len(tokenizer(["a " * 500])[0]) == 32
    assert short(["a " * 500])[0][-1] == tokenizer(["a"])[0][-1]  # the end stays


def test_a_saved_tokenizer_gives_the_same_ids(
    tmp_path: Path, text_config: TextTowerConfig, tokenizer: Tokenizer, texts: list[str]
) -> None:
    tokenizer.save(tmp_path)
    again, config = load_tokenizer(text_config, tmp_path)
    assert again(texts) == tokenizer(texts)
    assert config == text_config


def test_padding_in_a_tokenizers_file_is_taken_off(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    backend = TokenizerBackend.from_file(str(tokenizer_file))
    backend.enable_padding(length=50)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer, config = load_tokenizer(
        TextTowerConfig(name="bert", tokenizer=str(tmp_path / "tokenizer.json"))
    )
    assert len(tokenizer(["a"])[0]) == 3
    assert config.pad_id == 0


def test_a_tokenizer_that_is_nowhere_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError,
        match=r"no tokenizer found for 'no-one/nothing'.*set text.tokenizer to",
    ):
        load_tokenizer(TextTowerConfig(name="bert", tokenizer="no-one/nothing"))
    with pytest.raises(
        ValueError, match=r"has no tokenizer.json; save the model again"
    ):
        load_tokenizer(TextTowerConfig(name="bert"), tmp_path)


def test_a_trained_tokenizer_depends_on_its_texts_alone(
    tmp_path: Path, texts: list[str]
) -> None:
    files = [tmp_path / str(number) / "tokenizer.json" for number in range(4)]
    for file in files:
        train_tokenizer(iter([*texts, "Ünïcode &amp; 東京"] * 3), file, vocab_size=90)
    assert len({file.read_bytes() for file in files}) == 1
    assert TokenizerBackend.from_file(str(files[0])).get_vocab_size() == 90


def test_a_trained_tokenizer_marks_both_ends_and_what_it_does_not_know(
    tokenizer_file: Path,
) -> None:
    backend = TokenizerBackend.from_file(str(tokenizer_file))
    assert backend.encode("a 東 A").tokens == ["[CLS]", "a", "[UNK]", "a", "[SEP]"]
    assert [
        backend.token_to_id(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    ] == [0, 1, 2, 3]
    assert backend.encode("##a").tokens == [
        "[CLS]",
        "[UNK]",
        "[UNK]",
        "a",
        "[SEP]",
    ]  # only the four are special


def test_lower_case_is_asked_for_by_clean(tokenizer_file: Path) -> None:
    backend = TokenizerBackend.from_file(str(tokenizer_file))
    backend.normalizer = None
    backend.save(str(tokenizer_file.with_name("cased.json")))
    config = TextTowerConfig(
        name="bert", tokenizer=str(tokenizer_file.with_name("cased.json"))
    )
    cased, lower = (
        load_tokenizer(config.model_copy(update={"clean": clean}))[0]
        for clean in ("none", "lower")
    )
    assert cased(["RED ball"]) != cased(["red ball"])
    assert lower(["RED ball"]) == cased(["red ball"])


def test_padding_is_on_the_right_and_masked() -> None:
    ids, mask = pad_ids([[5, 6], [7], [8, 9, 10]], pad_id=1)
    assert ids.tolist() == [[5, 6, 1], [7, 1, 1], [8, 9, 10]]
    assert mask.tolist() == [
        [True, True, False],
        [True, False, False],
        [True, True, True],
    ]
    ids, mask = pad_ids([[5, 6], [7]], pad_id=0, length=4)
    assert ids.tolist() == [[5, 6, 0, 0], [7, 0, 0, 0]]
    assert mask.sum() == 3
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.bool)
