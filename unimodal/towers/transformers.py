"""Text towers whose backbone transformers builds.

B batch, L tokens, W width of the tower.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

from torch import Tensor, nn

from ..config import nearest
from ..model_config import TextTowerConfig
from ..weights import check_finite, check_fit
from .pooling import POOLING, AttentionPool

# Buffers that older versions of transformers saved.
_COMPUTED = ("position_ids", "token_type_ids", "inv_freq", "masked_bias")

# Values of a transformers configuration that say nothing about the architecture.
_NOT_ARCHITECTURE = (
    "_name_or_path",
    "architectures",
    "transformers_version",
    "model_type",
    "dtype",
    "torch_dtype",
)

_QUIET = threading.Lock()


class TransformersTower(nn.Module):
    """Token ids and mask (B, L) -> (B, width)."""

    def __init__(self, backbone: nn.Module, width: int, pooling: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.width = width
        self.pooling = pooling
        self.attention_pool = AttentionPool(width) if pooling == "attention" else None

    @property
    def num_tokens(self) -> int:
        """Number of token ids that have an embedding."""
        backbone: Any = self.backbone
        return int(backbone.get_input_embeddings().num_embeddings)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids: (B, L) int64, mask: (B, L) bool, true at real tokens -> (B, width)."""
        # Without padding there is no mask, so that attention takes its fastest path.
        attention_mask = None if bool(mask.all()) else mask.long()
        output = self.backbone(input_ids=ids, attention_mask=attention_mask)
        tokens = output.last_hidden_state  # (B, L, W)
        if self.attention_pool is not None:
            return self.attention_pool(tokens, mask)  # type: ignore[no-any-return]
        return POOLING[self.pooling](tokens, mask)


def build_text_tower(
    config: TextTowerConfig,
) -> tuple[TransformersTower, TextTowerConfig]:
    """Build a transformers tower.

    Returns the tower, and its config with the architecture spelt out, which builds it again
    without a hub.

    Raises ValueError for an unknown name, or a pooling that the backbone does not offer.
    """
    from transformers import AutoModel

    if config.pooling == "native":
        raise ValueError(
            "text.pooling 'native' is for open_clip towers; use 'mean', 'cls', 'last' "
            "or 'attention'."
        )

    settings = _settings_of(config)
    # The saved config of a T5 encoder alone has is_encoder_decoder false, and transformers still
    # builds both halves of it.
    if settings.is_encoder_decoder or hasattr(settings, "num_decoder_layers"):
        raise ValueError(
            f"text.name {config.name!r} is an encoder-decoder, which is not supported; "
            "use an encoder."
        )

    backbone = (
        _load_backbone(config.name, settings)
        if config.pretrained
        else AutoModel.from_config(settings)
    )
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None  # its parameters would never get a gradient
    backbone = backbone.float()

    positions = _num_positions(backbone)
    if positions is not None and config.max_length > positions:
        raise ValueError(
            f"text.max_length {config.max_length} is over {config.name}'s {positions} "
            "positions; lower it."
        )

    resolved = config.model_copy(
        update={
            "name": settings.model_type,
            "pretrained": False,
            "kwargs": _spell_out(settings, config.kwargs),
            "tokenizer": "",
        }
    )
    return TransformersTower(backbone, settings.hidden_size, config.pooling), resolved


def read_settings(name: str, kwargs: Mapping[str, Any]) -> Any:
    """Read the configuration of a transformers model.

    name: a folder or a hub id.
    kwargs: values that replace those of the file.

    Returns the transformers configuration.

    Raises ValueError if there is none, or if the model needs code that is not part of
    transformers: the installed code would build another model under the same name.
    """
    from transformers import AutoConfig, PreTrainedConfig

    try:
        with _quiet():
            values, _ = PreTrainedConfig.get_config_dict(name)
    except (OSError, ValueError) as error:
        raise _not_found(name, error) from None

    _check_settings(name, values)
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False, **kwargs)
    except (OSError, ValueError) as error:
        raise _not_found(name, error) from None


