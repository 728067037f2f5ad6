"""Studies triangles and mapping: closed forms, what is asked and refused, verdicts of given mappings, drawings."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose

from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core.errors import UsageError
from taba_core.stats.nearest import Nearest
from taba_core.store import Store
from workflows.analysis.findings import Findings
from workflows.analysis.study import find_studies, read_settings
from workflows.configuration.context import Context
from workflows.execution.engine import run_plan
from workflows.planning.plan import make_plan
from workflows.report import attractors, triangles
from workflows.studies.mapping.claims import find_claims
from workflows.studies.mapping.measures import DIRECTIONS, Traits

SMALL = ["num_samples=40", "samples_per_shard=20", "num_inference_steps=10", "bootstrap_replicates=100"]
MIXTURE = [
    *SMALL,
    "conditioning=class",
    "model.num_components_per_photo=1",
    "model.rank=4",
    "mapping_steps=5",
]


def context_of(model="gaussian", settings=SMALL):
    return Context(model, "ddim", read_settings(list(settings)))


def run(path, model, settings, names=("triangles", "mapping")):
    context, store = context_of(model, settings), Store.open(path, mode="a")
    studies = find_studies(list(names))
    run_plan(
        make_plan(context, studies, store),
        store,
        lambda: LocalExecutor(workers=1),
        Resources(num_cpus=1),
        workers=1,
        scheduler="sync",
    )
    results = {}
    for study in studies:
        name = study.result_name(context)
        results[study.name] = store.read_result(name)
        results[study.name].attrs["name"] = name
    return studies, results


@pytest.fixture(scope="module")
def gaussian(tmp_path_factory):
    return run(tmp_path_factory.mktemp("gaussian") / "s", "gaussian", [*SMALL, "mapping_steps=5,20"])


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    return run(tmp_path_factory.mktemp("classes") / "s", "photo-mixture", MIXTURE)


def test_the_triangle_of_a_gaussian_field_is_the_closed_form(gaussian):
    result = gaussian[1]["triangles"]
    assert_allclose(result["side_mean"], result["side_theory"], rtol=0.02)
    assert_allclose(result["angle_mean"], result["angle_theory"], atol=2)
    assert_allclose(result["angle_theory"].sum(), 180)
    assert result["histogram"].dtype == np.int64 and (result["histogram"].sum("degree") == 40).all()


def test_every_claim_has_a_verdict_and_every_item_is_there(gaussian, classes):
    for studies, results in (gaussian, classes):
        sections = [study.present([results[study.name]]) for study in studies]
        items = [x.id for s in sections for x in (*s.tables, *s.figures)]
        expected = [
            "table10",
            "table10-rules",
            "fig10",
            "fig11",
            "table13",
            "table13-curves",
            "fig15",
            "fig15-norm",
        ]
        assert items == expected
        claims = ["C10a", "C10b", "C10c", "CF11", "C13a-1", "C13a-2", "C13b", "C13c", "CF14a", "CF14b"]
        assert [c.id for s in sections for c in s.claims] == claims


def test_figures_can_be_drawn_from_the_results_alone(classes):
    studies, results = classes
    for study in studies:
        for figure in study.present([results[study.name]]).figures:
            assert figure.draw().axes, figure.id


def test_two_results_share_tables_and_keep_their_own_figures(gaussian):
    studies, results = gaussian
    for study in studies:
        other = results[study.name].copy()
        other.attrs = {**other.attrs, "name": "gaussian-again-0123", "n": 41}
        section = study.present([results[study.name], other])
        assert len({f.id for f in section.figures}) == len(section.figures)
        assert len(section.tables[0].rows) == (2 if study.name == "triangles" else 6)


def test_by_class_the_nearest_is_of_the_same_class(classes):
    result = classes[1]["mapping"]
    division, nearest = result["division"].values, result["nearest"].values
    assert len(np.unique(division)) > 1
    assert (division[nearest] == division).all()
    assert_allclose(float(result["guessing"]), len(np.unique(division)) / 40)
    assert (result["accuracy_low"] <= result["accuracy"]).all()
    assert (result["accuracy"] <= result["accuracy_high"]).all()


def test_in_degrees_count_every_query_once(gaussian):
    result = gaussian[1]["mapping"]
    nearest = result["nearest"].sel(steps=10, direction="noise_image", metric="l2").values
    assert np.array_equal(result["attraction_noise"], np.bincount(nearest, minlength=40))
    assert result["steps"].values.tolist() == [5, 10, 20]


def test_the_run_and_the_other_steps_are_asked_for_and_shared_with_other_studies():
    (mapping,), (correlation,) = find_studies(["table13"]), find_studies(["table2"])
    settings = [*SMALL, "mapping_steps=5,10"]
    asked = mapping.requests(context_of(settings=settings))
    assert list(asked) == ["generation 10", "inversion 10", "generation 5", "inversion 5"]
    known = {r.artifact.key for r in correlation.requests(context_of(settings=settings)).values()}
    assert {asked["generation 10"].artifact.key, asked["inversion 10"].artifact.key} <= known


def test_divisions_follow_the_paper_where_there_are_enough_images():
    (mapping,) = find_studies(["mapping"])

    def kind(*settings, model="gaussian"):
        return mapping.analysis_settings(context_of(model, settings))["divisions"]

    assert kind("num_samples=2047") == "whole" and kind("num_samples=2048") == "eighths"
    assert kind("conditioning=class", model="photo-mixture") == "class"
    assert kind("num_samples=64", "mapping_divisions=eighths") == "eighths"
    whole, eighths = (
        mapping.result_key(context_of(settings=[*SMALL, f"mapping_divisions={d}"]))
        for d in ("whole", "eighths")
    )
    assert whole != eighths


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["mapping_divisions=class"],
            "mapping.divisions=class: images of Gaussian field are drawn without a class",
        ),
        (["num_samples=7", "mapping_divisions=eighths"], "7 images make no 8 divisions; use whole"),
        (["mapping_steps=2000"], "--set mapping.steps, entry 2000: "),
    ],
)
def test_impossible_mappings_are_refused_before_work(settings, message):
    with pytest.raises(UsageError, match=message):
        find_studies(["mapping"])[0].requests(context_of(settings=settings))


def test_no_step_is_no_number_of_steps():
    with pytest.raises(UsageError, match="T=0 is no number of steps; use 1 or more"):
        read_settings(["mapping_steps=0,10"])


def mapped(shares, n=1000):
    """Mappings with the given shares of hits in every direction, by l2 and by cosine."""

    def rows(share):
        ids = np.arange(n)
        ids[int(share * n) :] = 0
        return Nearest(np.zeros(n), ids)

    l2, cosine = shares
    return {d: {"l2": rows(l2[d]), "cosine": rows(cosine)} for d in DIRECTIONS}


def verdicts(by_steps, *, latent_space=False):
    from taba_core.stats import Estimate

    found, one = Findings(), Estimate.exact(1.0)
    zero = np.zeros(1000)
    traits = Traits(zero, zero, zero, zero, zero, zero, *({"noise": one, "latent": one} for _ in range(3)))
    find_claims(found, by_steps, traits, min(by_steps), 100, latent_space=latent_space)
    return {c["id"]: c["verdict"] for c in json.loads(found.dataset().attrs["claims"])}


def shares(image_noise, noise_image, image_latent, latent_image):
    return dict(zip(DIRECTIONS, (image_noise, noise_image, image_latent, latent_image), strict=True))


def test_the_papers_pattern_holds_and_its_opposite_fails():
    paper = {
        10: mapped((shares(1.0, 0.95, 0.8, 0.4), 0.9)),
        100: mapped((shares(1.0, 0.5, 0.7, 0.3), 0.9)),
    }
    got = verdicts(paper)
    assert {got[id] for id in ("C13a-1", "C13a-2", "C13b", "C13c")} == {"holds"}
    opposite = {
        10: mapped((shares(0.9, 0.5, 0.95, 0.95), 0.5)),
        100: mapped((shares(0.9, 0.6, 0.95, 0.95), 0.6)),
    }
    got = verdicts(opposite)
    assert {got[id] for id in ("C13a-1", "C13a-2", "C13b", "C13c")} == {"fails"}


def test_what_n_or_the_steps_cannot_tell_is_not_resolved():
    got = verdicts({10: mapped((shares(0.99, 0.9, 0.9, 0.5), 0.99))})
    assert {got[id] for id in ("C13a-1", "C13a-2", "C13b", "C13c")} == {"not resolved"}


def test_latent_models_find_each_other_both_ways():
    good, bad = mapped((shares(1, 1, 1, 1), 1)), mapped((shares(1, 1, 1, 0.9), 1))
    assert [verdicts({50: good}, latent_space=True)[id] for id in ("C13a", "C13b")] == ["holds", "holds"]
    assert [verdicts({50: bad}, latent_space=True)[id] for id in ("C13a", "C13b")] == ["holds", "fails"]


def test_a_drawn_triangle_has_its_angles_and_its_base():
    # 53.13, 36.87 and 90 degrees over a base of 5: the latent stands 4 from the noise and 3 from the image
    corners = triangles.Drawn((53.1301, 36.8699, 90.0), (3, 5, 4)).corners()
    sides = [np.linalg.norm(corners[i] - corners[j]) for i, j in ((0, 2), (0, 1), (1, 2))]
    assert_allclose(sides, [3, 5, 4], atol=1e-4)


def test_panels_of_triangles_share_one_scale():
    drawn = {name: triangles.Drawn((45, 45, 90), (s, s * 2**0.5, s)) for name, s in (("a", 1.0), ("b", 3.0))}
    figure = triangles.triangle_panels(drawn)
    assert len({(*axis.get_xlim(), *axis.get_ylim()) for axis in figure.axes}) == 1
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["a", "b"]


def test_rows_of_pictures_may_differ_in_length():
    images = np.zeros((3, 3, 4, 4))
    rows = [attractors.PictureRow("two", images[:2], ("a", "b")), attractors.PictureRow("three", images)]
    figure = attractors.picture_rows(rows, gaps=(1,))
    assert len(figure.axes) == 5
    assert [text.get_text() for text in figure.texts] == ["two", "a", "b", "three"]
