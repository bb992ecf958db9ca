"""The demo's catalogue: what is held out is held out, and the same seed gives the
same catalogue.
"""

import hashlib
import json
import re
from pathlib import Path

import pytest

from unimodal.demo.catalogue import (
    SPLITS,
    Product,
    build_catalogue,
    plan_products,
    plan_texts,
    read_products,
    read_texts,
    training_texts,
)
from unimodal.demo.words import COLOURS, KINDS, MATERIALS, PATTERNS, SCENES

SMALL = {"num_train": 24, "num_val": 4, "num_test": 8}


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Product]]:
    """The whole default catalogue, without its images."""
    return plan_products(seed=0, num_train=4400, num_val=192, num_test=1024)


def texts_of(products: list[Product]) -> list[str]:
    return [
        text
        for p in products
        for text in (*p.captions, p.title, p.description, p.query)
    ]


def words_of(texts: list[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"[\w-]+", text.lower())}


def names_in(text: str, names: dict[str, list[str]]) -> set[str]:
    """Which entries a text names; the longest name wins, so that "light blue" is
    not also "blue".
    """
    owner = {name: entry for entry, all_names in names.items() for name in all_names}
    pattern = "|".join(re.escape(name) for name in sorted(owner, key=len, reverse=True))
    return {
        owner[found]
        for found in re.findall(rf"(?<![\w-])(?:{pattern})(?![\w-])", text.lower())
    }


def test_splits_share_no_combination_of_kind_colour_and_pattern(
    splits: dict[str, list[Product]],
) -> None:
    train, val, test = (
        {product.identity for product in splits[split]} for split in SPLITS
    )
    assert not train & val
    assert not train & test
    assert not val & test


def test_every_test_product_has_an_identity_of_its_own(
    splits: dict[str, list[Product]],
) -> None:
    assert (
        len(splits["test"])
        == len({product.identity for product in splits["test"]})
        == 1024
    )


def test_every_attribute_is_seen_in_training(splits: dict[str, list[Product]]) -> None:
    seen = {value for product in splits["train"] for value in product.look[:5]}
    assert seen == {*KINDS, *COLOURS, *PATTERNS, *MATERIALS, *SCENES}


def test_every_pair_of_attributes_of_a_test_product_is_seen_in_training(
    splits: dict[str, list[Product]],
) -> None:
    for first, second in ((0, 1), (0, 2), (1, 2)):
        seen = {
            (product.identity[first], product.identity[second])
            for product in splits["train"]
        }
        unseen = {
            (p.identity[first], p.identity[second]) for p in splits["test"]
        } - seen
        assert len(unseen) <= 2, unseen


def test_held_out_wordings_are_new_sentences_of_known_words(
    splits: dict[str, list[Product]],
) -> None:
    held_out = texts_of(splits["test"] + splits["val"])
    documents = [
        text for row in plan_texts(splits["train"], seed=0) for text in row.values()
    ]
    trained = texts_of(splits["train"]) + documents
    assert not set(held_out) & set(trained)
    assert words_of(held_out) <= words_of(trained)


def test_held_out_sentences_stay_out_of_training_whatever_they_are_about(
    splits: dict[str, list[Product]],
) -> None:
    def skeletons(products: list[Product]) -> set[str]:
        names = [
            n
            for table in (KINDS, COLOURS, PATTERNS)
            for entry in table.values()
            for n in entry.names
        ]
        names += [motif for entry in PATTERNS.values() for motif in entry.motifs]
        names += [
            name
            for table in (MATERIALS, SCENES)
            for entry in table.values()
            for name in entry
        ]
        slot = "|".join(
            re.escape(name) for name in sorted(names, key=len, reverse=True)
        )
        texts = [
            text
            for p in products
            for text in (*p.captions, p.title, p.query, *p.description.split(". "))
        ]
        return {
            re.sub(rf"\b(?:an? )?(?:{slot})\b|\$\d+", "_", text.lower()).strip(". ")
            for text in texts
        }

    assert not skeletons(splits["train"]) & skeletons(splits["test"] + splits["val"])


