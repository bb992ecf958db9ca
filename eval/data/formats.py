"""Readers of published data sets of images and of pairs, in their own layouts.

Images stay where they lie, in a tar or a folder, until they are encoded.
"""

from __future__ import annotations

import functools
import itertools
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from unimodal.config import nearest
from unimodal.preprocess.image_formats import IMAGE_EXTENSIONS
from unimodal.shards.index import load_index
from unimodal.shards.read import ShardSet, open_shards
from unimodal.shards.sample import (
    Sample,
    captions_of,
    image_bytes_of,
    layout_rule,
    text_pair_of,
)
from unimodal.tables.files import is_hidden

from .from_rows import pair_data
from .hub import table_files, table_rows
from .inputs import Deferred, Input
from .pairs import PairData
from .retrieval import RetrievalData
from .zero_shot import ZeroShotData

TarMember: TypeAlias = tuple[Path, int, int]  # the file of the tar, offset and size


def read_webdataset(
    folder: Path, split: str = "test", images: tuple[int, int | None] = (0, None)
) -> RetrievalData | ZeroShotData:
    """A data set of CLIP_benchmark, as in clip-benchmark/wds_* of the hub.

    The layout is described at https://github.com/LAION-AI/CLIP_benchmark.

    folder: holds SPLIT/nshards.txt, SPLIT/0.tar, ... and dataset_type.txt with the word retrieval
        (images with a .txt of one caption a line), or classnames.txt and
        zeroshot_classification_templates.txt (images with a .cls). Without dataset_type.txt it is
        retrieval if every image has a .txt and none a .cls.
    images: the first one and the one behind the last, by position.

    Every caption is a query, as in CLIP_benchmark, even if two images share it.
    Raises ValueError, naming file and sample, for what is missing or cannot be read.
    """
    samples = list(
        itertools.islice(_tar_samples(_tars(folder, split)), images[0], images[1])
    )
    inputs: list[Input] = [_image(key, parts) for key, parts in samples]
    if _is_retrieval(folder / "dataset_type.txt", samples):
        captions = [_lines(_text(key, parts, "txt")) for key, parts in samples]
        return _captioned(inputs, captions, [key for key, _ in samples])
    labels = [_label(key, parts) for key, parts in samples]
    words = [
        _lines(_read_text(folder / name))
        for name in ("classnames.txt", "zeroshot_classification_templates.txt")
    ]
    class_names, templates = words
    return ZeroShotData(inputs, labels, class_names, templates)


def read_shards(shards: str | Sequence[str]) -> RetrievalData | PairData:
    """Our shards, local or remote: images with captions, pairs of texts, or pairs with a score.

    shards: a file, folder, glob, brace pattern, URL or a list of those.

    Texts that say the same query are merged, as are equal documents. Raises ValueError, naming the
    shard, for one that is cut short, for kinds that are mixed, and for samples that cannot be used.
    """
    opened = open_shards(shards)
    if opened.truncated:
        shard, why = next(iter(opened.truncated.items()))
        raise ValueError(
            f"shard {shard} is not whole ({why}); fetch or pack it again, as a part of a "
            "set gives other scores."
        )
    places = [
        (shard, sample)
        for shard, count in enumerate(opened.num_samples)
        for sample in range(count)
    ]
    kinds = {_is_image(opened.extensions(*place)) for place in places}
    if len(kinds) != 1:
        what = "both images and pairs of texts" if kinds else "no sample"
        raise ValueError(f"shards {shards!r} hold {what}; give those of one kind.")
    samples = (
        (place, sample)
        for start in range(0, len(places), 64)
        for place, sample in zip(
            places[start : start + 64],
            opened.read_many(places[start : start + 64]),
            strict=True,
        )
    )
    return _of_images(opened, samples) if kinds == {True} else _of_pairs(samples)


