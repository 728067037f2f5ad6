"""Noise levels: how much image and how much noise a state holds, and the time at which a network is asked. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Level:
    """The level of a state x = alpha x_0 + sigma eps, eps standard normal.

    Variance-preserving models (VP) have alpha^2 + sigma^2 = 1; flow-matching models have alpha + sigma = 1. What is
    stored are the squares, because schedules are tables of alpha_bar = alpha^2; the root of a square is the number
    itself to the last bit.

    Attributes:
      signal_power: alpha^2, at least 0; 0 is pure noise.
      noise_power: sigma^2, at least 0; 0 is the clean image.
      time: what a network is given at this level; None for a level that no network was trained on.

    Raises:
      ValueError: a power below 0, or both 0.
    """

    signal_power: float
    noise_power: float
    time: float | None = None

    def __post_init__(self) -> None:
        if not (
            self.signal_power >= 0 and self.noise_power >= 0 and self.signal_power + self.noise_power > 0
        ):
            raise ValueError(
                f"a level of alpha^2={self.signal_power} and sigma^2={self.noise_power}: both must be at least 0, and "
                "one of them above it."
            )

    @classmethod
    def vp(cls, alpha_bar: float, time: float | None = None) -> Level:
        """The level of a variance-preserving model: alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar).

        Raises:
          ValueError: alpha_bar is not in [0, 1].
        """
        if not 0 <= alpha_bar <= 1:
            raise ValueError(f"alpha_bar={alpha_bar} must be in [0, 1].")
        return cls(alpha_bar, 1 - alpha_bar, time)

    @classmethod
    def flow(cls, s: float, time: float | None = None) -> Level:
        """The level of a flow-matching model: alpha = 1 - s, sigma = s.

        Raises:
          ValueError: s is not in [0, 1].
        """
        if not 0 <= s <= 1:
            raise ValueError(f"s={s} must be in [0, 1].")
        return cls((1 - s) ** 2, s**2, time)

    @property
    def alpha(self) -> float:
        """Factor of the clean image."""
        return math.sqrt(self.signal_power)

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise."""
        return math.sqrt(self.noise_power)

    @property
    def size(self) -> float:
        """c = sqrt(alpha^2 + sigma^2), by which states are larger than those of a variance-preserving level."""
        return math.sqrt(self.signal_power + self.noise_power)

    @property
    def alpha_bar(self) -> float:
        """Share of the signal in the power, alpha^2 / (alpha^2 + sigma^2); of a VP level alpha^2 itself, to the bit."""
        return self.signal_power / (self.signal_power + self.noise_power)

    @property
    def noise_to_signal(self) -> float:
        """sigma / alpha; infinite for pure noise."""
        return math.sqrt(self.noise_power / self.signal_power) if self.signal_power else math.inf

    @property
    def log_snr(self) -> float:
        """lambda = log(alpha / sigma); plus infinity for the clean image, minus infinity for pure noise."""
        if not self.noise_power:
            return math.inf
        return 0.5 * math.log(self.signal_power / self.noise_power) if self.signal_power else -math.inf

    def at(self, time: float | None) -> Level:
        """The same alpha and sigma, the network asked at another time."""
        return replace(self, time=time)

    def same_mix(self, other: Level) -> bool:
        """Whether alpha and sigma are the same, whatever the times are."""
        return (self.signal_power, self.noise_power) == (other.signal_power, other.noise_power)
