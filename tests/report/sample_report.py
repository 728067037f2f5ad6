"""A small invented run with the shape of a real one: every kind of cell, figure and verdict."""

import numpy as np

from workflows.analysis.presentation import DASH, Cell, Claim, Column, Figure, Row, Run, Section, Table
from workflows.analysis.published import paper_value

CONVENTIONS = "network time target; levels exact; x_0 rule none; forward level exact"


def correlation_table() -> Table:
    columns = (
        Column("noise", "Noise", "x_T", "Top-20 |r|"),
        Column("latent", "Latent", "x̂_T", "Top-20 |r|"),
        Column("sample", "Sample", "x_0", "Top-20 |r|"),
        Column("excess", "Excess r²", "x̂_T"),
    )

    def row(model, values, excess, half):
        cells = []
        for column, value in zip(columns[:3], values, strict=True):
            paper = paper_value("table2", model, column.label)
            interval = (value - half, value + half)
            cells.append(
                Cell(value, interval, 0.04 * value, 0.252, paper=paper, bold=column.name == "latent")
            )
        return (*cells, Cell(excess, (excess * 0.9, excess * 1.1), digits=4, floor=0.0))

    return Table(
        id="table2",
        title="Table 2. Correlation of noise, latents and samples",
        caption="Do DDIM latents x̂_T follow the Gaussian x_T they started from? Mean of the top 20 |r|.",
        rows=("photo-mixture", "ADM-64", "DiT"),
        columns=columns,
        cells=(
            row("photo-mixture", (0.2531, 0.6987, 0.9712), 0.0813, 0.012),
            row("ADM-64", (0.2519, 0.3874, 0.9341), 0.0127, 0.009),
            row("DiT", (0.2538, 0.3012, 0.7467), float("nan"), 0.010),
        ),
        conventions=CONVENTIONS,
        n=192,
        T=50,
        seed=420,
        notes=("The noise column is the floor at this n, not a property of the noise.",),
    )


def region_table() -> Table:
    columns = tuple(
        Column(f"{key}_{region.lower().replace('-', '_')}", region, group=group)
        for key, group in (("error", "Absolute error |x_T − x̂_T|"), ("std", "Standard deviation of x̂_T"))
        for region in ("Plain", "Non-plain")
    )
    one = Cell(1.0, theory=1.0, digits=0)
    values = ((0.644, 0.543, 0.268, 0.479), (0.512, 0.431, 0.352, 0.468))
    cells = tuple(tuple(Cell(v, (v - 0.01, v + 0.012)) for v in row) for row in values)
    return Table(
        id="table3",
        title="Table 3. Where is the error?",
        caption="Error and spread of the latent in plain and non-plain regions, threshold τ = 0.025.",
        rows=("Noise (by definition)", "photo-mixture", "ADM-32"),
        columns=columns,
        cells=((DASH, DASH, one, one), *cells),
        conventions=CONVENTIONS,
        n=192,
        T=50,
        seed=420,
    )


def fix_table() -> Table:
    columns = (
        Column("corr", "Correlation", "|r|"),
        Column("recon", "Reconstruction error", "|x_0 − x̃_0|"),
        Column("kl", "KL"),
        Column("fid", "Fréchet distance", proxy="FID"),
    )
    labels = ("K = 0 (DDIM)", "K = 1 (2 %)", "K = 2 (4 %)", "K = 5 (10 %)")
    cells = []
    for factor in (1.0, 0.96):
        for k in (0, 1, 2, 5):
            corr = 0.252 + 0.447 * np.exp(-1.6 * k) * factor
            recon, kl = 0.004 + 0.006 * k, 0.31 * np.exp(-k) + 0.0104
            cells.append(
                (
                    Cell(corr, (corr - 0.01, corr + 0.01), 0.021, 0.252),
                    Cell(recon, (recon * 0.95, recon * 1.05), digits=4),
                    Cell(kl, (kl * 0.9, kl * 1.1), floor=0.0104, digits=4, unit="nats"),
                    Cell(2.1 + k / 3, digits=2, n=96),
                )
            )
    return Table(
        id="table4",
        title="Table 4. Forward diffusion in the first K steps",
        caption="Does replacing the first inversion steps by forward diffusion decorrelate the latent?",
        rows=labels * 2,
        columns=columns,
        cells=tuple(cells),
        row_header="Replaced steps",
        conventions="network time target; levels exact; both forward rules",
        n=192,
        T=50,
        seed=420,
        row_groups=("forward level exact",) * 4 + ("forward level matched",) * 4,
    )


