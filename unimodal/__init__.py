"""One embedding space for text and images: `unimodal.load(...)` gives an Embedder.

Names are imported when first used, so that `import unimodal` (and `unimodal --help`) needs no
torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import read_config
    from .embedder import Embedder, load
    from .encoder import Encoder
    from .preprocess.images import decode_image
    from .preprocess.tokenizers import train_tokenizer

__version__ = "0.1.0"
__all__ = [
    "Embedder",
    "Encoder",
    "__version__",
    "decode_image",
    "load",
    "read_config",
    "train_tokenizer",
]

_MODULES = {
    "Embedder": ".embedder",
    "Encoder": ".encoder",
    "decode_image": ".preprocess.images",
    "load": ".embedder",
    "read_config": ".config",
    "train_tokenizer": ".preprocess.tokenizers",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)