def test_captions_queries_titles_and_descriptions_name_the_product_and_no_other(
    splits: dict[str, list[Product]],
) -> None:
    kinds = {key: list(kind.names) for key, kind in KINDS.items()}
    colours = {key: list(colour.names) for key, colour in COLOURS.items()}
    patterns = {
        key: [*pattern.names, *pattern.motifs] for key, pattern in PATTERNS.items()
    }
    for product in splits["test"] + splits["val"] + splits["train"][:500]:
        for text in (
            *product.captions,
            product.title,
            product.description,
            product.query,
        ):
            assert names_in(text, kinds) == {product.kind}, text
            assert names_in(text, colours) == {product.colour}, text
            assert names_in(text, patterns) == {product.pattern}, text


def test_plan_is_a_function_of_the_seed() -> None:
    assert plan_products(seed=3, **SMALL) == plan_products(seed=3, **SMALL)
    assert plan_products(seed=3, **SMALL) != plan_products(seed=4, **SMALL)


def test_plan_refuses_to_leave_nothing_to_train_on() -> None:
    with pytest.raises(ValueError, match="num_test"):
        plan_products(seed=0, num_train=10, num_val=0, num_test=10**6)


def test_build_writes_all_files_and_finds_them_again(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    built = build_catalogue(folder, size=32, workers=1, **SMALL)
    assert (built.num_train, built.num_val, built.num_test, built.num_texts) == (
        24,
        4,
        8,
        48,
    )
    assert [path.name for path in tmp_path.iterdir()] == [
        "shop"
    ]  # nothing unfinished stays behind
    for split in SPLITS:
        assert all(
            (folder / product.image).is_file()
            for product in read_products(folder, split)
        )
    assert len(read_texts(folder)) == 48
    assert words_of(texts_of(read_products(folder, "train"))) <= words_of(
        list(training_texts(folder))
    )
    written = (folder / "manifest.json").stat().st_mtime_ns
    assert build_catalogue(folder, size=32, workers=1, **SMALL) == built
    assert (folder / "manifest.json").stat().st_mtime_ns == written


def test_two_builds_are_the_same_to_the_byte(tmp_path: Path) -> None:
    for name in ("one", "two"):
        build_catalogue(tmp_path / name, size=32, workers=1, **SMALL)
    files = sorted(
        path.relative_to(tmp_path / "one")
        for path in (tmp_path / "one").rglob("*")
        if path.is_file()
    )
    assert len(files) == 36 + 5
    assert all(
        (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
        for file in files
    )


def test_two_processes_draw_what_one_draws(tmp_path: Path) -> None:
    for workers in (1, 2):
        build_catalogue(
            tmp_path / str(workers),
            size=16,
            workers=workers,
            num_train=120,
            num_val=1,
            num_test=1,
        )
    for image in (tmp_path / "1" / "images").iterdir():
        assert (
            image.read_bytes() == (tmp_path / "2" / "images" / image.name).read_bytes()
        )


def test_build_refuses_a_folder_of_another_seed_or_of_something_else(
    tmp_path: Path,
) -> None:
    build_catalogue(tmp_path / "shop", size=32, workers=1, **SMALL)
    with pytest.raises(ValueError, match="seed 0, not 1"):
        build_catalogue(tmp_path / "shop", seed=1, size=32, workers=1, **SMALL)
    with pytest.raises(ValueError, match="not a catalogue"):
        build_catalogue(tmp_path, size=32, workers=1, **SMALL)


def test_a_failed_build_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("unimodal.demo.catalogue.save_image", full_disk)
    with pytest.raises(OSError, match="no space"):
        build_catalogue(tmp_path / "shop", size=32, workers=1, **SMALL)
    assert not list(tmp_path.iterdir())


def test_the_texts_of_a_seed_are_those_of_the_published_scores() -> None:
    """One changed template changes what the demo's model learns from, and so its scores."""
    products = plan_products(seed=0, num_train=300, num_val=30, num_test=30)
    texts = [
        [product.title, product.description, product.query, *product.captions]
        for split in ("train", "val", "test")
        for product in products[split]
    ]
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    assert digest[:16] == "59cb1d90a24dd8b9"
