"""The exact denoiser of a Gaussian mixture fitted to photographs: a diffusion model without a network.

With x_t = sqrt(a) x_0 + sqrt(1-a) e and x_0 from the mixture (pi_k, m_k, Sigma_k), x_t is a mixture of
Gaussians of covariance C_k = a Sigma_k + (1-a) I, and by Tweedie's formula the posterior mean of the noise is

    eps(x_t) = sqrt(1-a) * sum_k r_k C_k^-1 (x_t - sqrt(a) m_k),      r_k = P(component k | x_t).

This is (x_t - sqrt(a) E[x_0|x_t]) / sqrt(1-a) without its cancellation at a near 1. Woodbury's identity gives
C_k^-1 = W_k - V_k V_k^T with a diagonal W_k and few columns V_k, both made once a level.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taba_core.diffusion.schedule import NoiseSchedule
from taba_core.errors import UsageError
from taba_core.models.basis import OPPONENT, cosine_matrix, low_frequencies
from taba_core.models.catalog import load_card
from taba_core.models.crops import real_crops
from taba_core.models.grids import noise_schedule
from taba_core.models.mixture_fit import CROP_SIZE, Mixture, cached_mixture
from taba_core.models.options import PhotoMixtureOptions
from taba_core.models.photos import load_photos

# Axes: B samples, K components, d = 3 * 32 * 32 coefficients, L low-frequency coefficients, r rank.

MAX_LEVELS = 64  # prepared levels kept, about 5 MB each: all of a run of 50 steps
ANY_CLASS = -1  # class_id of a row that may be of any photograph
NEGLIGIBLE = 1e-9  # a smaller responsibility is 0: its share of eps is below float32 rounding


@dataclass(frozen=True)
class _Level:
    """What one noise level needs, float32 unless said; the log density of component k at x is

    const_k + sum_d (linear_dk x_d - precision_dk x_d^2 / 2) + |p_k|^2 / 2,    p_k = V_k^T (x - sqrt(a) m_k).

    On the low frequencies the sum cancels where a is near 1, so `low_*` and the constants are float64.
    """

    precision: Tensor  # (K, d) W
    linear: Tensor  # (K, d) sqrt(a) W m
    low_precision: Tensor  # (K, L), float64: W on the low frequencies
    low_linear: Tensor  # (K, L), float64: sqrt(a) W m on the low frequencies
    factors: Tensor  # (K r, L) V
    offset: Tensor  # (K r,) sqrt(a) V^T m
    const: Tensor  # (K,) float64
    log_norm: Tensor  # (K,) float64: log pi - log det C / 2
    sigma: float  # sqrt(1 - a)


class PhotoMixture:
    """Denoiser of 32x32 photographs, conditional on the photograph (`class_id`), values about [-1, 1]."""

    sample_shape = (3, CROP_SIZE, CROP_SIZE)
    value_range = (-1.0, 1.0)

    def __init__(
        self,
        mixture: Mixture,
        *,
        options: PhotoMixtureOptions | None = None,
        schedule: NoiseSchedule | None = None,
        device: str = "cpu",
    ) -> None:
        self.mixture = mixture
        self.options = options or PhotoMixtureOptions()
        self.schedule = schedule or noise_schedule(load_card("photo-mixture"))
        self.device = torch.device(device)
        self._levels: OrderedDict[int, _Level] = OrderedDict()
        self._rank = mixture.factors.shape[2]
        self._low = torch.tensor(low_frequencies(CROP_SIZE), device=self.device)
        self._cosines = self._tensor(cosine_matrix(CROP_SIZE)).float()
        self._columns = self._tensor(np.kron(OPPONENT, cosine_matrix(CROP_SIZE))).float()
        self._mean = self._tensor(mixture.mean)
        self._factors = self._tensor(mixture.factors)
        # Levels are prepared in float64; at many levels converting each time would cost as much as preparing.
        self._mean64, self._factors64 = self._mean.double(), self._factors.double()
        self._remainder64 = self._tensor(mixture.remainder).double()
        self._log_weight = self._tensor(mixture.log_weight)
        self._component_class = torch.tensor(mixture.component_class, device=self.device)

    @classmethod
    def fit(cls, options: PhotoMixtureOptions, *, device: str = "cpu") -> PhotoMixture:
        """The denoiser of the fitted photographs; the fit is cached (`mixture_fit.cached_mixture`)."""
        return cls(cached_mixture(options), options=options, device=device)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Photographs, in the order of `class_id`."""
        return self.mixture.class_names

    def real_crops(self, sample_ids: Sequence[int] | NDArray[np.integer], seed: int) -> NDArray[np.float32]:
        """Real crops to hold beside samples, (n, 3, 32, 32) in [-1, 1]; row i is of (seed, sample_ids[i])."""
        return real_crops(load_photos(self.options.photos), sample_ids, seed=seed)

    def null_condition(self, batch: int) -> dict[str, Tensor]:
        """The condition that says nothing, `batch` rows: any photograph."""
        return {"class_id": torch.full((batch,), ANY_CLASS, dtype=torch.int64, device=self.device)}

    def eps(self, x_t: Tensor, t: float, cond: Mapping[str, Tensor]) -> Tensor:
        """Posterior mean of the noise in x_t, exact for the mixture.

        Args:
          x_t: states, (B, 3, 32, 32), float32.
          t: training timestep, a whole number from 0 to 999.
          cond: may hold `class_id`, int64 (B,): the photograph of each row, -1 for any.

        Returns:
          eps_t, (B, 3, 32, 32), float32. Row i depends on row i of the inputs only, up to rounding.

        Raises:
          UsageError: a shape, timestep or class that does not exist.
        """
        level = self._level(t)
        x = self._analyse(x_t)
        projected = self._project(level, x)
        share = self._responsibilities(self._log_density(level, x, projected), cond)

        # sum_k r_k C_k^-1 (x - sqrt(a) m_k) = x (r W) - r (sqrt(a) W m) - sum_k r_k V_k p_k
        score = torch.addcmul(share @ level.linear, x, share @ level.precision, value=-1.0)
        weighted = projected.view(len(x), -1, self._rank) * share[:, :, None]
        score.index_add_(1, self._low, weighted.view(len(x), -1) @ level.factors)
        return self._synthesise(score.mul_(-level.sigma), x_t)

    def class_posterior(self, x_t: Tensor, t: float) -> Tensor:
        """Probability of each photograph for x_t, exact for the mixture: the sum of r_k over its components.

        Args:
          x_t: states, (B, 3, 32, 32), float32.
          t: training timestep, a whole number from 0 to 999.

        Returns:
          P(class | x_t), (B, classes), float64; rows sum to 1.

        Raises:
          UsageError: a shape or timestep that does not exist.
        """
        level, x = self._level(t), self._analyse(x_t)
        share = self._log_density(level, x, self._project(level, x)).softmax(1)
        return share.new_zeros(len(x), len(self.class_names)).index_add_(1, self._component_class, share)

    def prepare(self, t: float) -> None:
        """Make what a level needs, unless it is there; `eps` does so itself at the first use."""
        self._level(t)

    def eps_loop(self, x_t: Tensor, t: float, cond: Mapping[str, Tensor]) -> Tensor:
        """The same as `eps`, one component after the other: the plain way, for benchmarks and tests."""
        level = self._level(t)
        x = self._analyse(x_t)
        root_a = math.sqrt(1.0 - level.sigma**2)
        solved, log_density = [], []
        for k in range(len(self.mixture.mean)):
            centred = x - root_a * self._mean[k]
            solve = centred * level.precision[k]
            factors = level.factors[k * self._rank : (k + 1) * self._rank]
            solve[:, self._low] -= centred[:, self._low] @ factors.T @ factors
            solved.append(solve)
            log_density.append(level.log_norm[k] - 0.5 * (centred * solve).sum(1, dtype=torch.float64))
        share = self._responsibilities(torch.stack(log_density, 1), cond)
        score = torch.zeros_like(x)
        for k, solve in enumerate(solved):
            score += share[:, k, None] * solve
        return self._synthesise(level.sigma * score, x_t)

    def _tensor(self, array: NDArray[np.floating]) -> Tensor:
        return torch.tensor(array, device=self.device)

    def _project(self, level: _Level, x: Tensor) -> Tensor:
        """p for all components at once, (B, K r)."""
        return torch.addmm(level.offset, x[:, self._low], level.factors.T, beta=-1.0)

    def _log_density(self, level: _Level, x: Tensor, projected: Tensor) -> Tensor:
        """log pi_k N(x; k) up to a constant of the level, (B, K), float64."""
        low = x[:, self._low].double()
        density = torch.addmm(level.const, low, level.low_linear.T)
        density.addmm_(low.square_(), level.low_precision.T, alpha=-0.5)
        high = x.index_fill(1, self._low, 0.0)
        density += torch.addmm(high @ level.linear.T, high * high, level.precision.T, alpha=-0.5)
        squares = torch.linalg.vector_norm(projected.view(len(x), -1, self._rank), dim=2).square()
        return density.add_(squares, alpha=0.5)

    def _responsibilities(self, log_density: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """r, (B, K), float32; 0 outside the class of a row."""
        class_id = cond.get("class_id")
        if class_id is not None:
            wanted = self._checked_classes(class_id, len(log_density))[:, None]
            log_density = log_density.masked_fill(
                (wanted >= 0) & (wanted != self._component_class), -torch.inf
            )
        share = log_density.softmax(1)
        return share.masked_fill(share < NEGLIGIBLE, 0.0).float()

    def _checked_classes(self, class_id: Tensor, num_rows: int) -> Tensor:
        names = self.class_names
        if class_id.shape != (num_rows,):
            raise UsageError(
                f"class_id has shape {tuple(class_id.shape)}; it needs one class a row: ({num_rows},)."
            )
        if len(class_id) and not -1 <= int(class_id.min()) <= int(class_id.max()) < len(names):
            raise UsageError(
                f"class_id from {int(class_id.min())} to {int(class_id.max())}: the photo mixture has "
                f"classes 0 to {len(names) - 1} ({', '.join(names)}); -1 is any."
            )
        return class_id.to(self.device)

    def _analyse(self, x_t: Tensor) -> Tensor:
        """Images to coefficients, (B, 3, 32, 32) to (B, d), float32."""
        if tuple(x_t.shape[1:]) != self.sample_shape:
            raise UsageError(f"x_t has shape {tuple(x_t.shape)}; the photo mixture reads (B, 3, 32, 32).")
        rows = x_t.to(self.device, torch.float32).reshape(-1, CROP_SIZE) @ self._cosines.T
        return (self._columns @ rows.view(len(x_t), -1, CROP_SIZE)).view(len(x_t), -1)

    def _synthesise(self, coefficients: Tensor, like: Tensor) -> Tensor:
        """Coefficients to images, (B, d) to (B, 3, 32, 32), in the type and place of `like`."""
        rows = self._columns.T @ coefficients.view(len(like), -1, CROP_SIZE)
        return (rows.view(-1, CROP_SIZE) @ self._cosines).view(like.shape).to(like)

    def _level(self, t: float) -> _Level:
        """The prepared level of a timestep; the most recently used are kept."""
        timestep = int(t)
        if timestep != t or not 0 <= timestep < self.schedule.num_train_timesteps:
            last = self.schedule.num_train_timesteps - 1
            raise UsageError(
                f"t={t:g} is no training timestep of the photo mixture; use a whole number 0 to {last}."
            )
        if timestep not in self._levels:
            self._levels[timestep] = self._prepare(float(self.schedule.alpha_bar[timestep]))
            if len(self._levels) > MAX_LEVELS:
                self._levels.popitem(last=False)
        self._levels.move_to_end(timestep)
        return self._levels[timestep]

    def _prepare(self, a: float) -> _Level:
        """Invert and factorise all covariances at alpha-bar `a`, in float64:

        C = diag(1/W) + a U U^T,  W = 1 / (a D + 1 - a),  G G^T = I + a U^T W U,  V = sqrt(a) W U G^-T.
        """
        mean = self._mean64
        precision = (a * self._remainder64).add_(1.0 - a).reciprocal_()
        linear = (math.sqrt(a) * precision).mul_(mean)
        scaled = math.sqrt(a) * self._factors64
        weighted = precision[:, self._low, None] * scaled
        core = torch.eye(self._rank, dtype=torch.float64, device=self.device) + scaled.mT @ weighted
        cholesky = torch.linalg.cholesky(core)
        factors = torch.linalg.solve_triangular(cholesky, weighted.mT, upper=False)  # (K, r, L)
        offset = math.sqrt(a) * (factors @ mean[:, self._low, None])
        log_det = 2.0 * cholesky.diagonal(dim1=1, dim2=2).log().sum(1) - precision.log().sum(1)
        log_norm = self._log_weight - 0.5 * log_det
        return _Level(
            precision=precision.float(),
            linear=linear.float(),
            low_precision=precision[:, self._low],
            low_linear=linear[:, self._low],
            factors=factors.float().reshape(-1, len(self._low)),
            offset=offset.float().reshape(-1),
            const=log_norm - 0.5 * math.sqrt(a) * (linear * mean).sum(1),
            log_norm=log_norm,
            sigma=math.sqrt(1.0 - a),
        )
