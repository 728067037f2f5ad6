"""Work that no claim of the paper needs is asked for: a plan names it, with what it adds and how to ask for it."""

from __future__ import annotations

import json

import pytest

from workflows.analysis.study import find_studies, read_settings
from workflows.command.plan_page import print_plan
from workflows.configuration.context import Context
from workflows.planning.jobs import Asked, check, check_all, each_model
from workflows.planning.left_out import left_out

OTHER_RULE, OWN_PATH, MORE_IMAGES = (
    "forward_rules=both",
    "more-steps.own_path=on",
    "fix-long.num_samples=4096",
)


def requests(study, model, *sets):
    return find_studies([study])[0].requests(Context(model, "ddim", read_settings(list(sets))))


def inversions(study, model, *sets):
    return {name for name in requests(study, model, *sets) if name.startswith("latent/")}


def rules(study, model, *sets):
    return {name.split("/")[1] for name in inversions(study, model, *sets)} - {"0"}


@pytest.mark.parametrize("study", ["fix", "fix-long"])
def test_a_network_compares_its_own_rule_unless_both_are_asked_and_models_that_run_anywhere_both(study):
    assert rules(study, "dit") == rules(study, "if") == {"matched"}
    assert rules(study, "sdxl", "long_steps=500", "long_forward_steps=1%") == {"exact"}
    assert rules(study, "dit", "forward_level=exact") == {"exact"}
    assert rules(study, "dit", OTHER_RULE) == {"exact", "matched"}
    for model in ("gaussian", "photo-mixture", "photo-dit"):
        assert rules(study, model) == {"exact", "matched"}
        assert rules(study, model, "forward_rules=own") == {"matched"}
    # Shifted levels make the two readings one, whoever asks for both.
    assert rules(study, "photo-adm", OTHER_RULE) == {"matched"}


def test_rows_of_a_comparison_of_methods_are_chosen_by_their_names_under_any_rule():
    (study,) = find_studies(["methods"])
    named = study.requests(
        Context("dit", "ddim", read_settings(["methods=forward-1-exact,forward-1-matched"]))
    )
    assert (
        len(
            {request.artifact.key for request in named.values() if "forward" in str(request.artifact.attrs())}
        )
        > 1
    )


def test_images_sampled_at_every_number_of_steps_are_asked_for_on_networks():
    def own(model, *sets):
        return {name for name in requests("more-steps", model, *sets) if name.startswith("own/")}

    assert not own("dit") and own("gaussian")
    assert not own("gaussian", "more-steps.own_path=off")
    assert {name for name in own("dit", OWN_PATH) if name.count("/") == 1} == {
        f"own/{T}" for T in (10, 20, 50, 100, 200, 500, 1000)
    }


def test_a_network_that_takes_long_begins_table_9_with_fewer_images_in_smaller_batches():
    def first(model, *sets):
        request = next(iter(requests("fix-long", model, *sets).values()))
        return request.samples, request.artifact.batch_size

    # IF takes 0.609 s / 64 = 9.5 ms an image, DiT 0.104 s / 128 = 0.8 ms.
    assert first("if") == (1024, 16) and first("dit") == (4096, 64)
    assert first("if", MORE_IMAGES) == (4096, 16)
    assert first("if", "num_samples=2048") == (2048, 16)
    assert first("if", "num_samples=2048", MORE_IMAGES, "batch_size=8") == (4096, 8)
    # More images are more shards of the same artifacts: nothing is computed again.
    few, many = (requests("fix-long", "if", *sets) for sets in ((), (MORE_IMAGES,)))
    assert {name: r.artifact.key for name, r in few.items()} == {
        name: r.artifact.key for name, r in many.items()
    }


def job(*studies, model, sets=()):
    return check(Asked(list(studies), "nowhere", model, "ddim", list(sets), device="cuda"))


def test_what_is_left_out_adds_what_the_plan_says_and_is_left_out_no_more_once_asked():
    plain = job("fix", "more-steps", "fix-long", model="if")
    found = {left.choice.setting: left for left in left_out(plain, plain.plan(None), None)}
    assert list(found) == [OTHER_RULE, OWN_PATH, MORE_IMAGES]
    assert found[OTHER_RULE].studies == ("fix", "fix-long")
    before = plain.plan(None).evaluations_missing
    for setting, left in found.items():
        asked = job("fix", "more-steps", "fix-long", model="if", sets=[setting])
        assert asked.plan(None).evaluations_missing - before == left.evaluations > 0
        assert setting not in [other.choice.setting for other in left_out(asked, asked.plan(None), None)]
    # Six K of the exact rule at T = 1000, each (1000 - K) + 1000 evaluations of 1024 images; four K at T = 50 of 8192.
    long = sum(2000 - k for k in (1, 2, 5, 10, 20, 40)) * 1024
    assert found[OTHER_RULE].evaluations == long + sum(100 - k for k in (1, 2, 5, 10)) * 8192


def test_nothing_is_left_out_of_models_that_run_anywhere():
    for model in ("gaussian", "photo-dit"):
        asked = check(Asked(["fix", "more-steps", "fix-long"], "nowhere", model, "ddim", []))
        assert left_out(asked, asked.plan(None), None) == []


def test_a_plan_prints_what_is_left_out_with_its_hours(capsys):
    parts = [Asked(["fix", "more-steps"], "nowhere", "dit", "ddim", [], device="cuda")]
    print_plan(parts, None, as_json=False)
    printed = capsys.readouterr().out
    # Four K at T = 50, n = 10,240: 382 x 10,240 evaluations of 0.104 s / 128.
    hours = sum(100 - k for k in (1, 2, 5, 10)) * 10_240 * 0.104 / 128 / 3600
    assert (
        "left out of fix: the exact rule of forward replacement (matched is the model's own); --set forward_rules=both "
        f"adds {hours:.2f} GPU-hours." in printed
    )
    assert (
        f"left out of more-steps: Table 8's images that are sampled at every T themselves; --set {OWN_PATH}"
        in printed
    )
    print_plan(parts, None, as_json=True)
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert [left["set"] for left in model["left_out"]] == [OTHER_RULE, OWN_PATH]
    assert model["left_out"][0]["device_hours"] == pytest.approx(hours)


@pytest.mark.parametrize(
    ("group", "sets", "most"),
    [
        ("paper", [], 230.0),
        ("paper", ["model.profile=fast"], 110.0),
        ("main-text", [], 40.0),
    ],
)
def test_the_paper_takes_no_more_hours_than_its_claims_need(group, sets, most):
    parts = [
        part for part in each_model(Asked([group], "nowhere", "", "ddim", sets, device="cuda"), ["paper"])
    ]
    plans = [job.plan(None) for job in check_all(parts, write=False)[0]]
    assert sum(plan.hours(plan.evaluations_missing) for plan in plans) <= most
