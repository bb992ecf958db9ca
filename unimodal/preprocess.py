"""What happens to an image and a text before a tower sees them: one spec for training, evaluation and serving.

Pixels travel as uint8 and are normalised on the device (model.py), which moves a quarter of the bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError, features
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as TokenizerBackend
from torch import Tensor

from .config import PreprocessConfig, TextTowerConfig
from .inputs import check_unicode

MAX_PIXELS = 40_000_000  # a header that claims more is refused before a byte of it is decoded
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", *(["AVIF"] if features.check("avif") else []))

# Pillow warns above a cap of its own, which is higher: load_image refuses these. For the process: a filter of its own
# is not for a thread to set.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_INTERPOLATION = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0)}
_NAMES = " or ".join(", ".join({"WEBP": "WebP"}.get(name, name) for name in FORMATS).rsplit(", ", 1))


class UnusableImageError(ValueError):
    """An image that can be read and not be used."""


class TooManyPixelsError(UnusableImageError):
    """An image over the cap."""


def decode_image(
    source: bytes | Path | Image.Image,
    max_pixels: int = MAX_PIXELS,
    transparency: str = "white",
) -> Image.Image:
    """An image as RGB: first frame, turned as its EXIF says, decoded whole, laid over white where it is transparent.

    max_pixels, transparency, raises: as `load_image` and `to_rgb`.
    """
    return to_rgb(load_image(source, max_pixels), transparency)


def load_image(
    source: bytes | Path | Image.Image,
    max_pixels: int = MAX_PIXELS,
    formats: Sequence[str] = FORMATS,
) -> Image.Image:
    """An image in the mode it is stored in: first frame, turned as its EXIF says, decoded whole.

    The one judge of what is an image: training, evaluation, indexing, packing and serving all ask here.

    max_pixels: the cap on width x height.
    formats: what a file may be, by Pillow's names.

    Raises ValueError for what is not an image, cannot be decoded to its end, has no pixels, has pixels without a known
    range (32-bit integers, floating point), or whose header claims more than `max_pixels`.
    """
    name = _name_of(source)
    if isinstance(source, Path) and not source.is_file():
        fault = "is not a file" if source.exists() else "does not exist"
        raise ValueError(f"image {name} {fault}; give the path of an image file.")
    try:
        if isinstance(source, Image.Image):
            return _checked(source, name, max_pixels)
        file = source if isinstance(source, Path) else io.BytesIO(source)
        with Image.open(file, formats=tuple(formats)) as image:
            return _checked(image, name, max_pixels)
    except (UnusableImageError, MemoryError):
        raise
    except Image.DecompressionBombError:  # Pillow does not say the size of what is over twice its own cap
        message = f"{name} is over the cap of {max_pixels} pixels; scale it down first."
        raise TooManyPixelsError(message) from None
    except Exception as error:  # decoders raise whatever a broken file leads them into
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "unknown format" if unknown else " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} is not a readable image ({reason}); give {_NAMES}.") from None


def _name_of(source: bytes | Path | Image.Image) -> str:
    if isinstance(source, Image.Image):
        return "the PIL image"
    return str(source) if isinstance(source, Path) else f"{len(source)} bytes"


def _checked(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        message = f"{name} is {width} x {height} pixels, over the cap of {max_pixels} pixels; scale it down first."
        raise TooManyPixelsError(message)

    if not width * height:
        message = f"{name} is {width} x {height} pixels; give an image of at least one pixel."
        raise UnusableImageError(message)

    if image.mode in ("I", "F"):
        numbers = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        message = f"{name} has pixels of {numbers}, whose range it does not say; convert it to 8 or 16 bits."
        raise UnusableImageError(message)

    key = _colour_key(image)
    image.load()  # which turns a TIFF by itself

    turn = _TURNS.get(orientation_of(image))
    if turn is not None:
        image = image.transpose(turn)
        image.info = {name: value for name, value in image.info.items() if name not in _ORIENTED}

    if key != image.info.get("transparency"):
        image = image.copy()
        image.info["transparency"] = key

    return image.convert("LA") if image.mode == "La" else image  # from La Pillow knows no way to RGB


# EXIF orientation -> how to undo it. Not ImageOps.exif_transpose: it writes the EXIF anew and fails on broken ones.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_ORIENTED = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # what may say that it is still to be turned


def orientation_of(image: Image.Image) -> int:
    """The EXIF (or XMP) orientation of an opened image, 1 to 8; 1 where there is none, or a broken one."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, ValueError, TypeError, KeyError, AttributeError, struct.error):  # of broken EXIF
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


