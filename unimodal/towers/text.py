"""Text towers: a transformers backbone or the text half of an open_clip model, by name.

B batch, L tokens, W width of the tower.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

from torch import Tensor, nn

from ..config import nearest
from ..model_config import TextTowerConfig
from ..weights import check_finite, check_fit
from .light_imports import import_transformers
from .open_clip import open_clip_model, without_folder
from .pooling import POOLING, AttentionPool

_COMPUTED = (
    "position_ids",
    "token_type_ids",
    "inv_freq",
    "masked_bias",
)  # buffers that older versions saved


class TextTower(nn.Module):
    """Token ids and mask (B, L) -> (B, width)."""

    def __init__(
        self, backbone: nn.Module, width: int, pooling: str, is_open_clip: bool
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.width = width
        self.pooling = pooling
        self.attention_pool = AttentionPool(width) if pooling == "attention" else None
        self._is_open_clip = is_open_clip

    @property
    def num_tokens(self) -> int:
        """How many token ids it has a row for."""
        backbone: Any = self.backbone
        if hasattr(backbone, "token_embedding"):
            return int(backbone.token_embedding.num_embeddings)
        if self._is_open_clip:
            backbone = backbone.transformer
        return int(backbone.get_input_embeddings().num_embeddings)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids: (B, L) int64, mask: (B, L) bool, true at real tokens -> (B, width)."""
        if self._is_open_clip:
            output = self.backbone(ids)
            if self.pooling == "native":
                return output  # type: ignore[no-any-return]  # nn.Module calls are untyped
            tokens = output[1]  # (B, L, W)
        else:
            # No mask where nothing is padded: the attention then takes its fastest path.
            attention_mask = None if bool(mask.all()) else mask.long()
            tokens = self.backbone(
                input_ids=ids, attention_mask=attention_mask
            ).last_hidden_state  # (B, L, W)
        pool = (
            self.attention_pool
            if self.attention_pool is not None
            else POOLING[self.pooling]
        )
        return pool(tokens, mask)  # type: ignore[no-any-return]


def build_text_tower(config: TextTowerConfig) -> tuple[TextTower, TextTowerConfig]:
    """Make the tower, and its config with the architecture spelt out, so that it can be built again
    without a hub.

    Raises ValueError for an unknown name, or a pooling that the backbone does not offer.
    """
    return (
        _from_transformers if config.library == "transformers" else _from_open_clip
    )(config)


def _from_transformers(config: TextTowerConfig) -> tuple[TextTower, TextTowerConfig]:
    import_transformers()
    from transformers import AutoConfig, AutoModel
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if config.pooling == "native":
        raise ValueError(
            "text.pooling 'native' is for open_clip towers; use 'mean', 'cls', 'last' "
            "or 'attention'."
        )

    if config.name in CONFIG_MAPPING and not Path(config.name).is_dir():
        if config.pretrained:
            raise ValueError(
                f"text.name {config.name!r} is a model type without weights; give a hub "
                "id or a folder."
            )
        settings = AutoConfig.for_model(config.name, **config.kwargs)
    else:
        settings = read_settings(config.name, config.kwargs)
    # The config of a T5 encoder that was saved alone says False, and transformers makes both halves
    # of it all the same.
    if settings.is_encoder_decoder or hasattr(settings, "num_decoder_layers"):
        raise ValueError(
            f"text.name {config.name!r} is an encoder-decoder, which is not supported; "
            "use an encoder."
        )

    backbone = (
        _read_backbone(config.name, settings)
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
    spelt_out = {
        key: value
        for key, value in settings.to_dict().items()
        if key
        not in (
            "_name_or_path",
            "architectures",
            "transformers_version",
            "model_type",
            "dtype",
            "torch_dtype",
        )
    }
    if (
        "attn_implementation" in config.kwargs
    ):  # to_dict leaves it out, and another kernel rounds otherwise
        spelt_out["attn_implementation"] = config.kwargs["attn_implementation"]
    resolved = config.model_copy(
        update={
            "name": settings.model_type,
            "pretrained": False,
            "kwargs": spelt_out,
            "tokenizer": "",
        }
    )
    return TextTower(backbone, settings.hidden_size, config.pooling, False), resolved


def read_settings(name: str, kwargs: Mapping[str, Any]) -> Any:
    """Read the configuration of a transformers model.

    name: a folder or a hub id.
    kwargs: values that replace those of the file.

    Returns the transformers configuration.

    Raises ValueError if there is none, or if the model is made by code that this does not have:
    transformers would build something else of the same name, and its vectors would be others.
    """
    import_transformers()
    from transformers import AutoConfig, PreTrainedConfig, __version__
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        with _quiet():
            values, _ = PreTrainedConfig.get_config_dict(name)
    except (OSError, ValueError) as error:
        raise _not_found(name, error) from None

    if not isinstance(values, dict):
        raise ValueError(
            f"{name} has a config.json that is not an object; copy it again."
        )
    if not values:
        raise ValueError(
            f"{name} has no config.json that says what model it is; give the folder of a "
            "text encoder."
        )

    code = values.get("auto_map") or {}
    if "AutoConfig" in code or "AutoModel" in code:
        raise ValueError(
            f"{name} is a model of its own code ({code.get('AutoModel') or code['AutoConfig']} "
            "in config.json's auto_map), which is not run here, and other code would give other "
            "vectors; use a model of an architecture that transformers itself has."
        )

    kind = values.get("model_type")
    if kind is None:
        raise ValueError(
            f"{name} has a config.json without model_type, so its architecture is not known; "
            "give the folder of a text encoder, or copy it again."
        )
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ValueError(
            f"{name} has model_type {kind!r}, which is not an architecture that transformers "
            f"{__version__} knows; {nearest(str(kind), list(CONFIG_MAPPING))}"
        )

    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False, **kwargs)
    except (OSError, ValueError) as error:
        raise _not_found(name, error) from None


