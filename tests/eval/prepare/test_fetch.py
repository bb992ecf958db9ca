"""Files arrive whole, whatever the line does, and a failure is one sentence."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from eval.prepare.fetch import fetch_file, fetch_from_hub
from tests.eval.prepare.conftest import COMMIT, Origins
from unimodal.shards.storage import Patience

CONTENT = bytes(range(256)) * 4096  # a MiB


def test_a_file_comes_as_it_is(
    origins: Origins, tmp_path: Path, patience: Patience
) -> None:
    origins.files["/a.zip"] = CONTENT
    seen: list[int] = []
    fetch_file(
        f"{origins.url}/a.zip",
        tmp_path / "new" / "a.zip",
        patience,
        1 << 21,
        seen.append,
    )
    assert (tmp_path / "new" / "a.zip").read_bytes() == CONTENT
    assert seen[-1] == len(CONTENT)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.zip"]


def test_a_line_that_breaks_is_taken_up_where_it_broke(
    origins: Origins, tmp_path: Path, patience: Patience
) -> None:
    origins.files["/a"] = CONTENT
    origins.faults = [(300_000,), 503, (600_000,)]
    fetch_file(f"{origins.url}/a", tmp_path / "a", patience, 1 << 21)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert [asked for _, asked in origins.asked] == [
        "",
        "bytes=300000-",
        "bytes=300000-",
        "bytes=900000-",
    ]


def test_a_later_try_takes_up_what_an_earlier_one_left(
    origins: Origins, tmp_path: Path
) -> None:
    origins.files["/a"] = CONTENT
    origins.faults = [(500_000,), *[503] * 50]
    with pytest.raises(OSError, match="could not be read in"):
        fetch_file(f"{origins.url}/a", tmp_path / "a", Patience(deadline=0.3), 1 << 21)
    assert not (tmp_path / "a").exists()
    origins.faults = []
    origins.asked = []
    fetch_file(f"{origins.url}/a", tmp_path / "a", Patience(deadline=1), 1 << 21)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert origins.asked == [("/a", "bytes=500000-")]


def test_half_of_a_file_that_has_changed_since_is_not_resumed(
    origins: Origins, tmp_path: Path
) -> None:
    origins.files["/a"] = CONTENT
    origins.faults = [(500_000,), *[503] * 50]
    with pytest.raises(OSError, match="could not be read"):
        fetch_file(f"{origins.url}/a", tmp_path / "a", Patience(deadline=0.3), 1 << 21)
    origins.faults, origins.files["/a"] = [], CONTENT[::-1]
    fetch_file(f"{origins.url}/a", tmp_path / "a", Patience(deadline=1), 1 << 21)
    assert (tmp_path / "a").read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_sends_all_again(
    origins: Origins, tmp_path: Path, patience: Patience
) -> None:
    origins.files["/a"], origins.ranges, origins.faults = CONTENT, False, [(500_000,)]
    fetch_file(f"{origins.url}/a", tmp_path / "a", patience, 1 << 21)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_parts_that_are_more_than_the_file_are_thrown_away(
    origins: Origins, tmp_path: Path, patience: Patience
) -> None:
    import hashlib

    origins.files["/a"] = CONTENT
    (tmp_path / "a.part").write_bytes(CONTENT + b"more")
    (tmp_path / "a.etag").write_text(f'"{hashlib.sha1(CONTENT).hexdigest()}"')
    fetch_file(f"{origins.url}/a", tmp_path / "a", patience, 1 << 21)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_missing_file_is_named_at_once(origins: Origins, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="nothing cannot be read: it does not exist"
    ):
        fetch_file(f"{origins.url}/nothing", tmp_path / "a", Patience(deadline=60), 100)
    assert len(origins.asked) == 1


def test_too_large_a_file_is_refused_before_it_comes(
    origins: Origins, tmp_path: Path, patience: Patience
) -> None:
    origins.files["/a"] = CONTENT
    with pytest.raises(ValueError, match=r"1,048,576 bytes, more than the 1,000"):
        fetch_file(f"{origins.url}/a", tmp_path / "a", patience, 1000)
    assert not list(tmp_path.glob("a*"))


def test_a_file_of_unknown_length_comes_whole_or_is_refused_when_it_is_too_large(
    origins: Origins, tmp_path: Path, patience: Patience
) -> None:
    origins.files["/a"], origins.lengths = CONTENT, False
    fetch_file(f"{origins.url}/a", tmp_path / "a", patience, 1 << 21)
    assert (tmp_path / "a").read_bytes() == CONTENT
    with pytest.raises(ValueError, match="has more than 600,000 bytes"):
        fetch_file(f"{origins.url}/a", tmp_path / "b", patience, 600_000)
    assert not (tmp_path / "b").exists()


def test_the_wanted_files_of_a_repository_come(
    origins: Origins, tmp_path: Path, patience: Patience
) -> None:
    origins.repositories["someone/wds_set"] = {
        "test/0.tar": CONTENT,
        "train/0.tar": b"large",
        "dataset_type.txt": b"retrieval",
        "README.md": b"",
    }
    commit = fetch_from_hub(
        "someone/wds_set",
        "main",
        ["test/*", "dataset_type.txt"],
        tmp_path / "set",
        patience,
    )
    assert commit == COMMIT
    assert (tmp_path / "set" / "test" / "0.tar").read_bytes() == CONTENT
    assert (tmp_path / "set" / "dataset_type.txt").read_bytes() == b"retrieval"
    assert not (tmp_path / "set" / "train").exists()
    assert not origins.paths("train/0.tar")


def test_a_busy_hub_is_queried_again_for_missing_files_only(
    origins: Origins, tmp_path: Path
) -> None:
    origins.repositories["someone/set"] = {"a.txt": b"one", "b.txt": b"two"}
    patience = Patience(deadline=30)
    fetch_from_hub("someone/set", "main", ["a.txt"], tmp_path / "set", patience)
    origins.asked = []
    origins.faults = [502]
    fetch_from_hub("someone/set", "main", ["*"], tmp_path / "set", patience)
    assert (tmp_path / "set" / "b.txt").read_bytes() == b"two"
    assert not origins.paths("a.txt")


def test_a_missing_repository_is_named(origins: Origins, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="the hub has no data set 'someone/nothing' at 'main'"
    ):
        fetch_from_hub(
            "someone/nothing", "main", ["*"], tmp_path / "set", Patience(deadline=60)
        )


NOWHERE = {
    "name": "http://nowhere.invalid",
    "port": "http://127.0.0.1:9",
}  # that nobody knows, that is closed


@pytest.mark.parametrize("endpoint", NOWHERE.values(), ids=NOWHERE)
def test_an_unreachable_hub_is_an_error_within_seconds(
    monkeypatch: pytest.MonkeyPatch, origins: Origins, tmp_path: Path, endpoint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    started = time.monotonic()
    with pytest.raises(
        OSError,
        match=rf"^someone/set could not be fetched: {endpoint} cannot be reached \(\[Errno ",
    ):
        fetch_from_hub(
            "someone/set", "main", ["*"], tmp_path / "set", Patience(deadline=60)
        )
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("origin", NOWHERE.values(), ids=NOWHERE)
def test_an_unreachable_server_is_an_error_within_seconds(
    origins: Origins, tmp_path: Path, origin: str
) -> None:
    started = time.monotonic()
    with pytest.raises(
        OSError,
        match=rf"^{origin}/a could not be fetched: {origin} cannot be reached .*a network\?$",
    ):
        fetch_file(f"{origin}/a", tmp_path / "a", Patience(deadline=60), 100)
    assert time.monotonic() - started < 15


def test_a_forbidden_hub_is_an_error_at_once(
    monkeypatch: pytest.MonkeyPatch, origins: Origins, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    started = time.monotonic()
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set"):
        fetch_from_hub(
            "someone/set", "main", ["*"], tmp_path / "set", Patience(deadline=60)
        )
    assert time.monotonic() - started < 15


@pytest.mark.filterwarnings("ignore:.*retrying for")
def test_an_origin_that_was_reached_before_is_waited_for(
    origins: Origins, tmp_path: Path
) -> None:
    reached: set[str] = set()
    origins.files["/a"] = CONTENT
    fetch_file(
        f"{origins.url}/a",
        tmp_path / "a",
        Patience(deadline=60),
        1 << 21,
        reached=reached,
    )
    assert reached == {origins.url}
    with pytest.raises(OSError, match=r"could not be read in [5-9] tries"):
        fetch_file(
            "http://127.0.0.1:9/a",
            tmp_path / "b",
            Patience(deadline=3),
            1,
            reached={"http://127.0.0.1:9"},
        )
