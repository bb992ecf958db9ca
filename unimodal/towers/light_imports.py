"""Import timm and transformers without what they import and a tower does not use.

torchvision, timm and transformers pull in torch's compiler for a handful of functions and
decorators that a tower never calls, and transformers pulls in scipy's optimizer for the loss of
object detection. Together that is more than half of the time that it takes to import them. Here
these functions get a stand-in, which imports the real thing when it is called; whatever else is
asked of the compiler while timm and transformers are imported gives the real one. A submodule that
a newer version imports cannot be found through a stand-in: then the package is imported in the
plain way.
"""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

_COMPILER = {
    "torch._dynamo": (
        "allow_in_graph",
        "assume_constant_result",
    ),  # transformers.integrations
    "torch._dynamo.utils": ("is_compile_supported",),  # torchvision.ops
    "torch._dynamo._trace_wrapped_higher_order_op": (
        "TransformGetItemToIndex",
    ),  # transformers.masking_utils
}
_OPTIMIZER = {"scipy.optimize": ("linear_sum_assignment",)}  # transformers.loss

_LOCK = (
    threading.RLock()
)  # one import at a time: two would put back each other's stand-ins


def import_timm() -> Any:
    """The package timm, which brings torchvision; call it before `import open_clip` too, which
    brings both.
    """
    _import("timm", modules=_COMPILER)
    return sys.modules["timm"]


def import_transformers() -> Any:
    """The package transformers with what every text tower of it imports, ready for `from
    transformers import ...`.
    """
    _import(
        "transformers.modeling_layers",
        "transformers.masking_utils",
        modules=_COMPILER | _OPTIMIZER,
    )
    return sys.modules["transformers"]


def _import(*names: str, modules: dict[str, tuple[str, ...]]) -> None:
    """Import packages while stand-ins stand for `modules`, and without them what that cannot
    import.
    """
    with _LOCK:
        with suppress(ImportError), _later(modules):
            for name in names:
                importlib.import_module(name)

        for name in names:
            importlib.import_module(name)


class _StandIn(ModuleType):
    """Stands for a module that is imported when one of these functions is called, or anything else
    is asked of it.
    """

    def __init__(self, name: str, functions: tuple[str, ...]) -> None:
        super().__init__(name)
        self._functions = functions

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self._functions:
            return getattr(_real(self.__name__), name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if sys.modules.get(self.__name__) is self and _is_decorating(args, kwargs):
                return _decorated(lambda: getattr(_real(self.__name__), name), args[0])
            return getattr(_real(self.__name__), name)(*args, **kwargs)

        return call


@contextmanager
def _later(modules: dict[str, tuple[str, ...]]) -> Iterator[None]:
    """Within, `from module import function` does not import the module, and
    `torch.compiler.disable` no compiler.
    """
    import torch

    stand_ins = {
        name: _StandIn(name, functions)
        for name, functions in modules.items()
        if name not in sys.modules
    }
    if not stand_ins:
        yield
        return

    disable = torch.compiler.disable

    def disable_later(
        function: Callable[..., Any] | None = None, **options: Any
    ) -> Any:
        def decorate(one: Callable[..., Any]) -> Callable[..., Any]:
            return _decorated(lambda: functools.partial(disable, **options), one)

        return decorate if function is None else decorate(function)

    sys.modules.update(stand_ins)
    torch.compiler.disable = disable_later  # type: ignore[assignment]  # as timm.models.naflexvit decorates with it
    try:
        yield
    finally:
        torch.compiler.disable = disable
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


def _real(name: str) -> ModuleType:
    """The module itself; while stand-ins stand for it or its parents, they make way."""
    for other in [
        one for one, module in sys.modules.items() if isinstance(module, _StandIn)
    ]:
        if other.partition(".")[0] == name.partition(".")[0]:
            del sys.modules[other]
    return importlib.import_module(name)


def _is_decorating(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return len(args) == 1 and not kwargs and callable(args[0])


def _decorated(
    decorator: Callable[[], Callable[..., Any]], function: Callable[..., Any]
) -> Callable[..., Any]:
    """The function, decorated when it is called."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return decorator()(function)(*args, **kwargs)

    return call