def _read_backbone(name: str, settings: Any) -> Any:
    """A pretrained backbone, whole: transformers itself fills in at random what the file lacks."""
    from transformers import AutoModel

    try:
        with _quiet():
            backbone, found = AutoModel.from_pretrained(
                name,
                config=settings,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise _not_found(name, error) from None
    except (
        KeyError,
        TypeError,
        AttributeError,
    ) as error:  # of a value in config.json that it does not check
        raise ValueError(
            f"transformers cannot build what config.json of {name} says "
            f"({error!r:.200}); copy the file again."
        ) from None

    missing = {key for key in found["missing_keys"] if not key.startswith("pooler.")}
    unexpected = {key for key in found["unexpected_keys"] if _is_part_of(key, backbone)}
    misshapen = {key: (seen, wanted) for key, seen, wanted in found["mismatched_keys"]}
    check_fit(f"the checkpoint {name}", missing, unexpected, misshapen)
    backbone.pooler = None
    check_finite(f"the checkpoint {name}", backbone.state_dict())
    return backbone


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars, and its table of tensors that do not fit: check_fit says it."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _is_part_of(key: str, backbone: Any) -> bool:
    """Whether a tensor that a backbone has no place for belongs to what it computes.

    A head beside the backbone (of masked words, of classes) and the pooler are not used, and tables
    of positions are computed; a tensor inside one of the backbone's own modules means that the
    module is another.
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
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return None
    return table.num_embeddings - (
        0 if table.padding_idx is None else table.padding_idx + 1
    )  # RoBERTa counts from pad


def _from_open_clip(config: TextTowerConfig) -> tuple[TextTower, TextTowerConfig]:
    model, kwargs = open_clip_model(
        config.name, config.pretrained, config.kwargs, "text"
    )
    backbone: Any = model.text
    # Its attention mask has one size, and towers without one (SigLIP) were trained with the padding
    # in sight. A transformers tower inside open_clip takes any length: the tokenizer's is what it
    # was trained at.
    length = (
        backbone.context_length
        if hasattr(backbone, "positional_embedding")
        else config.max_length
    )
    resolved = config.model_copy(
        update={
            "name": without_folder(config.name),
            "pretrained": False,
            "kwargs": kwargs,
            "tokenizer": "",
            "pad_to_max_length": True,
            "max_length": length,
        }
    )
    width = model.embed_dim
    if config.pooling != "native":
        if not hasattr(backbone, "token_embedding"):
            raise ValueError(
                f"text.pooling {config.pooling!r} is not offered by open_clip's "
                f"{config.name}; use 'native'."
            )
        backbone.output_tokens = True
        width = backbone.width
        backbone.text_projection = None
    return TextTower(backbone, width, config.pooling, True), resolved
