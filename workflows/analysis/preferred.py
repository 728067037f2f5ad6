"""The settings that a costly study prefers to the card's, where the user chose none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from workflows.configuration.context import Context


def with_preferred(
    context: Context,
    small: Mapping[str, Any],
    network_samples: int,
    trained: Mapping[str, Any] | None = None,
    network_batch: int | None = None,
) -> Context:
    """This context at the settings that a study prefers.

    Args:
      small: settings by name for models that run on any machine. All samples in one shard are cheapest there at
        many levels: the exact denoiser prepares every level once a shard.
      trained: the same for those among them that are trained networks, which take a hundred times as long as a closed
        form; None for `small`.
      network_samples: most images of any other network, unless its card has fewer.
      network_batch: its batch size; None = its card's.
    """
    preferred: Mapping[str, Any] = {"num_samples": min(network_samples, context.card.defaults.num_samples)}
    if network_batch is not None:
        preferred = {**preferred, "batch_size": network_batch}
    if context.card.runs_anywhere:
        preferred = small if trained is None or context.card.embedded else trained
    return replace(context, settings=context.settings.with_defaults(preferred))
