"""Long work on rank 0, while the other ranks wait and may be called to help."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from unimodal.distributed import all_reduce_sum, rank, world_size

# What rank 0 sends to the ranks that wait.
_WAIT = 0.0
_CALL = 1.0
_LEAVE = 2.0

_stop_requested = threading.Event()
# Collectives must come in one order: no heartbeat while ranks help.
_turn = threading.Lock()


def on_main(
    work: Callable[[], object],
    timeout: float,
    should_stop: Callable[[], bool] = lambda: False,
    help_out: Callable[[], object] = lambda: None,
) -> None:
    """Run something long on rank 0 while the others wait, as long as rank 0 is alive.

    A thread of rank 0 sends a heartbeat, every second or four times per timeout. If another rank is
    gone, rank 0 raises when the work is done or when it next calls for help.

    should_stop: whether this rank was asked to stop; `stop_requested` then tells the work.
    help_out: what the others do each time that the work is within `called`.
    """
    if world_size() == 1:
        work()
    elif rank() == 0:
        _work_and_send_heartbeats(work, min(1.0, timeout / 4))
    else:
        _wait_and_help(should_stop, help_out)


def stop_requested() -> bool:
    """Within the work of `on_main`: whether another rank was asked to stop."""
    return _stop_requested.is_set()


@contextmanager
def called() -> Iterator[None]:
    """Within the work of `on_main`: the other ranks run `help_out`, this rank the block."""
    with _turn:
        _send(_CALL)
        yield


def _work_and_send_heartbeats(work: Callable[[], object], interval: float) -> None:
    done = threading.Event()
    failures: list[BaseException] = []

    def send_heartbeats() -> None:
        try:
            while not done.wait(interval):
                with _turn:
                    _send(_WAIT)
        except BaseException as error:  # a peer is gone: raised once the work is done
            failures.append(error)

    _stop_requested.clear()
    thread = threading.Thread(target=send_heartbeats, daemon=True)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
        if not failures:
            _send(_LEAVE)
    if failures:
        raise failures[0]


def _wait_and_help(
    should_stop: Callable[[], bool], help_out: Callable[[], object]
) -> None:
    while True:
        message = all_reduce_sum([_WAIT, should_stop()])[0]
        if message == _LEAVE:
            return
        if message == _CALL:
            help_out()


def _send(message: float) -> None:
    if all_reduce_sum([message, 0.0])[1]:
        _stop_requested.set()
