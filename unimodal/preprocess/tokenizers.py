"""Tokenizers: loading, checking and training them, and token ids of one length."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as TokenizerBackend
from torch import Tensor

from ..inputs import check_unicode
from ..model_config import TextTowerConfig

_FEWEST_WORDS = 10  # of a vocabulary, without its special tokens


class Tokenizer:
    """Text -> token ids, cut to `max_length`.

    It calls the `tokenizers` backend directly, at half the cost of the transformers wrapper.
    """

    def __init__(self, backend: TokenizerBackend, config: TextTowerConfig) -> None:
        backend.no_padding()
        backend.enable_truncation(config.max_length)
        self.backend = backend
        self._clean = _CLEAN[config.clean]
        self._pad_id = config.pad_id

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, not padded.

        Raises ValueError for a text that is not valid Unicode, with its place in `texts`.
        """
        if self._clean is not None:
            texts = [self._clean(text) for text in texts]
        try:
            encodings = self.backend.encode_batch_fast(list(texts))
        except TypeError:  # the library does not name the text that it cannot read
            for row, text in enumerate(texts):
                check_unicode(text, f"text {row}:")
            raise
        return [encoding.ids for encoding in encodings]

    def fit_to(self, num_tokens: int) -> None:
        """Make all ids smaller than `num_tokens`, the number of a text tower's embeddings.

        Special tokens with larger ids that no plain text contains (`<image_soft_token>` of Gemma 3)
        become plain text.

        Raises ValueError if other tokens have larger ids: the tokenizer belongs to another tower.
        """
        added = self.backend.get_added_tokens_decoder()
        num_words = self.backend.get_vocab_size(with_added_tokens=False)
        beyond = {id: token for id, token in added.items() if id >= num_tokens}
        needed = {*self.backend.encode("").ids, self._pad_id}
        is_foreign = any(
            id in needed or not token.special for id, token in beyond.items()
        )
        if num_words > num_tokens or is_foreign:
            size = max([num_words, *(id + 1 for id in added)])
            raise ValueError(
                f"the tokenizer has {size:,} tokens and the text tower embeds {num_tokens:,}; "
                "give the tokenizer that belongs to the tower (text.tokenizer), or a tower with "
                "a larger vocab_size."
            )

        if beyond:
            settings = json.loads(self.backend.to_str())
            settings["added_tokens"] = [
                token for token in settings["added_tokens"] if token["id"] < num_tokens
            ]
            self.backend = TokenizerBackend.from_str(json.dumps(settings))

    def is_cut(self, text: str) -> bool:
        """Whether the text is longer than `max_length`, so that its end is cut off."""
        cleaned = text if self._clean is None else self._clean(text)
        return bool(self.backend.encode(cleaned).overflowing)

    def with_max_length(self, config: TextTowerConfig, max_length: int) -> Tokenizer:
        """The same tokenizer at another text length (a task's own)."""
        backend = TokenizerBackend.from_str(self.backend.to_str())
        return Tokenizer(backend, config.model_copy(update={"max_length": max_length}))

    def save(self, folder: Path) -> None:
        """Write tokenizer.json into a folder."""
        self.backend.save(str(folder / "tokenizer.json"))


def load_tokenizer(
    config: TextTowerConfig, folder: Path | None = None
) -> tuple[Tokenizer, TextTowerConfig]:
    """Load the tokenizer of a text tower.

    folder: a model directory, whose tokenizer.json is read; None: `config.tokenizer` or
        `config.name` names the tokenizer.

    Returns the tokenizer, and the config with its `pad_id`, `max_length` and `clean`.

    Raises ValueError if there is no tokenizer.
    """
    if folder is not None:
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ValueError(
                f"model directory {folder} has no tokenizer.json; save the model again "
                "or copy the file there."
            )
        return Tokenizer(_read_tokenizer(file), config), config
    if config.library == "open_clip" and not config.tokenizer:
        return _open_clip_tokenizer(config)
    return _named_tokenizer(config)


def _named_tokenizer(config: TextTowerConfig) -> tuple[Tokenizer, TextTowerConfig]:
    """The tokenizer of a tokenizer.json, a folder or a hub id."""
    name = config.tokenizer or config.name
    file = Path(name) if Path(name).is_file() else Path(name) / "tokenizer.json"
    settings = tokenizer_settings(name)
    if file.is_file() and not settings:
        backend = _read_tokenizer(file)
        pad_id = _find_pad_id(backend)
        special: list[str] = []
    else:
        wrapper = _read_transformers_tokenizer(name, settings)
        backend = wrapper.backend_tokenizer
        pad_id = wrapper.pad_token_id
        special = wrapper.all_special_tokens
    _check_words(name, backend, special)
    _check_unknown_words(name, backend)
    if pad_id is not None:
        config = config.model_copy(update={"pad_id": pad_id})
    return Tokenizer(backend, config), config


