"""What the tests of editors share: prompts, editors that change something, and edits by hand."""

from __future__ import annotations

import torch

from taba_core.diffusion.attention.editor import Prompts
from taba_core.diffusion.attention.editors.masactrl import MasaCtrl
from taba_core.diffusion.attention.editors.plug_and_play import PlugAndPlay
from taba_core.diffusion.attention.editors.prompt_to_prompt import PromptToPrompt
from taba_core.diffusion.attention.editors.rival import RIVAL
from taba_core.diffusion.attention.editors.style_aligned import StyleAligned
from taba_core.diffusion.attention.sampling import EditStart, sample_edit
from taba_core.diffusion.guidance import Guided
from taba_core.diffusion.inversion import invert, invert_with_report, reconstruct

STEPS = 5  # of the tiny grids
SOURCE, TARGET = ["a red boat", "the horse"], ["a blue boat", "the white horse"]
PROMPTS = Prompts(SOURCE, TARGET)
SAME = Prompts(SOURCE, SOURCE)
# Every editor of attention in the form that starts from the latent and changes something from the first step on.
EDITORS = {
    "masactrl": MasaCtrl(start_step=0, layer=0),
    "style-aligned": StyleAligned(start="latent"),
    "prompt-to-prompt": PromptToPrompt(),
    "plug-and-play": PlugAndPlay(),
    "rival": RIVAL(alone_share=0.0),
}


def inverted(tiny, method="ddim", **fields):
    """(start, plain edits to TARGET) of the tiny images inverted under SOURCE."""
    cond = tiny.network.text.encode(SOURCE)
    report = invert_with_report(tiny.network, tiny.x_0, tiny.grid, method, cond, **fields)
    return EditStart(report.latent, method, report.carried)


def plain(tiny, start, prompts=TARGET, scale=1.0):
    model = tiny.network if scale == 1.0 else Guided(tiny.network, scale)
    return reconstruct(
        model, start.latent, tiny.grid, start.method, tiny.network.text.encode(prompts), carried=start.carried
    )


def edited(tiny, start, editor, prompts=PROMPTS, **fields):
    return sample_edit(tiny.network, start, tiny.grid, editor, prompts, **fields)


def path_of(tiny):
    """States x*_0..x*_{T-1} of DDIM inversion, (B, T, C, H, W)."""
    states = []
    invert(
        tiny.network, tiny.x_0, tiny.grid, "ddim", tiny.network.text.encode(SOURCE),
        on_step=lambda record: states.append(record.x_from),
    )  # fmt: skip
    return torch.stack(states, dim=1)