def read_crossmodal3600(
    folder: Path, languages: Sequence[str], *, first_caption: bool = False
) -> dict[str, RetrievalData]:
    """Crossmodal-3600 (Thapliyal et al., 2022) in some of its 36 languages.

    folder: holds captions.jsonl and images/KEY.jpg.

    first_caption: of the two or three of an image only the first, as CLIP_benchmark takes it; mteb
        takes all.

    Raises ValueError for a missing file and for a language that it has not.
    """
    images: list[Input] = []
    captions: dict[str, list[list[str]]] = {language: [] for language in languages}
    keys: list[str] = []
    for line in _read_text(folder / "captions.jsonl").split("\n"):
        if not line.strip():
            continue
        row = json.loads(line)
        keys.append(str(row["image/key"]))
        images.append(folder / "images" / f"{keys[-1]}.jpg")
        for language, found in captions.items():
            if language not in row:
                there = nearest(
                    language,
                    [name for name, value in row.items() if isinstance(value, dict)],
                )
                raise ValueError(
                    f"language {language!r} is not in {folder / 'captions.jsonl'}; {there}"
                )
            found.append(row[language]["caption"][: 1 if first_caption else None])
    return {
        language: _captioned(images, found, keys)
        for language, found in captions.items()
    }


def read_xtd10(folder: Path, language: str) -> RetrievalData:
    """XTD10 (Aggarwal & Kale, 2020): 1,000 images of COCO with a caption in one of 11 languages.

    folder: the repository adobe-research/Cross-lingual-Test-Dataset-XTD10 (XTD10/, MIC/ for German
        and French, STAIR/ for Japanese) with the images in images/.
    """
    captions = {
        path.stem.removeprefix("test_1kcaptions_"): path
        for part in ("XTD10", "MIC", "STAIR")
        for path in sorted((folder / part).glob("test_1kcaptions_*.txt"))
    }
    if language not in captions:
        raise ValueError(
            f"language {language!r} is not in {str(folder)!r}; {nearest(language, captions)}"
        )
    names = _lines(_read_text(folder / "XTD10" / "test_image_names.txt"))
    texts = _lines(_read_text(captions[language]))
    if len(names) != len(texts):
        raise ValueError(
            f"{captions[language]} has {len(texts)} captions for {len(names)} images; "
            "fetch it again."
        )
    return _captioned(
        [folder / "images" / name for name in names], [[text] for text in texts], names
    )


def read_hub_pairs(
    folder: Path,
    split: str,
    subset: str = "",
    fields: tuple[str, str, str] = ("sentence1", "sentence2", "score"),
) -> PairData:
    """Pairs with a similarity score, as in mteb/stsbenchmark-sts of the hub.

    subset: a language pair or year of a repository that holds several ("en-en"). fields: left,
        right and score.
    """
    rows = table_rows(
        table_files(
            folder, [subset or "default", ""] if not subset else [subset], split
        )
    )
    return pair_data(enumerate(rows), *fields)


def _captioned(
    images: list[Input], captions: list[list[str]], keys: list[str]
) -> RetrievalData:
    """Each caption is a query for its image; its id is the key of the image and a number."""
    without = next(
        (key for key, texts in zip(keys, captions, strict=True) if not texts), None
    )
    if without is not None:
        raise ValueError(f"image {without!r} has no caption; leave it out of the set.")
    owners = [number for number, texts in enumerate(captions) for _ in texts]
    return RetrievalData(
        queries=[text for texts in captions for text in texts],
        documents=images,
        relevant=[[owner] for owner in owners],
        query_ids=[
            f"{key}-{number}"
            for key, texts in zip(keys, captions, strict=True)
            for number in range(len(texts))
        ],
        document_ids=keys,
        both_ways=True,
    )


def _is_retrieval(
    kind: Path, samples: Sequence[tuple[str, dict[str, TarMember]]]
) -> bool:
    if kind.is_file():
        return kind.read_text(encoding="utf-8").strip() == "retrieval"
    return bool(samples) and all(
        "txt" in parts and "cls" not in parts for _, parts in samples
    )


def _tars(folder: Path, split: str) -> list[Path]:
    count = folder / split / "nshards.txt"
    if count.is_file():
        return [folder / split / f"{number}.tar" for number in range(_number_in(count))]
    tars = [path for path in (folder / split).glob("*.tar") if not is_hidden(path.name)]
    if tars:
        warnings.warn(
            f"{count} is missing, so the {len(tars)} shards beside it are taken for all of them",
            stacklevel=3,
        )
        return sorted(tars, key=lambda path: (len(path.name), path.name))
    splits = sorted({path.parent.name for path in folder.glob("*/*.tar")})
    if splits:
        raise ValueError(
            f"split {split!r} is not in {str(folder)!r}; {nearest(split, splits)}"
        )
    raise ValueError(
        f"{str(folder)!r} has no {split}/nshards.txt and no {split}/*.tar, which a webdataset "
        "task is read from; fetch it again, or give its shards to a task of kind shards."
    )


