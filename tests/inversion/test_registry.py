"""Methods by name, options with rules, and a user's own class from a module outside the package."""

import sys
import textwrap

import pytest
import torch
from analytic_denoisers import LINEAR, constant, normal, waves

from taba_core.diffusion import TimestepGrid, invert, list_methods
from taba_core.diffusion.inversion import inversion_method, inversion_method_class, inversion_method_named
from taba_core.errors import UsageError

GRID = TimestepGrid.build(LINEAR, 10)
OWN = '''
from dataclasses import dataclass

from taba_core.diffusion import Step, StepMethod


@dataclass(frozen=True)
class Shrunk(StepMethod):
    """DDIM inversion with a prediction that is made smaller."""

    factor: float = 0.5

    def step(self, problem, x, move, state):
        return Step(*problem.move(x, self.factor * problem.eps(x, move.network_time), move))


class NotFrozen(StepMethod):
    def step(self, problem, x, move, state):
        return Step(x, x)


@dataclass(frozen=True)
class Unfinished(StepMethod):
    pass


class Stranger:
    pass
'''


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "my_inversion.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_inversion"
    sys.modules.pop("my_inversion", None)


def test_a_class_from_outside_the_package_inverts(own_module):
    image = normal((2, 3, 4, 4), 1)
    whole = inversion_method_named("my_inversion:Shrunk", factor=1.0)
    assert torch.equal(invert(waves(), image, GRID, whole), invert(waves(), image, GRID))
    half = invert(constant(0.6), image, GRID, "my_inversion:Shrunk")
    torch.testing.assert_close(half, invert(constant(0.3), image, GRID))
    # it is wrapped and counted as those of the package are
    noise = normal((2, 3, 4, 4), 9)
    assert whole.evaluations(GRID, 4) == 6
    assert torch.isfinite(invert(waves(), image, GRID, whole, forward_steps=4, forward_noise=noise)).all()
    assert "my_inversion:Shrunk" not in list_methods()


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "no_such_module:Shrunk",
            "inversion method 'no_such_module:Shrunk': module 'no_such_module' cannot be imported (No module named "
            "'no_such_module'). Give package.module:Class, and put the module in the working directory or on "
            "PYTHONPATH.",
        ),
        (":Shrunk", "inversion method ':Shrunk': '' is no module name. Give package.module:Class."),
        (
            "my_inversion:Shrank",
            "unknown class of module my_inversion 'Shrank': did you mean Shrunk? Known classes of module my_inversion: "
            "NotFrozen, Shrunk, StepMethod, Unfinished.",
        ),
        (
            "my_inversion:Stranger",
            "inversion method 'my_inversion:Stranger': <class 'my_inversion.Stranger'> is no class derived from "
            "taba_core.diffusion.inversion.StepMethod or WholeMethod.",
        ),
        (
            "my_inversion:NotFrozen",
            "inversion method 'my_inversion:NotFrozen': NotFrozen is no dataclass; put @dataclass(frozen=True) on it. "
            "Its fields are the options.",
        ),
        (
            "my_inversion:Unfinished",
            "inversion method 'my_inversion:Unfinished': Unfinished does not define step.",
        ),
    ],
)
def test_what_is_wrong_with_a_class_is_said(own_module, name, message):
    with pytest.raises(UsageError) as error:
        inversion_method_named(name)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "name, options, message",
    [
        (
            "fixed-point",
            dict(num_evaluations=0),
            "inversion method 'fixed-point', option num_evaluations=0: Input should be greater than or equal to 1.",
        ),
        (
            "fixed-point",
            dict(num_evaluations="many"),
            "inversion method 'fixed-point', option num_evaluations='many': Input should be a valid integer, unable "
            "to parse string as an integer.",
        ),
        (
            "reverse-dpm",
            dict(order=3),
            "inversion method 'reverse-dpm', option order=3: Input should be 1 or 2.",
        ),
        (
            "noise-level",
            dict(sigma=1.0),
            "inversion method 'noise-level', option sigma=1.0: Input should be less than 1.",
        ),
        (
            "noise-level",
            dict(inner="edict"),
            "inversion method 'noise-level', option inner=edict: inversion method 'edict' owns its trajectory, so its "
            "first steps cannot be replaced; use another method.",
        ),
        (
            "source-first",
            dict(inner="dim"),
            "unknown inversion method 'dim': did you mean ddim",
        ),
        (
            "my_inversion:Shrunk",
            dict(factor="big"),
            "inversion method 'my_inversion:Shrunk', option factor='big': Input should be a valid number, unable to "
            "parse string as a number.",
        ),
    ],
)
def test_options_obey_their_rules(own_module, name, options, message):
    with pytest.raises(UsageError) as error:
        inversion_method_named(name, **options)
    assert str(error.value).startswith(message)


def test_options_are_read_as_their_types():
    assert inversion_method_named("fixed-point", num_evaluations="7").num_evaluations == 7


def test_a_registered_class_must_be_a_method():
    with pytest.raises(
        TypeError, match=r"^inversion method 'thing': <class 'object'> is no class derived from"
    ):
        inversion_method("thing")(object)
    assert "thing" not in list_methods()


def test_every_method_says_what_it_is_in_one_line():
    for name in list_methods():
        first = (inversion_method_class(name).__doc__ or "").splitlines()[0]
        assert first.endswith((".", ")", ":")) or len(first) > 20, name
        assert len(first) < 125, name


def test_a_noise_level_above_the_grid_is_refused():
    with pytest.raises(UsageError) as error:
        options = dict(forward_noise=normal((1, 3, 4, 4), 9))
        low = TimestepGrid.build(LINEAR, 1)  # its one level is that of timestep 0, sigma .01
        invert(waves(), normal((1, 3, 4, 4), 1), low, "noise-level", **options)
    assert str(error.value) == (
        "inversion method 'noise-level', option sigma=0.1: the grid's last level is 0.01; use less."
    )