# What Pillow multiplies the samples of a PNG by, or shifts them by, and forgets to do to the transparent colour.
_KEY_SCALES = {"1": 255, "L;2": 85, "L;4": 17}


def _colour_key(image: Image.Image) -> Any:
    """The colour (or palette entry) that is transparent, in the values of the decoded pixels; None without one.

    Of 16 bits a channel Pillow keeps the high byte, and so does the key.
    """
    key = image.info.get("transparency")
    tile = getattr(image, "tile", None)
    layout = tile[0][3] if tile and image.mode != "P" else None
    if isinstance(key, int) and layout in _KEY_SCALES:
        scale = _KEY_SCALES[layout]
        return key if key > 255 // scale else key * scale
    if isinstance(key, tuple) and layout == "RGB;16B":
        return tuple(value >> 8 for value in key)
    return key


def to_rgb(image: Image.Image, transparency: str = "white") -> Image.Image:
    """A loaded image as RGB: the image itself where it is RGB already.

    transparency: as in PreprocessConfig.
    """
    if transparency == "open_clip":
        return image.convert("RGB")
    if transparency in _COLOURS and image.has_transparency_data:
        image = _with_alpha(image)
        canvas = Image.new("RGB", image.size, _COLOURS[transparency])
        canvas.paste(image, mask=image)
        return canvas
    if image.mode.startswith("I;16"):
        image = _high_bytes(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _with_alpha(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        grey = _high_bytes(image)
        alpha = np.where(np.asarray(image) == image.info["transparency"], 0, 255)
        return Image.merge("LA", (grey, Image.fromarray(alpha.astype(np.uint8)))).convert("RGBA")
    return image.convert("RGBA")


def _high_bytes(image: Image.Image) -> Image.Image:
    # convert() clips: all but the darkest 1/256 of the range would be white
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def to_png(image: Image.Image, compress_level: int = 6) -> bytes:
    """A loaded image as a PNG that decodes to the same pixels and keeps what is transparent."""
    if image.has_transparency_data and image.mode != "P":
        image = _with_alpha(image)
    elif image.mode not in ("1", "L", "P", "RGB", "I;16"):
        image = to_rgb(image)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=compress_level, icc_profile=None)
    return file.getvalue()


def image_to_pixels(image: Image.Image, config: PreprocessConfig) -> Tensor:
    """Make a loaded image RGB, resize and crop it as the spec says -> (3, S, S) uint8.

    Raises ValueError for an image so narrow that what is to be cropped would not fit in memory.
    """
    if config.transparency == "open_clip":
        return pixels_of(to_rgb(_resized(image, config), "open_clip"))
    return pixels_of(_resized(to_rgb(image, config.transparency), config))


def _resized(image: Image.Image, config: PreprocessConfig) -> Image.Image:
    """S x S pixels, in the mode of the image."""
    size, method = config.image_size, _INTERPOLATION[config.interpolation]
    width, height = image.size
    if config.resize == "squash":
        return image.resize((size, size), method)

    if config.resize == "crop":
        # The long edge is cut to an integer as torchvision's Resize does, so that pixels equal open_clip's.
        scaled = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
        if scaled[0] * scaled[1] > MAX_PIXELS:
            raise ValueError(
                f"an image of {width} x {height} pixels is too narrow to crop; crop it first, or use a model whose "
                "preprocess.resize is 'pad'."
            )
        image = image if scaled == image.size else image.resize(scaled, method)
        left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
        return image.crop((left, top, left + size, top + size))

    scale = size / max(width, height)
    scaled = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = Image.new(image.mode, (size, size))
    if image.mode == "P":
        canvas.putpalette(image.getpalette() or [])
    canvas.paste(image.resize(scaled, method), ((size - scaled[0]) // 2, (size - scaled[1]) // 2))
    return canvas


def pixels_of(image: Image.Image) -> Tensor:
    """(3, H, W) uint8 of an RGB image as it is."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


_FEWEST_WORDS = 10  # of a vocabulary, beside its special tokens


class Tokenizer:
    """Text -> token ids, cut to `max_length`; the `tokenizers` backend of every tower (half the cost of a wrapper)."""

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
        cleaned = texts if self._clean is None else [self._clean(text) for text in texts]
        try:
            encodings = self.backend.encode_batch_fast(list(cleaned))
        except TypeError:  # the library does not say which text it cannot read
            for row, text in enumerate(texts):
                check_unicode(text, f"text {row}:")
            raise
        return [encoding.ids for encoding in encodings]

    def fit_to(self, num_tokens: int) -> None:
        """See to it that all ids are below `num_tokens`, the rows of a text tower's table of embeddings.

        Special tokens beyond them that no text has of its own (`<image_soft_token>` of Gemma 3) become plain text.

        Raises ValueError if other tokens are beyond them: the tokenizer is that of another tower.
        """
        added = self.backend.get_added_tokens_decoder()
        num_words = self.backend.get_vocab_size(with_added_tokens=False)
        beyond = {id: token for id, token in added.items() if id >= num_tokens}
        needed = {*self.backend.encode("").ids, self._pad_id}
        is_foreign = any(id in needed or not token.special for id, token in beyond.items())
        if num_words > num_tokens or is_foreign:
            size = max([num_words, *(id + 1 for id in added)])
            raise ValueError(
                f"the tokenizer has {size:,} tokens and the text tower embeds {num_tokens:,}; give the tokenizer that "
                "belongs to the tower (text.tokenizer), or a tower with a larger vocab_size."
            )

        if beyond:
            settings = json.loads(self.backend.to_str())
            settings["added_tokens"] = [token for token in settings["added_tokens"] if token["id"] < num_tokens]
            self.backend = TokenizerBackend.from_str(json.dumps(settings))

    def is_cut(self, text: str) -> bool:
        """Whether the text is longer than `max_length`, so that its end is left out."""
        cleaned = text if self._clean is None else self._clean(text)
        return bool(self.backend.encode(cleaned).overflowing)

    def with_max_length(self, config: TextTowerConfig, max_length: int) -> Tokenizer:
        """The same tokenizer at another text length (a task's own)."""
        backend = TokenizerBackend.from_str(self.backend.to_str())
        return Tokenizer(backend, config.model_copy(update={"max_length": max_length}))

    def save(self, folder: Path) -> None:
        """Write tokenizer.json into a folder."""
        self.backend.save(str(folder / "tokenizer.json"))


def load_tokenizer(config: TextTowerConfig, folder: Path | None = None) -> tuple[Tokenizer, TextTowerConfig]:
    """The tokenizer of a text tower, and its config with `pad_id`, `max_length` and `clean` made definite.

    folder: a model directory, whose tokenizer.json is read. Without it, `config.tokenizer` or `config.name` says which.
    Raises ValueError if there is none.
    """
    if folder is not None:
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ValueError(
                f"model directory {folder} has no tokenizer.json; save the model again or copy the file there."
            )
        return Tokenizer(_read_tokenizer(file), config), config
    if config.library == "open_clip" and not config.tokenizer:
        return _open_clip_tokenizer(config)
    name = config.tokenizer or config.name
    file = Path(name) if Path(name).is_file() else Path(name) / "tokenizer.json"
    settings = tokenizer_settings(name)
    if file.is_file() and not settings:
        backend = _read_tokenizer(file)
        known = (backend.token_to_id(token) for token in ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>"))
        pad_id = next((token_id for token_id in known if token_id is not None), config.pad_id)
        special: list[str] = []
    else:
        wrapper = _read_transformers_tokenizer(name, settings)
        backend = wrapper.backend_tokenizer
        pad_id = wrapper.pad_token_id if wrapper.pad_token_id is not None else config.pad_id
        special = wrapper.all_special_tokens
    _check_words(name, backend, special)
    _check_unknown_words(name, backend)
    config = config.model_copy(update={"pad_id": pad_id})
    return Tokenizer(backend, config), config


def tokenizer_settings(name: str) -> dict[str, Any]:
    """The tokenizer_config.json of a folder or a hub id; empty where there is none.

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
    """The tokenizer as transformers makes it: tokenizer_config.json may change what tokenizer.json says."""
    from transformers import AutoTokenizer

    if "AutoTokenizer" in (settings.get("auto_map") or {}):
        raise ValueError(
            f"{name} has a tokenizer of its own code (tokenizer_config.json's auto_map), which is not run here, and "
            "another one would give other tokens; set text.tokenizer to one that transformers itself has."
        )
    try:
        wrapper = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        wrapper.backend_tokenizer  # noqa: B018  # a slow tokenizer has none
    except Exception as error:  # the library raises many kinds for one fact: there is no tokenizer under that name
        raise _no_tokenizer(name, error) from None
    _check_side(name, wrapper.truncation_side)
    return wrapper


def _no_tokenizer(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"no tokenizer found for {name!r} ({' '.join(str(error).split())[:120]}); "
        "set text.tokenizer to a hub id, a folder or a tokenizer.json."
    )


def _check_side(name: str | Path, side: str) -> None:
    """Refuse a tokenizer that keeps the end of a long text: ours keep its beginning."""
    if side.lower() != "right":
        raise ValueError(
            f"{name} cuts long texts at the {side.lower()} (truncation_side in tokenizer_config.json, or the direction "
            "of truncation in tokenizer.json), which is not supported; use a tokenizer that cuts at the right."
        )


def _check_words(name: str, backend: TokenizerBackend, special: Sequence[str]) -> None:
    """Refuse a tokenizer without words: transformers makes one, quietly, of a folder without a tokenizer's files."""
    added = {str(token) for token in backend.get_added_tokens_decoder().values()}
    words = backend.get_vocab(with_added_tokens=False).keys() - added - set(special)
    if len(words) < _FEWEST_WORDS:
        raise ValueError(
            f"no tokenizer found for {name!r} (its vocabulary has {len(words)} words, so every text would be the "
            "same); copy the tokenizer's files there, or set text.tokenizer to a hub id, a folder or a tokenizer.json."
        )


def _check_unknown_words(name: str, backend: TokenizerBackend) -> None:
    """Refuse a vocabulary that was cut short: without its token for unknown words a text with one would fail."""
    try:
        backend.encode("\N{SNOWMAN} snowman's")
    except Exception as error:  # the library raises nothing more precise
        raise ValueError(
            f"the tokenizer of {name!r} cannot read every text ({error}); its files are not whole, so copy them again."
        ) from None


def _read_tokenizer(file: Path) -> TokenizerBackend:
    try:
        backend = TokenizerBackend.from_file(str(file))
    except Exception as error:  # the library raises nothing more precise
        raise ValueError(f"{file} is not a tokenizer.json that can be read ({error}); copy it again.") from None
    _check_side(file, (backend.truncation or {}).get("direction", "right"))
    return backend


def _open_clip_tokenizer(config: TextTowerConfig) -> tuple[Tokenizer, TextTowerConfig]:
    import open_clip

    try:
        tokenizer = open_clip.get_tokenizer(config.name)
    except Exception as error:  # as of transformers' own tokenizers
        raise _no_tokenizer(config.name, error) from None
    length = tokenizer.context_length
    if isinstance(tokenizer, open_clip.tokenizer.HFTokenizer):
        if tokenizer.strip_sep_token or tokenizer.tokenizer_mode:
            raise ValueError(
                f"the tokenizer of {config.name} changes ids in a way that is not supported; use another model."
            )
        cleaners = {open_clip.tokenizer.get_clean_fn(kind): kind for kind in ("whitespace", "canonicalize")}
        clean = cleaners.get(tokenizer.clean_fn, "clip")
        pad_id = tokenizer.tokenizer.pad_token_id or 0
        config = config.model_copy(update={"clean": clean, "pad_id": pad_id, "max_length": length})
        backend = tokenizer.tokenizer.backend_tokenizer
        _check_words(config.name, backend, tokenizer.tokenizer.all_special_tokens)
        return Tokenizer(backend, config), config
    config = config.model_copy(update={"clean": "clip", "pad_id": 0, "max_length": length})
    return Tokenizer(clip_tokenizer(), config), config


def clip_tokenizer() -> TokenizerBackend:
    """CLIP's byte-pair encoding (Radford et al., 2021) from the merges that open_clip ships, without downloading.

    The ids are those of open_clip's SimpleTokenizer, two to three times faster; a test compares them.
    """
    from open_clip.tokenizer import bytes_to_unicode, default_bpe

    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        merges = [(line.split()[0], line.split()[1]) for line in file.read().split("\n")[1 : 49152 - 256 - 2 + 1]]
    letters = list(bytes_to_unicode().values())
    special = ["<start_of_text>", "<end_of_text>"]
    words = letters + [letter + "</w>" for letter in letters] + ["".join(merge) for merge in merges] + special
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = TokenizerBackend(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>"))
    backend.add_special_tokens(special)
    backend.normalizer = normalizers.Lowercase()
    # Its expression ignores case: a long s is an s there, and U+0345, whose capital is a letter, matches nothing.
    pattern = r"'[s\x{17F}]|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}\x{345}]+"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{special[0]} $A {special[1]}", special_tokens=[(token, vocabulary[token]) for token in special]
    )
    return backend


def train_tokenizer(texts: Iterable[str], file: Path, vocab_size: int) -> None:
    """Learn a lower-casing WordPiece vocabulary (BERT's) from texts and write it as a tokenizer.json.

    The same texts give the same file.
    """
    texts, special = list(texts), ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    learner = _word_pieces(models.WordPiece(unk_token="[UNK]"))
    # The trainer numbers the letters inside words in the order of a hash table, and breaks ties by number. Numbered
    # here, in order, they make the result depend on the texts alone.
    normal = map(learner.normalizer.normalize_str, texts)
    words = {word for text in normal for word, _ in learner.pre_tokenizer.pre_tokenize_str(text)}
    inside = sorted({f"##{letter}" for word in words for letter in word[1:]})
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=special + inside, show_progress=False)
    learner.train_from_iterator(texts, trainer)
    backend = _word_pieces(models.WordPiece(learner.get_vocab(), unk_token="[UNK]"))
    backend.add_special_tokens(special)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", special.index("[CLS]")), ("[SEP]", special.index("[SEP]"))]
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    backend.save(str(file))


def _word_pieces(model: models.WordPiece) -> TokenizerBackend:
    backend = TokenizerBackend(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend


def _clean_as_open_clip(text: str, kind: str) -> str:
    if kind != "canonicalize" and text.isascii() and text.isprintable() and "&" not in text:
        text = " ".join(text.split())  # nothing to repair, a tenth of the time
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


def pad_ids(token_ids: Sequence[Sequence[int]], pad_id: int, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Pad to the longest (or to `length`) -> ids (B, L) int64 and mask (B, L) bool, true at real tokens."""
    longest = length or max(len(ids) for ids in token_ids)
    padded = np.full((len(token_ids), longest), pad_id, dtype=np.int64)
    lengths = np.array([len(ids) for ids in token_ids])
    mask = np.arange(longest)[None, :] < lengths[:, None]
    padded[mask] = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in token_ids])
    return torch.from_numpy(padded), torch.from_numpy(mask)
