"""Colours, lines and symbols of all figures, without the library that draws them."""

from __future__ import annotations

# Symbols of the paper, as matplotlib mathtext.
NOISE_SYMBOL = r"$x^T$"
LATENT_SYMBOL = r"$\hat{x}^T$"
SAMPLE_SYMBOL = r"$x^0$"

# Told apart with any common colour vision, and in grey: lightness differs as well as hue.
INK = "#1d2530"
MUTED = "#8a94a3"
COLORS = {
    "Noise": "#e08a1e",
    "Latent": "#5e3c99",
    "Sample": "#1b9e8a",
    "Fix": "#2b6cb0",
    "Plain": "#c2410c",
    "Non-plain": "#1f5f99",
}
CYCLE = ("#2b6cb0", "#c2410c", "#1b9e8a", "#5e3c99", "#e08a1e", "#64748b")
LINE_STYLES = ("-", "--", ":", "-.")
