"""The registered inversion methods, as the laws see them: a new method is under every law by being registered.

A law that a method does not obey is named in `EXCEPTIONS`, with the reason.
"""

import functools

import pytest
import torch
from analytic_denoisers import Analytic, waves

from taba_core.diffusion import inversion_method_named, list_methods
from taba_core.diffusion.inversion.method import StepMethod

PREDICTION_CHANGED = "moves the prediction on purpose"
STATE_CHANGED = "moves the state on purpose"
OTHER_GRID = "its own levels are not the sampler's"
NEEDS_TEXT = "a constant network reads no text"

EXCEPTIONS = {
    # T1 and T4: a network that does not look at the state is inverted exactly.
    "state-free network": {
        "pix2pix-zero": PREDICTION_CHANGED,
        "renoise": PREDICTION_CHANGED,
        "gnri": STATE_CHANGED,
        "easyinv": STATE_CHANGED,
        "noise-level": STATE_CHANGED,
        "noise-projection": STATE_CHANGED,
        "reverse-dpm": OTHER_GRID,
        "edit-friendly": "its latent is drawn, the image is in the carried noises",
        "hybrid-gradient": "stops at a tolerance of 1e-4",
        "exact-dpm-1": "stops at a tolerance of 2.5e-4",
        "exact-dpm-2": "stops at a tolerance, and inverts its own sampler",
        "rf-inversion": "its latent is drawn towards a noise",
        "null-text": NEEDS_TEXT,
        "negative-prompt": NEEDS_TEXT,
        "prompt-tuning": NEEDS_TEXT,
    },
    # T4 besides: the network's answer belongs to the time of the upper level.
    "target time": {
        "ddim-source": "asks at source times",
        "source-first": "asks at source times first",
        "bdia": "asks at the time of the state it stands on",
        "o-belm": "asks at the time of the state it stands on",
        "rex": "asks at both ends of a step",
        "heun": "asks at both ends of a step",
        "rf-solver": "asks between the ends of a step",
        "fireflow": "asks between the ends of a step",
    },
}

# Factor by which rounding grows on the way up.
ROUNDING = {"o-belm": 1e4}


def methods(*laws, where=lambda method: True):
    """Parameters: names of the methods with default options that are under all the laws."""
    excused = {name for law in laws for name in EXCEPTIONS[law]}
    return [
        pytest.param(name, id=name)
        for name in list_methods()
        if name not in excused and where(inversion_method_named(name))
    ]


def is_step_method(method):
    """Whether single steps of it can be replaced."""
    return isinstance(method, StepMethod) and not method.own_grid


class TextWaves(Analytic):
    """`waves` moved by the mean of a prompt's embedding; its encoder maps the empty prompt to zeros."""

    text = property(lambda self: self)

    def encode(self, prompts):
        return {"prompt_embeds": torch.zeros(len(prompts), 2, 3)}

    def eps(self, x_t, t, cond):
        shift = cond["prompt_embeds"].mean((1, 2)).view(-1, 1, 1, 1).to(x_t.dtype)
        return waves(self.schedule).eps(x_t, t, {}) + 0.3 * shift


def network_and_condition(method, batch):
    """A smooth network that the method can invert, and a condition for it."""
    if not method.needs_text:
        return waves(), {}
    embeds = torch.linspace(-1, 1, batch * 6, dtype=torch.float64).view(batch, 2, 3)
    return TextWaves(None), {"prompt_embeds": embeds}


@functools.cache
def quick(name):
    """The method with options that keep it quick on ten steps."""
    options = {
        "exact-dpm-1": {"tolerance": 1e-6, "max_iterations": 60},
        "exact-dpm-2": {"max_iterations": 20},
        "hybrid-gradient": {"num_gradient_steps": 10},
        "null-text": {"num_inner_steps": 2},
        "prompt-tuning": {"num_inner_steps": 2},
        "spdinv": {"num_gradient_steps": 5},
        # its strength is meant for 4 x 64 x 64 values
        "pix2pix-zero": {"effective_lambda": True},
    }
    return inversion_method_named(name, **options.get(name, {}))
