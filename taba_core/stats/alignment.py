"""How alike are two representations of the same samples? CKA and SVCCA (Figure 13)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import UsageError
from taba_core.stats.base import COUNT, Array, Block, State, Statistic, as_float64, flat, ratio
from taba_core.stats.comoments import ROWS, CoMomentStatistic
from taba_core.stats.inputs import Input, features

_SPLIT, _NORMS, _SKEW = "split", "norms", "skew"
_RANK_TOLERANCE = (
    1e-10  # a direction with less of the largest variance than this is rounding, not a direction
)


@dataclass(frozen=True)
class FeatureAlignment(CoMomentStatistic):
    """Linear CKA and SVCCA of features X (n, d_x) and Y (n, d_y) of the same samples, in one pass.

    CKA = ||C_xy||^2 / (||C_xx|| ||C_yy||) with C the co-moments (Kornblith et al. 2019). Unbiased: each of the three
    terms is the U-statistic HSIC_1 (Song et al. 2012), which for centred samples with squared norms a_i = |x_i|^2,
    b_i = |y_i|^2 is [||C_xy||^2 - n/(n-2) sum a_i b_i + sum a_i sum b_i / ((n-1)(n-2))] / (n (n-3)).
    SVCCA = mean canonical correlation of the `dims` leading principal directions of the features standardised one by
    one: the mean singular value of U_x^T U_y, in closed form and without random numbers.

    State: fewer samples than features as rows, else (d_x + d_y)^2 co-moments and the sums that move the norms
    a_i, b_i to another mean. Both values ignore shifts and a common scale of all features of a set.

    Values (scalars): cka, cka_unbiased (NaN for n < 4), svcca. NaN for n < 2 or a set that does not vary.
    """

    reference: str = "features_real"
    estimate: str = "features"
    dims: int = 10

    def __post_init__(self) -> None:
        if self.dims < 1:
            raise UsageError(f"dims={self.dims}: SVCCA compares at least one direction.")

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Two variables, (n, ...) each."""
        return (features(self.reference, grid="x"), features(self.estimate, grid="y"))

    def features(self, block: Block) -> NDArray[np.float64]:
        """X and Y side by side, for their cross moments, (1, n, d_x + d_y)."""
        return np.concatenate([flat(block[name]) for name in self.variables], axis=1)[None]

    def rows_kept(self, num_features: int) -> int:
        """Below d_x + d_y samples, rows are smaller than co-moments."""
        return max(super().rows_kept(num_features), num_features)

    def partial(self, block: Block) -> State:
        """Features of a block, and where Y begins."""
        rows, split = self.features(block), int(np.prod(np.shape(block[self.reference])[1:]))
        return self.settled(
            {
                COUNT: np.asarray(rows.shape[1], dtype=np.int64),
                ROWS: rows,
                _SPLIT: np.asarray(split, dtype=np.int64),
            }
        )

    def combine(self, a: State, b: State) -> State:
        """Chan's rule, and the norms moved to the common mean."""
        split = a[_SPLIT]
        if ROWS in a and ROWS in b:
            return self.settled({ROWS: np.concatenate([a[ROWS], b[ROWS]], axis=1), _SPLIT: split})
        a, b = {**a, **self.moments(a)}, {**b, **self.moments(b)}
        merged = super().combine(a, b)
        moved = [_moved(state, merged["mean"]) for state in (a, b)]
        sums = {name: moved[0][name] + moved[1][name] for name in (_NORMS, _SKEW)}
        return {**merged, **sums, _SPLIT: split}

    def merge_tree(self, states: Sequence[State]) -> State:
        """Whole states in pairs: the norms move with the mean."""
        return Statistic.merge_tree(self, states)

    def moments(self, state: State) -> State:
        """Mean, co-moments, and sums of products of norms with norms and features."""
        moments = super().moments(state)
        if ROWS not in state:
            return {**moments, _NORMS: state[_NORMS], _SKEW: state[_SKEW]}
        centred = state[ROWS][0] - moments["mean"][0]
        squares, split = np.square(centred), int(state[_SPLIT])
        norms = np.stack([squares[:, :split].sum(axis=1), squares[:, split:].sum(axis=1)], axis=1)
        return {**moments, _NORMS: norms.T @ norms, _SKEW: norms.T @ centred}

    def summarise(self, state: State) -> dict[str, Array]:
        """Compare the two sets."""
        n, split = int(state[COUNT]), int(state[_SPLIT])
        if ROWS in state and n < state[ROWS].shape[-1]:
            (rows,) = state[ROWS]
            return self._by_samples(rows[:, :split], rows[:, split:])
        moments = self.moments(state)
        c = moments["comoment"][0]
        cxx, cyy, cxy = c[:split, :split], c[split:, split:], c[:split, split:]
        inner = np.array([[np.square(cxx).sum(), np.square(cxy).sum()], [0.0, np.square(cyy).sum()]])
        totals = np.array([np.trace(cxx), np.trace(cyy)])
        scale = np.sqrt(np.diagonal(c))
        unit = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1.0), 0.0)
        c = c * unit[:, None] * unit
        values_x, vectors_x = _leading(c[:split, :split], self.dims)
        values_y, vectors_y = _leading(c[split:, split:], self.dims)
        common = vectors_x.T @ c[:split, split:] @ vectors_y / np.sqrt(np.outer(values_x, values_y))
        return _values(n, inner, totals, moments[_NORMS], common)

    def _by_samples(self, x: Array, y: Array) -> dict[str, Array]:
        """The same from n x n products, where there are fewer samples than features."""
        n = len(x)
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        k, l = x @ x.T, y @ y.T
        norms = np.stack([np.diagonal(k), np.diagonal(l)], axis=1)
        inner = np.array([[np.square(k).sum(), (k * l).sum()], [0.0, np.square(l).sum()]])
        _, u = _leading(_standardised_gram(x), self.dims)
        _, v = _leading(_standardised_gram(y), self.dims)
        return _values(n, inner, norms.sum(axis=0), norms.T @ norms, u.T @ v)