def _number_in(file: Path) -> int:
    text = file.read_text(encoding="utf-8").strip()
    if not text.isdecimal():
        raise ValueError(
            f"{file} holds {text[:40]!r}, and it is the number of shards; repair it."
        )
    return int(text)


def _tar_samples(tars: Sequence[Path]) -> Iterator[tuple[str, dict[str, TarMember]]]:
    """Key of each sample, unique in the set, and where its parts lie."""
    for tar in tars:
        index = load_index(tar)
        if index.truncated:
            raise ValueError(
                f"shard {tar} is not whole ({index.truncated}); fetch it again."
            )
        for sample in range(len(index)):
            parts = {
                extension: (tar, offset, size)
                for extension, (offset, size) in index.parts(sample).items()
            }
            yield f"{tar.stem}/{index.key(sample)}", parts


def _image(key: str, parts: dict[str, TarMember]) -> Deferred:
    extension = next((name for name in IMAGE_EXTENSIONS if name in parts), None)
    if extension is None:
        raise ValueError(
            f"sample {key!r} has no image; its parts are {', '.join(parts)}; "
            f"{layout_rule(parts)}."
        )
    tar = parts[extension][0]
    return Deferred(
        f"{tar}:{key.partition('/')[2]}.{extension}",
        functools.partial(_read_part, parts[extension]),
    )


def _read_part(member: TarMember) -> bytes:
    path, offset, size = member
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) != size:
        raise ValueError(
            f"shard {path} ends before its byte {offset + size:,}; fetch it again."
        )
    return content


def _text(key: str, parts: dict[str, TarMember], extension: str) -> str:
    if extension not in parts:
        raise ValueError(
            f"sample {key!r} of {_path_of(parts)} has no .{extension}; its parts are "
            f"{', '.join(parts)}; {layout_rule(parts)}."
        )
    try:
        return _read_part(parts[extension]).decode()
    except UnicodeDecodeError:
        raise ValueError(
            f"the .{extension} of sample {key!r} of {_path_of(parts)} is not UTF-8; repair it."
        ) from None


def _label(key: str, parts: dict[str, TarMember]) -> int:
    text = _text(key, parts, "cls")
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"the class of sample {key!r} is {text[:20]!r}; it must be a number."
        ) from None


def _path_of(parts: dict[str, TarMember]) -> Path:
    return next(iter(parts.values()))[0]


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{str(path)!r} does not exist; fetch the data set again.")
    return path.read_text(encoding="utf-8")


def _lines(text: str) -> list[str]:
    # not splitlines, which splits at U+2028 too
    return [line.strip() for line in text.split("\n") if line.strip()]


def _is_image(extensions: Sequence[str]) -> bool:
    return any(extension in IMAGE_EXTENSIONS for extension in extensions)


Samples: TypeAlias = Iterator[tuple[tuple[int, int], Sample]]


def _of_images(shards: ShardSet, samples: Samples) -> RetrievalData:
    images: list[Input] = []
    captions = []
    keys = []
    for (shard, number), sample in samples:
        keys.append(f"{Path(str(shards.paths[shard])).stem}/{sample.key}")
        captions.append(captions_of(sample))
        images.append(
            Deferred(
                f"{shards.paths[shard]}:{sample.key}",
                functools.partial(_read_sample, shards, shard, number),
            )
        )
    return _captioned(images, captions, keys)


def _read_sample(shards: ShardSet, shard: int, number: int) -> bytes:
    return image_bytes_of(shards.read(shard, number))


def _of_pairs(samples: Samples) -> RetrievalData | PairData:
    pairs = [text_pair_of(sample) for _, sample in samples]
    scores = [pair.score for pair in pairs if pair.score is not None]
    if len(scores) == len(pairs):
        return PairData(
            [pair.query for pair in pairs], [pair.document for pair in pairs], scores
        )
    if scores:
        raise ValueError(
            f"{len(scores)} of {len(pairs)} pairs have a score; give those with one apart."
        )
    positions: dict[str, int] = {}
    relevant: dict[str, dict[int, None]] = {}
    for pair in pairs:
        for text in (pair.document, *pair.negatives):
            positions.setdefault(text, len(positions))
        relevant.setdefault(pair.query, {})[positions[pair.document]] = None
    return RetrievalData(
        list(relevant), list(positions), [list(found) for found in relevant.values()]
    )
