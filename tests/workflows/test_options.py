"""Options belong to their study: how they are given, refused, listed and stored, and which keys depend on them."""

from __future__ import annotations

import sys

import pytest
import xarray as xr
from engine_runs import taba

import workflows.studies
from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core.errors import UsageError
from taba_core.store import Store
from workflows.analysis import study as study_registry
from workflows.analysis.findings import row_labels
from workflows.analysis.inputs import Inputs
from workflows.analysis.study import declared_options, find_studies, read_settings, studies
from workflows.configuration.context import Context
from workflows.configuration.options import Options, name_to_set
from workflows.configuration.settings import Settings, stored_settings
from workflows.execution.engine import run_plan
from workflows.planning.plan import make_plan

# An option and a value that is not its default, by its flat name and by its study's.
SPELLINGS = [
    ("forward_steps", "fix.forward_steps", "1,3"),
    ("inversion_steps", "more-steps.steps", "5,10"),
    ("long_steps", "fix-long.steps", "20"),
    ("long_forward_steps", "fix-long.forward_steps", "1,2"),
    ("mapping_steps", "mapping.steps", "5"),
    ("mapping_divisions", "mapping.divisions", "eighths"),
    ("methods", "methods.rows", "ddim,bdia"),
    ("arc_samples", "methods.arc_samples", "16"),
    ("lpips", "methods.lpips", "on"),
]


def settings_of_every_study(*assignments):
    return stored_settings(read_settings(assignments), declared_options(studies().values()))


@pytest.mark.parametrize(("flat", "name", "value"), SPELLINGS)
def test_the_flat_name_and_the_name_with_the_study_mean_the_same(flat, name, value):
    ours, theirs = read_settings([f"{name}={value}"]), read_settings([f"{flat}={value}"])
    assert ours == theirs != read_settings([])
    # A result stores an option as it always did, under a name that `--set` takes.
    changed = settings_of_every_study(f"{name}={value}")
    assert {key for key, held in settings_of_every_study().items() if changed[key] != held} == {flat}


