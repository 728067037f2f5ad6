"""Numbers and mathematics as text: rounding, and plain unicode mathematics as HTML and LaTeX.

Captions are written in plain text ("x̂_T", "ᾱ_t", "std_p", "10^{-4}"): a letter, or a word of up to five,
followed by _ or ^ and one character or a braced group is a symbol; anything else is text ("x0_rule").
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

_MARKS = {"\u0302": "hat", "\u0303": "tilde", "\u0304": "bar"}
_SYMBOL = re.compile(
    r"(?<![^\W_])((?:[^\W\d_]|10|[a-zA-Z]{2,5})[\u0302-\u0304]?)((?:[_^](?:\{[^{}]*\}|[^\W_](?![^\W_])))+)"
)
_SCRIPT = re.compile(r"([_^])(?:\{([^{}]*)\}|(.))")

_LATEX_TEXT = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "—": "---",
    "’": "'",
    "‘": "`",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
    "\u00a0": "~",
    "\u2009": r"\,",
    "\u202f": r"\,",
}
_LATEX_MATH = {
    "α": r"\alpha",
    "β": r"\beta",
    "γ": r"\gamma",
    "δ": r"\delta",
    "ε": r"\epsilon",
    "η": r"\eta",
    "θ": r"\theta",
    "λ": r"\lambda",
    "μ": r"\mu",
    "π": r"\pi",
    "ρ": r"\rho",
    "σ": r"\sigma",
    "τ": r"\tau",
    "Δ": r"\Delta",
    "Π": r"\Pi",
    "Σ": r"\Sigma",
    "±": r"\pm",
    "×": r"\times",
    "·": r"\cdot",
    "−": "-",
    "≤": r"\leq",
    "≥": r"\geq",
    "≠": r"\neq",
    "≈": r"\approx",
    "→": r"\to",
    "←": r"\leftarrow",
    "‖": r"\|",
    "√": r"\surd",
    "∞": r"\infty",
    "∈": r"\in",
    "°": r"^{\circ}",
    "∗": "*",
    "²": "^{2}",
    "³": "^{3}",
    "⁰": "^{0}",
    "ᵀ": "^{T}",
    "₀": "_{0}",
    "₂": "_{2}",
    "ₜ": "_{t}",
    "∑": r"\sum",
    "ℓ": r"\ell",
}


_LARGE = 1e6  # what has diverged: its digits tell nothing


def format_number(value: float, digits: int) -> str:
    """Fixed decimals; scientific where they would show only zeros or a million; "n/a" for a value not computed.

    0.252, 3 -> "0.252"; 0.00048, 3 -> "4.8e-4"; 5.49e11, 3 -> "5.5e11"; -0.0 -> "0.000".
    """
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if (value != 0 and abs(value) < 0.5 * 10.0**-digits) or abs(value) >= _LARGE:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−", 1 if value < 0 else 0)
    text = f"{value:.{digits}f}"
    text = text.lstrip("-") if float(text) == 0 else text
    return text.replace("-", "−")


def format_any(value: Any) -> str:
    """Any value of a claim or of the provenance: four significant digits, grouped integers, [a, b] lists."""
    if value is None:
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        return "n/a" if math.isnan(value) else f"{value:.4g}".replace("-", "−", 1 if value < 0 else 0)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {format_any(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(format_any(item) for item in value) + "]"
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return format_any(value.tolist())
    return str(value)


def _letters(text: str) -> list[str]:
    return [letter for letter in text if letter not in _MARKS]


def to_html(text: str) -> str:
    """Escaped HTML with sub- and superscripts: "x̂_T" -> "<i>x̂</i><sub>T</sub>"."""

    def script(match: re.Match[str]) -> str:
        tag = "sub" if match[1] == "_" else "sup"
        return f"<{tag}>{match[2] or match[3]}</{tag}>"

    def symbol(match: re.Match[str]) -> str:
        base = match[1] if len(_letters(match[1])) > 1 else f"<i>{match[1]}</i>"
        return base + _SCRIPT.sub(script, match[2])

    return _SYMBOL.sub(symbol, html.escape(unicodedata.normalize("NFC", text)))


def _latex_letter(letter: str) -> str:
    # ŷ and ᾱ exist as one code point, x̂ does not: decompose, so that all become \hat, \tilde or \bar.
    base, *marks = tuple(unicodedata.normalize("NFD", letter))
    result = _LATEX_MATH.get(base, base)
    for mark in marks:
        result = rf"\{_MARKS[mark]}{{{result}}}" if mark in _MARKS else result + mark
    return result


def _latex_plain(text: str) -> str:
    result = []
    for cluster in re.findall(r".[\u0302-\u0304]*", text, re.DOTALL):
        parts = unicodedata.normalize("NFD", cluster)
        accented = len(parts) == 2 and parts[1] in _MARKS and not parts[0].isascii()  # ᾱ yes, ñ no
        if cluster in _LATEX_TEXT:
            result.append(_LATEX_TEXT[cluster])
        elif cluster in _LATEX_MATH or len(cluster) > 1 or accented:
            result.append(f"${_latex_letter(cluster)}$")
        else:
            result.append(cluster)
    return "".join(result)


def to_latex(text: str) -> str:
    """LaTeX text: special characters escaped, unicode mathematics as math: "x̂_T" -> r"$\\hat{x}_{T}$"."""
    text = unicodedata.normalize("NFC", text)
    result, end = [], 0
    for match in _SYMBOL.finditer(text):
        scripts = "".join(
            f"{s[1]}{{{''.join(_latex_letter(c) if c.strip() else c for c in s[2] or s[3])}}}"
            for s in _SCRIPT.finditer(match[2])
        )
        result.append(_latex_plain(text[end : match.start()]))
        word = len(_letters(match[1])) > 1
        base = rf"\mathrm{{{match[1]}}}" if word else _latex_letter(match[1])
        result.append(f"${base}{scripts}$")
        end = match.end()
    return "".join(result) + _latex_plain(text[end:])