def _find_pad_id(backend: TokenizerBackend) -> int | None:
    for token in ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>"):
        token_id = backend.token_to_id(token)
        if token_id is not None:
            return token_id
    return None


def tokenizer_settings(name: str) -> dict[str, Any]:
    """Read the tokenizer_config.json of a folder or a hub id; a missing one is empty.

    Raises ValueError if it is not JSON.
    """
    file = Path(name) / "tokenizer_config.json"
    if not file.is_file() and Path(name).exists():
        return {}
    try:
        if file.is_file():
            settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        else:
            from transformers.models.auto.tokenization_auto import get_tokenizer_config

            settings = get_tokenizer_config(name)
    except OSError:
        return {}
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}); copy it again.") from None
    return settings


def _read_transformers_tokenizer(name: str, settings: Mapping[str, Any]) -> Any:
    """Load a tokenizer by transformers: tokenizer_config.json may override tokenizer.json."""
    from transformers import AutoTokenizer

    if "AutoTokenizer" in (settings.get("auto_map") or {}):
        raise ValueError(
            f"{name} has a tokenizer with its own code (tokenizer_config.json's auto_map), which "
            "is not run here; set text.tokenizer to one that is part of transformers."
        )
    try:
        wrapper = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        wrapper.backend_tokenizer  # noqa: B018  # a slow tokenizer has none
    # The library raises many types where there is no tokenizer under that name.
    except Exception as error:
        raise _no_tokenizer(name, error) from None
    _check_side(name, wrapper.truncation_side)
    return wrapper


def _no_tokenizer(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"no tokenizer found for {name!r} ({' '.join(str(error).split())[:120]}); "
        "set text.tokenizer to a hub id, a folder or a tokenizer.json."
    )


def _check_side(name: str | Path, side: str) -> None:
    """Refuse a tokenizer that keeps the end of a long text; ours keep its beginning."""
    if side.lower() != "right":
        raise ValueError(
            f"{name} cuts long texts at the {side.lower()} (truncation_side in "
            "tokenizer_config.json, or the direction of truncation in tokenizer.json), which is "
            "not supported; use a tokenizer that cuts at the right."
        )


def _check_words(name: str, backend: TokenizerBackend, special: Sequence[str]) -> None:
    """Refuse a tokenizer without words.

    transformers silently makes one from a folder that has no files of a tokenizer.
    """
    added = {str(token) for token in backend.get_added_tokens_decoder().values()}
    words = backend.get_vocab(with_added_tokens=False).keys() - added - set(special)
    if len(words) < _FEWEST_WORDS:
        raise ValueError(
            f"no tokenizer found for {name!r} (its vocabulary has {len(words)} words, so every "
            "text would be the same); copy the tokenizer's files there, or set text.tokenizer "
            "to a hub id, a folder or a tokenizer.json."
        )


def _check_unknown_words(name: str, backend: TokenizerBackend) -> None:
    """Refuse an incomplete vocabulary: without its token for unknown words some texts fail."""
    try:
        backend.encode("\N{SNOWMAN} snowman's")
    except Exception as error:  # the library raises nothing more precise
        raise ValueError(
            f"the tokenizer of {name!r} cannot read every text ({error}); its files are "
            "incomplete, so copy them again."
        ) from None


def _read_tokenizer(file: Path) -> TokenizerBackend:
    try:
        backend = TokenizerBackend.from_file(str(file))
    except Exception as error:  # the library raises nothing more precise
        raise ValueError(
            f"{file} is not a readable tokenizer.json ({error}); copy it again."
        ) from None
    _check_side(file, (backend.truncation or {}).get("direction", "right"))
    return backend


def _open_clip_tokenizer(config: TextTowerConfig) -> tuple[Tokenizer, TextTowerConfig]:
    import open_clip

    try:
        tokenizer = open_clip.get_tokenizer(config.name)
    except Exception as error:  # as of transformers' own tokenizers
        raise _no_tokenizer(config.name, error) from None
    config = config.model_copy(update={"max_length": tokenizer.context_length})
    if not isinstance(tokenizer, open_clip.tokenizer.HFTokenizer):
        config = config.model_copy(update={"clean": "clip", "pad_id": 0})
        return Tokenizer(clip_tokenizer(), config), config

    if tokenizer.strip_sep_token or tokenizer.tokenizer_mode:
        raise ValueError(
            f"the tokenizer of {config.name} changes ids in a way that is not "
            "supported; use another model."
        )
    wrapper = tokenizer.tokenizer
    _check_words(config.name, wrapper.backend_tokenizer, wrapper.all_special_tokens)
    config = config.model_copy(
        update={
            "clean": _clean_of(tokenizer.clean_fn),
            "pad_id": wrapper.pad_token_id or 0,
        }
    )
    return Tokenizer(wrapper.backend_tokenizer, config), config