def test_every_flat_name_is_tested_and_hides_no_setting():
    declared = declared_options(studies().values())
    flat = {name for options in declared for name in options.flat_names.values()}
    assert flat == {name for name, _, _ in SPELLINGS}
    assert not flat & set(Settings.model_fields)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (
            ["methods.arc_sample=4"],
            "unknown option of study methods 'arc_sample': did you mean arc_samples? Known options of study methods: "
            "arc_samples, clip, edits, lpips, rows.",
        ),
        (
            ["methods.arc_samples=1"],
            "--set methods.arc_samples=1: Input should be greater than or equal to 2. methods.arc_samples is: first "
            "samples of which the self-interpolation curves are made.",
        ),
        (
            ["mapping.divisions=thirds"],
            "--set mapping.divisions=thirds: Input should be 'auto', 'whole', 'eig",
        ),
        (["fix.forward_steps="], "--set fix.forward_steps=: give at least one step count, e.g. 2%,4%."),
        (["mapping.steps=0,10"], "T=0 is no number of steps; use 1 or more."),
        (
            ["long_steps=20", "fix-long.steps=40"],
            "--set fix-long.steps: given twice (20 and 40); give it once.",
        ),
        (
            ["methods.arc_samples=8", "arc_samples=9"],
            "--set arc_samples: given twice (8 and 9); give it once.",
        ),
        (["method_arc_samples=4"], "unknown field 'method_arc_samples': did you mean methods.arc_samples"),
        (["study_options=4"], "unknown field 'study_options'"),
        (["regions.level=2"], "unknown field 'regions.level'"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_its_rule(assignments, message):
    with pytest.raises(UsageError) as error:
        read_settings(assignments)
    assert message in str(error.value)


def test_options_given_in_code_are_checked_where_they_are_read():
    context = Context("gaussian", "ddim", Settings(study_options={"methods": {"arc_samples": 1}}))
    with pytest.raises(UsageError, match=r"methods\.arc_samples=1: Input should be greater"):
        find_studies(["methods"])[0].requests(context)


@pytest.mark.follows(
    "no options of its own; `taba run --help` lists the settings of all studies", printed=True
)
def test_list_shows_defaults_and_rules(capsys):
    assert taba("list", "table7", "correlation") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "methods.arc_samples 128 whole number, at least 2 first samples of which" in shown
    assert "methods.lpips off on | off" in shown and "also lpips" in shown
    assert "no options of its own; `taba run --help` lists the settings of all studies" in shown
    assert taba("run", "--help") == 0 and "num_samples" in capsys.readouterr().out
    assert taba("list", "table77") == 2
    assert "unknown study 'table77'" in capsys.readouterr().err


def test_results_of_versions_with_other_settings_are_told_apart_by_what_both_store():
    def result(n, **settings):
        return xr.Dataset(
            attrs={"model_title": "M", "method": "ddim", "name": "m", "n": n, "T": 5, "settings": settings}
        )

    # A result stored before options belonged to studies holds the options of all of them.
    old, new = result(8, seed=1, lpips="off"), result(8, seed=2)
    assert row_labels([old, new]) == ["M, seed=1", "M, seed=2"] == row_labels([new, old])[::-1]


# ---------------------------------------------------------------- what a key depends on

SMALL = [
    "num_samples=16", "num_inference_steps=10", "bootstrap_replicates=100", "patch_size=8", "top_k=10", "lpips=off",
    "inversion_steps=5,10", "long_steps=20", "long_forward_steps=1,2", "mapping_steps=5", "forward_steps=1,2",
    "methods=ddim", "arc_samples=4",
]  # fmt: skip


# Which every study can be asked about but those whose models are trained first, that of a benchmark's images, and that
# of flows.
MODEL = "photo-mixture"
ELSEWHERE = ("pie-bench", "flows")
ASKED = {n: study for n, study in studies().items() if not study.trained_model and n not in ELSEWHERE}


def keys(*assignments):
    context = Context(MODEL, "ddim", read_settings([*SMALL[:3], *assignments]))
    return {study.name: study.result_key(context) for study in ASKED.values()}


@pytest.mark.parametrize("other", [name for _, name, _ in SPELLINGS])
def test_options_of_one_study_are_in_the_key_of_no_other(other):
    value = {name: value for _, name, value in SPELLINGS}[other]
    before, after = keys(), keys(f"{other}={value}")
    assert {name for name in before if before[name] != after[name]} == {other.partition(".")[0]}


@pytest.mark.parametrize(
    "setting", [("patch_size", 16), ("top_k", 5), ("bootstrap_replicates", 200)], ids=lambda s: s[0]
)
def test_a_setting_of_the_analysis_is_in_the_keys_of_the_studies_that_read_it(setting):
    name, value = setting
    context = {
        v: Context(MODEL, "ddim", Settings(num_samples=16, num_inference_steps=10, **{name: v}))
        for v in (Settings.model_fields[name].default, value)
    }
    changed = {
        study.name
        for study in ASKED.values()
        if len({study.result_key(each) for each in context.values()}) == 2
    }
    assert changed == {study.name for study in ASKED.values() if name in study.reads}


class Watched(Settings):
    """Settings that note which fields are read."""

    def __getattribute__(self, name):
        if name in Settings.model_fields:
            SEEN.add(name)
        return super().__getattribute__(name)


SEEN: set[str] = set()
OF_ANALYSIS = {"patch_size", "top_k", "bootstrap_replicates"}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """The arguments of a context, and a store with everything that all studies need there."""
    settings = read_settings(SMALL)
    context = Context(MODEL, "ddim", settings)
    store = Store.open(tmp_path_factory.mktemp("options") / "store", mode="a")
    plan = make_plan(context, list(ASKED.values()), store)
    run_plan(
        plan, store, lambda: LocalExecutor(workers=1), Resources(num_cpus=1), workers=1, scheduler="sync"
    )
    return settings, store


@pytest.mark.parametrize("name", list(ASKED))
def test_a_study_reads_the_settings_of_the_analysis_that_it_declares(name, filled):
    settings, store = filled
    study = ASKED[name]
    given = {field: getattr(settings, field) for field in settings.model_fields_set}
    context = Context(MODEL, "ddim", Watched(**given))
    SEEN.clear()
    inputs = Inputs(
        store, study.requests(context), sample_shape=context.card.sample_shape, scheduler="sync", workers=1
    )
    study.analyse(inputs, context)
    assert set(study.reads) == OF_ANALYSIS & SEEN


# ---------------------------------------------------------------- a study of one's own is one file

BRIGHTNESS = '''
"""How many entries of the images are bright?"""

from pydantic import Field

from workflows.analysis.findings import Findings
from workflows.analysis.study import Study, register
from workflows.configuration.options import Options


class BrightnessOptions(Options):
    study = "brightness"
    level: float = Field(0.5, gt=0, description="value above which an entry is bright")


@register
class Brightness(Study):
    name = "brightness"
    title = "Bright entries"
    question = "How many entries of the images are bright?"
    paper_section = "X"
    options = BrightnessOptions
    reads = ()

    def requests(self, context):
        images = context.generation(context.num_steps(self.paper_steps))
        return {"generation": context.request(images, ("image",))}

    def analyse(self, inputs, context):
        found = Findings()
        image = inputs.head("generation", "image", inputs.num_samples)
        found.array("share", (image > context.options(BrightnessOptions).level).mean())
        return found.dataset()

    def present(self, results):
        return self.section(results)
'''


@pytest.fixture
def brightness(tmp_path, monkeypatch):
    """One more file among the studies."""
    folder = tmp_path / "more_studies"
    folder.mkdir()
    (folder / "brightness.py").write_text(BRIGHTNESS)
    monkeypatch.setattr(workflows.studies, "__path__", [*workflows.studies.__path__, str(folder)])
    monkeypatch.setattr(study_registry, "_REGISTRY", dict(study_registry._REGISTRY))
    yield
    sys.modules.pop("workflows.studies.brightness", None)


def test_a_study_with_an_option_is_one_file(brightness, tmp_path, capsys):
    store = tmp_path / "store"
    run = ["run", "brightness", "--model", "gaussian", "--executor", "inline", "--store", store,
           "--set", "num_samples=8", "--set", "num_inference_steps=5"]  # fmt: skip
    assert taba(*run) == 0
    assert taba(*run, "--set", "brightness.level=0.01") == 0
    opened = Store.open(store, mode="r")
    shares = {
        attrs["settings"]["brightness.level"]: float(opened.read_result(name)["share"])
        for name, attrs in opened.result_attrs().items()
    }
    # Two results of one set of images: the option is in the key, and the lower level has more entries above it.
    assert set(shares) == {0.5, 0.01} and shares[0.01] > shares[0.5]
    assert "Bright entries" in (store / "report" / "pages" / "study-brightness.html").read_text()
    capsys.readouterr()

    assert taba(*run, "--set", "brightness.level=0") == 2
    assert "--set brightness.level=0: Input should be greater than 0" in capsys.readouterr().err
    assert taba("list", "brightness") == 0
    assert "brightness.level" in (shown := capsys.readouterr().out) and "number, above 0" in shown
    assert taba("plan", "brightness", "--model", "gaussian", "--set", "brightness.levl=1") == 2
    assert "Known options of study brightness: level" in capsys.readouterr().err


def test_options_of_another_study_are_refused_at_once():
    class Elsewhere(Options):
        study = "elsewhere"
        size: int = 3

    class Here(study_registry.Study):
        name = "here"
        options = Elsewhere

    with pytest.raises(ValueError, match="study here: its options are declared for study elsewhere"):
        study_registry.register(Here)
    assert name_to_set(Elsewhere, "size") == "elsewhere.size"


def test_an_option_that_may_be_left_out_is_listed_by_what_it_takes(capsys):
    assert taba("list", "training") == 0
    shown = capsys.readouterr().out
    rules = {line.split()[0]: line for line in shown.splitlines() if line.startswith("training.")}
    assert "whole number, at least 1" in rules["training.steps"]
    assert "whole numbers, comma-separated" in rules["training.checkpoints"]
    assert "None" in rules["training.steps"] and "| None" not in shown
