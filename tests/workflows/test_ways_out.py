"""Every way out that a refused plan names works: the plan that follows it is made."""

from __future__ import annotations

import pytest

from workflows.__main__ import main

follows = pytest.mark.follows
FEW = ["--set", "num_samples=32", "--set", "num_inference_steps=10"]


def planned(arguments, capsys):
    """(exit code, what was said) of `taba plan`."""
    with pytest.raises(SystemExit) as stop:
        main(["plan", *arguments])
    return stop.value.code or 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("request_", "said", "ways_out"),
    [
        pytest.param(
            ["correlation", "--model", "gaussian", "--set", "conditioning=class"],
            "use conditioning=none",
            [["correlation", "--model", "gaussian", "--set", "conditioning=none"]],
            marks=follows("; use conditioning="),
        ),
        pytest.param(
            ["correlation", "--model", "dit", "--set", "conditioning=none"],
            "use conditioning=class",
            [["correlation", "--model", "dit", "--set", "conditioning=class"]],
            marks=follows("; use conditioning="),
        ),
        pytest.param(
            ["correlation", *FEW, "--set", "patch_size=5"],
            "does not divide states of 32x32; use a divisor of both",
            [["correlation", *FEW, "--set", "patch_size=4"]],
            marks=follows("; use a divisor of both."),
        ),
        pytest.param(
            ["correlation", *FEW, "--set", "top_k=99999", "--set", "patch_size=2"],
            "a patch of 12 positions has 66 pairs; use fewer",
            [["correlation", *FEW, "--set", "top_k=66", "--set", "patch_size=2"]],
            marks=follows(" pairs; use fewer."),
        ),
        (
            ["fix", *FEW, "--set", "forward_steps=0.15"],
            "it must be whole. Use a multiple of 0.1.",
            [["fix", *FEW, "--set", "forward_steps=0.1"], ["fix", *FEW, "--set", "forward_steps=0.2"]],
        ),
        (
            ["fix", *FEW, "--set", "forward_steps=10"],
            "the sweep needs 1 <= K < T",
            [["fix", *FEW, "--set", "forward_steps=1"], ["fix", *FEW, "--set", "forward_steps=9"]],
        ),
        (
            ["correlation", "--model", "adm-64", "--set", "num_inference_steps=300"],
            "into 300 steps (guided spacing). Use 308 or 286.",
            [
                ["correlation", "--model", "adm-64", "--set", "num_inference_steps=308"],
                ["correlation", "--model", "adm-64", "--set", "num_inference_steps=286"],
            ],
        ),
        (
            ["correlation", "--model", "sdxl", "--set", "num_inference_steps=1000"],
            "Use 999 steps, or steps_offset=0.",
            [["correlation", "--model", "sdxl", "--set", "num_inference_steps=999"]],
        ),
        pytest.param(
            # 1000 divides, too, and SDXL's offset of 1 leaves no such grid: it may not be proposed.
            ["more-steps", "--model", "sdxl", "--set", "inversion_steps=600"],
            "would be another than that of the other T; use 500.",
            [["more-steps", "--model", "sdxl", "--set", "inversion_steps=500"]],
            marks=follows("so its last level would be another than that of the other T; use "),
        ),
        pytest.param(
            ["correlation", *FEW, "--set", "conditioning=class", "--set", "draws=reference"],
            "Use counter.",
            [["correlation", *FEW, "--set", "conditioning=class", "--set", "draws=counter"]],
            marks=follows(" has others. Use counter."),
        ),
        pytest.param(
            ["correlation", *FEW, "--set", "round_trip=mean"],
            "has no decoder; use none",
            [["correlation", *FEW, "--set", "round_trip=none"]],
            marks=follows(" has no decoder; use none."),
        ),
        (
            ["correlation", *FEW, "--set", "first_time=zero"],
            "use first_time=one, with which step 1 asks at the time of level 1",
            [["correlation", *FEW, "--set", "first_time=one"]],
        ),
        (
            ["correlation", *FEW, "--set", "held=velocity"],
            "use held=noise or held=auto, or a model that predicts v, x_0 or a velocity",
            [
                ["correlation", *FEW, "--set", "held=noise"],
                ["correlation", *FEW, "--set", "held=auto"],
                ["correlation", "--model", "photo-flow", "--set", "held=velocity"],
            ],
        ),
        (
            ["correlation", "--model", "photo-flow", "--method", "fixed-point", "--set", "held=noise"],
            "use held=auto, or method ddim, ddim-source or source-first",
            [
                ["correlation", "--model", "photo-flow", "--method", "fixed-point", "--set", "held=auto"],
                *(
                    ["correlation", "--model", "photo-flow", "--method", method, "--set", "held=noise"]
                    for method in ("ddim", "ddim-source", "source-first")
                ),
            ],
        ),
        (
            ["correlation", *FEW, "--set", "levels=shifted"],
            "needs network_time=source; set both, or levels=exact",
            [
                ["correlation", *FEW, "--set", "levels=shifted", "--set", "network_time=source"],
                ["correlation", *FEW, "--set", "levels=exact"],
            ],
        ),
        (
            ["mapping", "--model", "gaussian", *FEW, "--set", "mapping_divisions=class"],
            "use whole or eighths, or a conditioning=class model",
            [
                ["mapping", "--model", "gaussian", *FEW, "--set", "mapping_divisions=whole"],
                ["mapping", "--model", "gaussian", *FEW, "--set", "mapping_divisions=eighths"],
                ["mapping", *FEW, "--set", "conditioning=class", "--set", "mapping_divisions=class"],
            ],
        ),
        pytest.param(
            ["correlation", *FEW, "--budget", "many"],
            "write a size, for example 500GB, 1.5TB or 200GiB",
            [["correlation", *FEW, "--budget", size] for size in ("500GB", "1.5TB", "200GiB")],
            marks=follows(": write a size, for example 500GB, 1.5TB or 200GiB."),
        ),
        pytest.param(
            ["correlation", "--set", "num_samples"],
            "write field=value, for example --set num_samples=512",
            [["correlation", "--set", "num_samples=512"]],
            marks=follows(": write field=value, for example --set num_samples=512."),
        ),
        (
            ["correlation", "--model", "gaussian", "--weights", "x"],
            "is embedded and reads no weights; leave it out",
            [["correlation", "--model", "gaussian"]],
        ),
        pytest.param(
            ["methods", *FEW, "--set", "methods=,"],
            "give at least one row, e.g. ddim,noise-initialised",
            [["methods", *FEW, "--set", "methods=ddim,noise-initialised"]],
            marks=follows("give at least one "),
        ),
        pytest.param(
            ["fix", *FEW, "--set", "forward_steps="],
            "give at least one step count, e.g. 2%,4%",
            [["fix", "--set", "forward_steps=2%,4%"]],
            marks=follows("give at least one "),
        ),
        pytest.param(
            ["more-steps", *FEW, "--set", "inversion_steps="],
            "give at least one step count, e.g. 10,100,1000",
            [["more-steps", *FEW, "--set", "inversion_steps=10,100,1000"]],
            marks=follows("give at least one "),
        ),
        pytest.param(
            ["more-steps", *FEW, "--set", "inversion_steps=0"],
            "T=0 is no number of steps; use 1 or more",
            [["more-steps", *FEW, "--set", "inversion_steps=1"]],
            marks=follows(" is no number of steps; use 1 or more"),
        ),
        pytest.param(
            ["correlation", *FEW, "--set", "seed=1", "--set", "seed=2"],
            "given twice (1 and 2); give it once",
            [["correlation", *FEW, "--set", "seed=1"], ["correlation", *FEW, "--set", "seed=2"]],
            marks=follows("); give it once."),
        ),
        pytest.param(
            ["correlation", *FEW, "--set", "batch_size=8", "--set", "samples_per_shard=12"],
            "batch_size is 8; use a multiple of 8, or --set batch_size with a divisor of 12",
            [
                ["correlation", *FEW, "--set", "batch_size=8", "--set", "samples_per_shard=16"],
                *[
                    ["correlation", *FEW, "--set", f"batch_size={size}", "--set", "samples_per_shard=12"]
                    for size in (1, 2, 3, 4, 6, 12)
                ],
            ],
            marks=follows(", or --set batch_size with a divisor of "),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and isinstance(value[0], str) else "",
)
def test_the_way_out_that_a_refused_plan_names_works(request_, said, ways_out, capsys):
    code, message = planned(request_, capsys)
    assert code == 2 and said in message, message
    for way_out in ways_out:
        code, message = planned(way_out, capsys)
        assert code == 0, (way_out, message)


@follows(", more than the budget of ")
def test_a_budget_that_is_exceeded_is_raised_or_asked_less_of(tmp_path, capsys):
    asked = ["location", "step-error", "--model", "gaussian", *FEW, "--set", "samples_per_shard=8"]
    code, said = planned([*asked, "--budget", "5MB"], capsys)
    assert code == 2 and "Use --budget SIZE, a smaller --set num_samples or --set trajectories=0." in said
    for way_out in (["--budget", "1GB"], ["--budget", "5MB", "--set", "trajectories=0"]):
        assert planned([*asked, *way_out], capsys)[0] == 0
    asked[asked.index("num_samples=32")] = "num_samples=8"
    assert planned([*asked, "--budget", "5MB"], capsys)[0] == 0
    # All whole paths, and then as many as are kept by default.
    many = ["location", "step-error", "--model", "gaussian", "--set", "num_samples=512", "--budget", "500MB"]
    code, said = planned([*many, "--set", "trajectories=all"], capsys)
    assert code == 2 and said.rstrip().endswith("or --set trajectories=64.")
    assert planned([*many, "--set", "trajectories=64"], capsys)[0] == 0


@follows(
    "--nodes ",
    ": give whole numbers above 0, for example 4 or 1,4,28,110.",
    ": write NAME=RATE, for example ",
)
def test_numbers_of_nodes_and_failures_are_given_as_the_refusal_says(capsys):
    def simulated(*options):
        with pytest.raises(SystemExit) as stop:
            main(["simulate", "correlation", "--model", "adm-64", *FEW, *options])
        return stop.value.code or 0, capsys.readouterr().err

    assert "for example 4 or 1,4,28,110" in simulated("--nodes", "0")[1]
    assert "worker=0.01/h,node=0.001/h,unit=0.001" in simulated("--nodes", "1", "--failures", "worker")[1]
    assert simulated("--nodes", "4")[0] == 0
    assert simulated("--nodes", "1,4,28,110", "--failures", "worker=0.01/h,node=0.001/h,unit=0.001")[0] == 0