def _moved(state: State, mean: Array) -> State:
    """Sums over a state's samples z of norms |z_g - m_g|^2 with themselves and with z - m, for another mean m.

    With delta = m - mean of the state, the norm of a sample becomes a_g - 2 delta_g . z_g + |delta_g|^2.
    """
    n, split, c = float(state[COUNT]), int(state[_SPLIT]), state["comoment"][0]
    delta = (mean - state["mean"])[0]
    parts = (slice(None, split), slice(split, None))
    size = np.array([np.square(delta[part]).sum() for part in parts])
    total = np.array([np.trace(c[part, part]) for part in parts])
    along = np.stack([c[:, part] @ delta[part] for part in parts])  # (2, p): sum of (delta_g . z_g) z
    skew = state[_SKEW]
    cross = np.stack(
        [skew[:, part] @ delta[part] for part in parts], axis=1
    )  # (g, h): sum a_g (delta_h . z_h)
    both = np.stack([along[:, part] @ delta[part] for part in parts], axis=1)
    norms = state[_NORMS] - 2 * (cross + cross.T) + 4 * both
    norms = norms + np.outer(total, size) + np.outer(size, total) + n * np.outer(size, size)
    moved = skew - 2 * along - np.outer(total + n * size, delta)
    return {_NORMS: norms, _SKEW: moved}


def _standardised_gram(x: Array) -> NDArray[np.float64]:
    scale = np.sqrt(np.square(x).sum(axis=0))
    unit = x * np.where(scale > 0, 1 / np.where(scale > 0, scale, 1.0), 0.0)
    return np.asarray(unit @ unit.T)


def _leading(symmetric: Array, dims: int) -> tuple[Array, Array]:
    """Leading eigenvalues (k,) and eigenvectors (p, k), k <= dims, without the directions that do not vary."""
    values, vectors = np.linalg.eigh(symmetric)
    values, vectors = values[::-1][:dims], vectors[:, ::-1][:, :dims]
    varies = values > max(float(values[0]), 0.0) * _RANK_TOLERANCE
    return values[varies], vectors[:, varies]


def _values(n: int, inner: Array, totals: Array, norms: Array, common: Array) -> dict[str, Array]:
    """CKA from inner products of Gram matrices, SVCCA from U_x^T U_y."""
    cka = ratio(inner[0, 1], np.sqrt(inner[0, 0] * inner[1, 1]))
    unbiased = np.asarray(np.nan)
    if n > 3:
        hsic = inner - norms * (n / (n - 2)) + np.outer(totals, totals) / ((n - 1) * (n - 2))
        with np.errstate(invalid="ignore"):
            unbiased = ratio(hsic[0, 1], np.sqrt(hsic[0, 0] * hsic[1, 1]))
    shared = min(common.shape) and n > 1
    svcca = np.linalg.svd(common, compute_uv=False).mean() if shared else np.nan
    return {"cka": cka, "cka_unbiased": unbiased, "svcca": np.asarray(svcca)}


def kernel_alignment(
    x: Array, y: Array, *, sigma: float | None = None, samples_per_block: int = 256
) -> float:
    """Biased CKA of n samples by n x n Gram matrices, in blocks: for kernels, and for more features than samples.

    HSIC(K, L) = sum K L - 2/n k.l + sum k sum l / n^2, with k, l the row sums. Memory: a block pair and 2 n numbers.

    Args:
      x, y: features (n, ...) of the same samples.
      sigma: width of the kernel exp(-|u - v|^2 / (2 sigma^2)); None = linear.
    """
    u, v = flat(x), flat(y)
    if len(u) != len(v):
        raise UsageError(f"alignment of {len(u)} with {len(v)} samples; both must describe the same samples.")
    u, v = u - u.mean(axis=0), v - v.mean(axis=0)
    n, starts = len(u), range(0, len(u), samples_per_block)
    inner, sums = np.zeros((2, 2)), np.zeros((2, n))
    for i in starts:
        for j in starts:
            rows, columns = slice(i, i + samples_per_block), slice(j, j + samples_per_block)
            grams = [_gram(z[rows], z[columns], sigma) for z in (u, v)]
            inner += [[(a * b).sum() for b in grams] for a in grams]
            sums[:, rows] += [gram.sum(axis=1) for gram in grams]
    totals = sums.sum(axis=1)
    hsic = inner - 2 / n * (sums @ sums.T) + np.outer(totals, totals) / n**2
    return float(ratio(hsic[0, 1], np.sqrt(hsic[0, 0] * hsic[1, 1])))


def _gram(a: Array, b: Array, sigma: float | None) -> NDArray[np.float64]:
    product = as_float64(a) @ as_float64(b).T
    if sigma is None:
        return product
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * product
    return np.asarray(np.exp(-np.maximum(squares, 0.0) / (2 * sigma**2)))
