"""What the named models need on disk: compute nodes have no internet."""

from __future__ import annotations

from pathlib import Path

from taba_core.models.catalog import load_card
from taba_core.models.prompts import RECAP_COCO, recap_coco_path
from taba_core.models.weights import locate, status, stored_at, why_unusable
from workflows.doctor.finding import Finding, Subject, check, fail, ok, skipped

SECTION = "models"
_ASK = "no --model given"


def weight_files(subject: Subject) -> list[Path]:
    """Weights of the named models that are on this machine."""
    found = [locate(load_card(name)) for name in subject.models]
    return [path for path in found if path is not None]


@check(SECTION, "weights")
def weights(subject: Subject) -> Finding:
    """Weights of every --model on this machine: there, and whole as far as their headers tell."""
    if not subject.models:
        return skipped(_ASK)
    cards = [load_card(name) for name in subject.models]
    missing = [card for card in cards if not card.embedded and locate(card) is None]
    if missing:
        found = ", ".join(
            f"{card.name} is not {f'at {stored_at(card)}' if card.weights.source != 'trained' else 'trained yet'}"
            for card in missing
        )
        fetch = " ".join(card.name for card in missing if card.weights.fetched)
        broken = any(card.weights.source == "package" for card in missing)
        own = ", ".join(card.name for card in missing if card.weights.source == "path")
        ways = (
            f"taba fetch {fetch} on a machine with internet, with TABA_CACHE on the shared file system"
            * bool(fetch),
            f"correct `weights` in the card of {own}" * bool(own),
            "install taba again" * broken,
            *(
                f"taba run training --model {card.name}"
                for card in missing
                if card.weights.source == "trained"
            ),
        )
        return fail(found, "; ".join(filter(None, ways)))
    damaged = [why for card in cards if (place := locate(card)) and (why := why_unusable(card, place))]
    if damaged:
        return fail(
            "; ".join(damaged), "replace what is named; what `taba fetch` brought: delete it and fetch again"
        )
    return ok(", ".join(f"{card.name} {status(card)}" for card in cards))


@check(SECTION, "prompts")
def prompts(subject: Subject) -> Finding:
    """The paper's captions, where a named model is conditioned on text."""
    if not subject.models:
        return skipped(_ASK)
    cards = [load_card(name) for name in subject.models]
    told = [c.name for c in cards if c.conditional == "text" and c.defaults.prompts == RECAP_COCO]
    if not told:
        return skipped("no text-to-image model that reads them among them")
    if recap_coco_path().exists():
        return ok(f"{RECAP_COCO} is here")
    return fail(
        f"{RECAP_COCO} is not at {recap_coco_path()}; {', '.join(told)} will be refused",
        f"taba fetch {RECAP_COCO} on a machine with internet, or run with --set prompts=builtin",
    )