def _curves():
    from workflows.report.plots import Curve, step_curves

    s = np.arange(50)
    plain, other = 0.62 * np.exp(-s / 4) + 0.05, 0.36 * np.exp(-s / 6) + 0.04
    lines = [
        Curve("Plain", plain, plain * 0.93, plain * 1.07),
        Curve("Non-plain", other, other * 0.94, other * 1.06),
    ]
    return step_curves({"photo-mixture": lines}, "normalised error $E_R(t)$")


def _grid():
    from workflows.report.plots import image_tiles, latent_tiles, mask_tiles, tile_grid

    y, x = np.mgrid[0:32, 0:32] / 31
    rng = np.random.default_rng(7)
    images = np.stack(
        [np.stack([np.sin(k * x + c) * np.cos((k + 1) * y) for c in range(3)]) for k in range(8)]
    )
    masks = np.abs(np.diff(images, axis=3, append=images[..., -1:])).max(1) < 0.1
    latents = rng.normal(size=images.shape) * np.where(masks[:, None], 0.3, 0.8)
    rows = [image_tiles(images), latent_tiles(latents)[0], mask_tiles(images, masks)]
    return tile_grid(rows, ["image $x^0$", r"latent $\hat{x}^T$", "plain region"])


def _heat():
    from workflows.report.plots import heat_map

    lam, u = np.linspace(0, 1, 25)[None], np.linspace(0, 1, 51)[:, None]
    distance = 40 * np.sqrt((lam - u) ** 2 + 0.6 * u**2)
    return heat_map({"photo-mixture": distance}, np.linspace(0, 1, 25), crossing={"photo-mixture": 0.6})


def sample_run() -> Run:
    correlation = Section(
        study="correlation",
        title="Are latents correlated?",
        question="Does DDIM inversion return the Gaussian noise that an image was made from?",
        paper_section="3.1",
        tables=(correlation_table(),),
        claims=(
            Claim(
                "C2",
                "corr(x̂_T) − corr(x_T) > max(3 SE, 5 %) and corr(x_0) > corr(x̂_T) + 0.1, for every model",
                "holds",
                {"latent minus noise": [0.4456, 0.43, 0.461], "3 SE": 0.0124},
            ),
        ),
        provenance={"artifacts": ["photo-mixture-generation-4f2c9a81d0e3"], "reduction": {"blocks": 6}},
    )
    regions = Section(
        study="regions",
        title="Where in the image is the error?",
        question="Is the error of a latent concentrated where the image is plain?",
        paper_section="3.3",
        tables=(region_table(),),
        figures=(
            Figure("fig1", "Figure 1. Structure in latents", "Image, latent, plain region.", _grid, 8, 50),
        ),
        claims=(
            Claim(
                "C3", "err_p > err_n and std_p < std_n", "fails", {"gap": float("nan")}, "ADM-32 is reversed."
            ),
        ),
    )
    steps = Section(
        study="step-error",
        title="At which step does the error arise?",
        question="Does the error of plain regions accumulate in the first tenth of the inversion?",
        paper_section="3.2",
        figures=(
            Figure(
                "fig4",
                "Figure 4. Error per inversion step",
                "Normalised error E_R(t) in plain and non-plain regions; bands are 95 % intervals.",
                _curves,
                192,
                50,
                CONVENTIONS,
                values=(
                    Row("photo-mixture / Plain", "step 1", 0.67, (0.62, 0.72)),
                    Row("photo-mixture / Plain", "step 2", float("nan")),
                ),
            ),
            Figure(
                "fig3",
                "Figure 3. Distance to noise and latent",
                "The path bends to the latent.",
                _heat,
                64,
                50,
            ),
        ),
        claims=(
            Claim("CF4a", "E_p(t) > E_n(t) in the first 10 %", "not resolved", {}, "n = 64 is too few."),
        ),
    )
    fix = Section(
        study="forward-fix",
        title="Does forward diffusion repair the latent?",
        question="What does replacing K steps cost in reconstruction, and what does it gain?",
        paper_section="4",
        tables=(fix_table(),),
        note="Inception weights are missing: the Fréchet distance is on raw pixels, a proxy.",
    )
    return Run(
        title="There and Back Again: what DDIM inversion returns",
        sections=(regions, correlation, steps, fix),
        provenance={
            "command": "taba run paper --store runs/demo",
            "versions": {"taba": "0.1.0", "python": "3.11.2", "torch": "2.13.0"},
            "network evaluations": 38400,
            "seconds": 71.25,
        },
        summary="photo-mixture, the exact denoiser of a mixture fitted to photographs; 192 images, 50 steps.",
    )
