"""Files and folders appear whole or not at all, and a lock has one holder."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from unimodal.files import (
    append,
    checksum_of,
    locked,
    part_of,
    remove_folder,
    replace_folder,
    replace_text,
    replacing_file,
    replacing_folder,
)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_temporary_name_lies_beside_its_file(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    assert part_of(file) == tmp_path / "model.bin.part"
    assert part_of(file, hidden=True) == tmp_path / ".model.bin.part"
    unique = part_of(file, unique=True)
    assert unique != part_of(file, unique=True)
    assert (unique.parent, unique.suffix) == (tmp_path, ".part")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "list.json"
    replace_text(file, "old")
    with suppress(KeyError), replacing_file(file) as part:
        part.write_text("ne")
        raise KeyError
    assert file.read_text() == "old"
    assert _names(tmp_path) == ["list.json"]


def test_a_replaced_file_has_the_new_content(tmp_path: Path) -> None:
    file = tmp_path / "list.json"
    for text in ("old", "newer"):
        replace_text(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert _names(tmp_path) == ["list.json"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with replacing_folder(folder) as part:
        (part / "weights").write_text("old")
    with suppress(OSError), replacing_folder(folder) as part:
        (part / "weights").write_text("ne")
        raise OSError
    assert (folder / "weights").read_text() == "old"
    assert _names(tmp_path) == ["model"]


def test_what_a_killed_process_left_is_not_mixed_into_the_next_folder(
    tmp_path: Path,
) -> None:
    for name in (".set.part", ".set.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "left").touch()
    with replacing_folder(tmp_path / "set", hidden=True) as part:
        (part / "new").touch()
    assert _names(tmp_path) == ["set"]
    assert _names(tmp_path / "set") == ["new"]


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    for name in ("made", "set"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace_folder(tmp_path / "made", tmp_path / "set")
    assert _names(tmp_path) == ["set"]
    assert _names(tmp_path / "set") == ["made"]


def test_a_removed_folder_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "step-1" / "optimizer").mkdir(parents=True)
    (tmp_path / "step-1.part").mkdir()
    remove_folder(tmp_path / "step-1")
    assert not _names(tmp_path)


def test_appended_bytes_follow_those_that_were_there(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        append(tmp_path / "vectors", memoryview(content))
    assert (tmp_path / "vectors").read_bytes() == b"onetwo"


def test_a_checksum_is_the_size_and_the_sha256(tmp_path: Path) -> None:
    content = os.urandom(5 << 20)  # more than one block
    (tmp_path / "file").write_bytes(content)
    checksum = checksum_of(tmp_path / "file")
    assert checksum == (len(content), hashlib.sha256(content).hexdigest())


def test_a_lock_has_one_holder_among_threads(tmp_path: Path) -> None:
    held = []

    def try_lock() -> None:
        with locked(tmp_path / "lock", timeout=0) as is_held:
            held.append(is_held)

    with locked(tmp_path / "lock") as is_held:
        assert is_held
        thread = threading.Thread(target=try_lock)
        thread.start()
        thread.join()
    try_lock()
    assert held == [False, True]


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    order = []

    def wait() -> None:
        with locked(tmp_path / "lock"):
            order.append("second")

    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_the_content_of_a_lock_file_survives_those_who_wait(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with locked(lock):
        lock.write_text("process 7")
        with locked(lock, timeout=0) as is_held:
            assert not is_held
        assert lock.read_text() == "process 7"


def test_a_lock_whose_file_was_removed_meanwhile_is_not_shared(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with locked(lock):
        lock.unlink()
        with locked(lock, timeout=0) as is_held:
            assert is_held  # another file, which others see too
            with locked(lock, timeout=0) as is_held_again:
                assert not is_held_again


HOLDER = """
import sys, time
from pathlib import Path
from unimodal.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, lock], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with locked(lock, timeout=0) as is_held:
            assert not is_held
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with locked(lock, timeout=0) as is_held:
            assert is_held
    finally:
        holder.kill()
        holder.wait()


def _child_lock(lock: Path, held: multiprocessing.SimpleQueue[bool]) -> None:
    with locked(lock, timeout=0) as is_held:
        held.put(is_held)


def test_a_forked_child_does_not_inherit_the_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held: multiprocessing.SimpleQueue[bool] = context.SimpleQueue()
    with locked(tmp_path / "lock"):
        child = context.Process(target=_child_lock, args=(tmp_path / "lock", held))
        child.start()
        assert not held.get()
        child.join()