def _check_settings(name: str, values: Any) -> None:
    """Refuse a config.json that does not name an architecture of transformers."""
    from transformers import __version__
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if not isinstance(values, dict):
        raise ValueError(
            f"{name} has a config.json that is not an object; copy it again."
        )
    if not values:
        raise ValueError(
            f"{name} has no config.json that names its architecture; give the folder of a "
            "text encoder."
        )

    code = values.get("auto_map") or {}
    if "AutoConfig" in code or "AutoModel" in code:
        raise ValueError(
            f"{name} is a model with its own code ({code.get('AutoModel') or code['AutoConfig']} "
            "in config.json's auto_map), which is not run here; use a model whose architecture is "
            "part of transformers."
        )

    kind = values.get("model_type")
    if kind is None:
        raise ValueError(
            f"{name} has a config.json without model_type, so its architecture is unknown; "
            "give the folder of a text encoder, or copy it again."
        )
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ValueError(
            f"{name} has model_type {kind!r}, which is not an architecture of transformers "
            f"{__version__}; {nearest(str(kind), list(CONFIG_MAPPING))}"
        )


def _settings_of(config: TextTowerConfig) -> Any:
    """The transformers configuration of a model type, a folder or a hub id."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if config.name not in CONFIG_MAPPING or Path(config.name).is_dir():
        return read_settings(config.name, config.kwargs)
    if config.pretrained:
        raise ValueError(
            f"text.name {config.name!r} is a model type without weights; give a hub "
            "id or a folder."
        )
    return AutoConfig.for_model(config.name, **config.kwargs)


def _spell_out(settings: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The kwargs that build the backbone again from its model type."""
    spelt_out = {
        key: value
        for key, value in settings.to_dict().items()
        if key not in _NOT_ARCHITECTURE
    }
    # to_dict leaves it out, and another attention kernel rounds differently.
    if "attn_implementation" in kwargs:
        spelt_out["attn_implementation"] = kwargs["attn_implementation"]
    return spelt_out


def _load_backbone(name: str, settings: Any) -> Any:
    """Load a pretrained backbone; missing weights are refused, which transformers would draw."""
    from transformers import AutoModel

    try:
        with _quiet():
            backbone, report = AutoModel.from_pretrained(
                name,
                config=settings,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise _not_found(name, error) from None
    # These come from values in config.json that transformers does not check.
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"transformers cannot build the model of {name}'s config.json "
            f"({error!r:.200}); copy the file again."
        ) from None

    source = f"the checkpoint {name}"
    missing = {key for key in report["missing_keys"] if not key.startswith("pooler.")}
    unexpected = {
        key for key in report["unexpected_keys"] if _is_part_of(key, backbone)
    }
    misshapen = {key: (seen, wanted) for key, seen, wanted in report["mismatched_keys"]}
    check_fit(source, missing, unexpected, misshapen)
    backbone.pooler = None
    check_finite(source, backbone.state_dict())
    return backbone


@contextmanager
def _quiet() -> Iterator[None]:
    """Switch off transformers' progress bars and its report of tensors, which check_fit replaces.

    The switches belong to the process, so one thread at a time sets them and puts them back.
    """
    from transformers.utils import logging

    with _QUIET:
        had_bars = logging.is_progress_bar_enabled()
        verbosity = logging.get_verbosity()
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if had_bars:
                logging.enable_progress_bar()


def _is_part_of(key: str, backbone: Any) -> bool:
    """Whether an unexpected tensor belongs to what the backbone computes.

    The pooler, and a head beside the backbone (for masked words or classes), are not used, and
    tables of positions are computed. A tensor inside one of the backbone's own modules means that
    the module is a different one.
    """
    first = key.removeprefix(f"{backbone.base_model_prefix}.").partition(".")[0]
    modules = {name for name, _ in backbone.named_children()} - {"pooler"}
    return first in modules and not key.endswith(_COMPUTED)


def _not_found(name: str, error: Exception) -> ValueError:
    why = shorten(" ".join(str(error).split()), 200, placeholder=" ...")
    return ValueError(
        f"text.name {name!r} is neither a transformers folder, a hub id that can be reached, nor "
        f"a model type such as 'bert' ({why})."
    )


def _num_positions(backbone: nn.Module) -> int | None:
    """The length of a table of learned positions; None where positions are computed."""
    embeddings = getattr(backbone, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return None
    if table.padding_idx is None:
        return table.num_embeddings
    return table.num_embeddings - (table.padding_idx + 1)  # RoBERTa counts from there
