"""One embedding space for text and images: `unimodal.load(...)` gives an Embedder.

Names are imported when first used, so that `import unimodal` (and `unimodal --help`) needs no
torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .embedder import Embedder, load

__version__ = "0.1.0"
__all__ = ["Embedder", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name in ("Embedder", "load"):
        from . import embedder

        return getattr(embedder, name)
    raise AttributeError(f"module 'unimodal' has no attribute {name!r}")
