"""What the parts of a server tell each other about its state."""

from __future__ import annotations


class Lifecycle:
    """Whether the server is shutting down, and whether its store can be searched."""

    draining = False  # not ready any more, although requests are still accepted
    cut_off = 0  # requests that were dropped at the end
    store_fault = ""  # why the store cannot be searched, without any path; "" if it can
