"""What to know of a model at a glance, for the head of its report."""

from __future__ import annotations

from unimodal.embedder import Embedder

from ..results import Encoder


def model_facts(encoder: Encoder) -> dict[str, str]:
    """What it embeds, its fingerprint; of our own models parameters, dimensions, size of pictures, length of texts."""
    facts = {"embeds": " and ".join(sorted(encoder.modalities, reverse=True))}
    if isinstance(encoder, Embedder):
        count = sum(weight.numel() for weight in encoder.models[0].parameters())
        facts["parameters"] = f"{count / 1e6:,.1f} M"
        facts["dimensions"] = str(encoder.truncate_dim or encoder.config.embed_dim)
        if encoder.config.image is not None:
            facts["pictures"] = f"{encoder.config.preprocess.image_size} pixels"
        if encoder.config.text is not None:
            facts["texts"] = f"up to {encoder.config.text.max_length} tokens"
    if fingerprint := encoder.fingerprint():
        facts["fingerprint"] = fingerprint[:12]
    return facts