def _clean_of(function: Callable[[str], str]) -> str:
    """Our name of open_clip's function that cleans texts."""
    from open_clip.tokenizer import get_clean_fn

    for kind in ("whitespace", "canonicalize"):
        if function is get_clean_fn(kind):
            return kind
    return "clip"


def clip_tokenizer() -> TokenizerBackend:
    """CLIP's byte-pair encoding (Radford et al., 2021) from the merges that open_clip ships.

    The ids are those of open_clip's SimpleTokenizer, two to three times faster.
    """
    from open_clip.tokenizer import bytes_to_unicode, default_bpe

    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    pairs = (line.split() for line in lines)
    merges = [(first, second) for first, second in pairs]
    letters = list(bytes_to_unicode().values())
    special = ["<start_of_text>", "<end_of_text>"]
    words = (
        letters
        + [letter + "</w>" for letter in letters]
        + ["".join(merge) for merge in merges]
        + special
    )
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = TokenizerBackend(
        models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>")
    )
    backend.add_special_tokens(special)
    backend.normalizer = normalizers.Lowercase()
    # CLIP's expression ignores case: it reads a long s as an s, and U+0345, whose capital is a
    # letter, matches nothing.
    pattern = (
        r"'[s\x{17F}]|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}\x{345}]+"
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{special[0]} $A {special[1]}",
        special_tokens=[(token, vocabulary[token]) for token in special],
    )
    return backend


def train_tokenizer(texts: Iterable[str], file: Path, vocab_size: int) -> None:
    """Train a lower-case WordPiece tokenizer (BERT's) and write it as a tokenizer.json.

    The same texts give the same file.
    """
    texts = list(texts)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    learner = _word_pieces(models.WordPiece(unk_token="[UNK]"))
    # The trainer numbers the letters inside words in the order of a hash table, and breaks ties by
    # number. Numbered here, in order, they make the result depend on the texts only.
    letters: set[str] = set()
    for text in texts:
        normal = learner.normalizer.normalize_str(text)
        for word, _ in learner.pre_tokenizer.pre_tokenize_str(normal):
            letters.update(word[1:])
    inside = sorted(f"##{letter}" for letter in letters)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=special + inside, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    backend = _word_pieces(models.WordPiece(learner.get_vocab(), unk_token="[UNK]"))
    backend.add_special_tokens(special)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[
            ("[CLS]", special.index("[CLS]")),
            ("[SEP]", special.index("[SEP]")),
        ],
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    backend.save(str(file))


def _word_pieces(model: models.WordPiece) -> TokenizerBackend:
    backend = TokenizerBackend(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend


def _clean_as_open_clip(text: str, kind: str) -> str:
    is_plain = text.isascii() and text.isprintable() and "&" not in text
    if kind != "canonicalize" and is_plain:
        # Nothing to repair; this takes a tenth of the time.
        text = " ".join(text.split())
        return text.lower() if kind == "lower" else text
    from open_clip.tokenizer import get_clean_fn

    return str(get_clean_fn(kind)(text))


_CLEAN: dict[str, Callable[[str], str] | None] = {
    "none": None,
    "lower": str.lower,
    "clip": partial(_clean_as_open_clip, kind="lower"),
    "whitespace": partial(_clean_as_open_clip, kind="whitespace"),
    "canonicalize": partial(_clean_as_open_clip, kind="canonicalize"),
}


def pad_ids(
    token_ids: Sequence[Sequence[int]], pad_id: int, length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Pad token ids to the longest, or to `length`.

    Returns ids (B, L) int64 and mask (B, L) bool, true at real tokens.
    """
    longest = length or max(len(ids) for ids in token_ids)
    padded = np.full((len(token_ids), longest), pad_id, dtype=np.int64)
    lengths = np.array([len(ids) for ids in token_ids])
    mask = np.arange(longest)[None, :] < lengths[:, None]
    padded[mask] = np.concatenate(
        [np.asarray(ids, dtype=np.int64) for ids in token_ids]
    )
    return torch.from_numpy(padded), torch.from_numpy(mask)
