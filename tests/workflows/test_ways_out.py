"""Every way out that a refused plan names works: the plan that follows it is made."""

from __future__ import annotations

import pytest

from workflows.__main__ import main

FEW = ["--set", "num_samples=32", "--set", "num_inference_steps=10"]


def planned(arguments, capsys):
    """(exit code, what was said) of `taba plan`."""
    with pytest.raises(SystemExit) as stop:
        main(["plan", *arguments])
    return stop.value.code or 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("request_", "said", "ways_out"),
    [
        (
            ["correlation", "--model", "gaussian", "--set", "conditioning=class"],
            "use conditioning=none",
            [["correlation", "--model", "gaussian", "--set", "conditioning=none"]],
        ),
        (
            ["correlation", "--model", "dit", "--set", "conditioning=none"],
            "use conditioning=class",
            [["correlation", "--model", "dit", "--set", "conditioning=class"]],
        ),
        (
            ["correlation", *FEW, "--set", "patch_size=5"],
            "does not divide states of 32x32; use a divisor of both",
            [["correlation", *FEW, "--set", "patch_size=4"]],
        ),
        (
            ["correlation", *FEW, "--set", "top_k=99999", "--set", "patch_size=2"],
            "a patch of 12 positions has 66 pairs; use fewer",
            [["correlation", *FEW, "--set", "top_k=66", "--set", "patch_size=2"]],
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
        (
            # 1000 divides, too, and SDXL's offset of 1 leaves no such grid: it may not be proposed.
            ["more-steps", "--model", "sdxl", "--set", "inversion_steps=600"],
            "would be another than that of the other T; use 500.",
            [["more-steps", "--model", "sdxl", "--set", "inversion_steps=500"]],
        ),
        (
            ["correlation", *FEW, "--set", "conditioning=class", "--set", "draws=reference"],
            "Use counter.",
            [["correlation", *FEW, "--set", "conditioning=class", "--set", "draws=counter"]],
        ),
        (
            ["correlation", *FEW, "--set", "round_trip=mean"],
            "has no decoder; use none",
            [["correlation", *FEW, "--set", "round_trip=none"]],
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
        (
            ["correlation", *FEW, "--budget", "many"],
            "write a size, for example 500GB, 1.5TB or 200GiB",
            [["correlation", *FEW, "--budget", size] for size in ("500GB", "1.5TB", "200GiB")],
        ),
        (
            ["correlation", "--set", "num_samples"],
            "write field=value, for example --set num_samples=512",
            [["correlation", "--set", "num_samples=512"]],
        ),
        (
            ["correlation", "--model", "gaussian", "--weights", "x"],
            "is embedded and reads no weights; leave it out",
            [["correlation", "--model", "gaussian"]],
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
