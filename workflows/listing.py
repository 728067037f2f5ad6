"""`taba list`: what there is."""

from __future__ import annotations

from taba_core.diffusion.inversion import list_methods
from taba_core.models.catalog import list_cards
from taba_core.models.options import OPTIONS, NetworkOptions
from taba_core.models.weights import status
from workflows.study import GROUPS, in_group, studies
from workflows.text import print_table


def print_listing() -> None:
    """Models with what they need, inversion methods, studies with the paper's tables and figures."""
    print("models")
    print_table(
        ("name", "state", "train set", "condition", "weights"),
        [
            (c.name, "x".join(map(str, c.sample_shape)), c.train_set, c.conditional, status(c))
            for c in list_cards()
        ],
    )
    for name, options in {**OPTIONS, "the others": NetworkOptions}.items():
        described = "; ".join(f"{k}={f.default!r} ({f.description})" for k, f in options.model_fields.items())
        print(f"  {name}, --set model.NAME=VALUE: {described}")
    print(f"\ninversion methods\n{', '.join(list_methods())}")
    print("\nstudies")
    print_table(
        ("name", "aliases", "section", "question"),
        [(s.name, " ".join(s.aliases), s.paper_section, s.question) for s in studies().values()],
    )
    print("\ngroups of studies")
    print_table(
        ("name", "studies"),
        [(group, " ".join(s.name for s in studies().values() if in_group(s, group))) for group in GROUPS],
    )
