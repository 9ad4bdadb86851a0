"""What the models write, and how much of a text is in the latents of each layer."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.ltm.figures_style import (
    Record,
    band,
    figure,
    key_below,
    line_of,
    numbers,
    plain,
    spread,
    thoughts,
)
from apps.ltm.results import by_variant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["layers", "prior_samples", "reconstructions"]

_BLOCK = (
    "white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.5 ui-monospace,monospace;"
    "border-left:3px solid {color};padding:.2rem .8rem;margin:.5rem 0"
)
# Control characters are invalid in HTML: their pictures, U+2400 on, stand for them.
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}


def prior_samples(records: Sequence[Record]) -> tuple[str, str] | None:
    """Returns what each variant writes from draws of the prior as HTML; None without texts."""
    parts = []
    for variant, group in by_variant([dict(record) for record in records]).items():
        found = group[0]["samples"]
        if not found["texts"]:
            continue
        entropy = ", ".join(f"{value:.2f}" for value in found["entropy"])
        real = found["entropy_of_text"]
        beside = f"; held-out text of this length: {_mean(real):.2f}" if real else ""
        line = line_of(variant)
        head = f"{line.label}, seed {group[0]['seed']}"
        parts.append(
            f"<h3>{escape(head)}</h3>"
            f'<p class="soft">entropy of the tokens, nats: {entropy}{beside}</p>'
            + "".join(_quoted(text, line.color) for text in found["texts"])
        )
    if not parts:
        return None
    return "".join(parts), (
        "Texts of z drawn from the prior and tokens drawn from p(x | z), verbatim, none left out "
        "(autoregressive: no z; first seed of each model). Entropy below that of held-out text "
        "of the same length shows repetition. Bytes that are no text appear as \ufffd, control "
        "characters as their pictures."
    )


def reconstructions(records: Sequence[Record]) -> tuple[str, str] | None:
    """Returns held-out texts and what their latents decode to as HTML; None without any."""
    parts = []
    for variant, group in thoughts(records).items():
        pairs = _probes(group[0]).get("texts", [])
        line = line_of(variant)
        if pairs:
            parts.append(f"<h3>{escape(line.label)}, seed {group[0]['seed']}</h3>")
        for pair in pairs:
            share = f"{pair['share']:.1%}" if pair["share"] is not None else "-"
            parts.append(
                f'<p class="soft">held-out text</p>{_quoted(pair["text"], "#888888")}'
                f'<p class="soft">decoded greedily from its latents and its first token, {share} '
                f"of the tokens equal</p>{_quoted(pair['decoded'], line.color)}"
            )
    if not parts:
        return None
    return "".join(parts), (
        "Held-out texts and their greedy reconstructions from the latents that inference found, "
        "free running: after one token too many all others count as wrong. No bound is claimed: "
        "with shared noise the latents hold what the noise happened to carry, too."
    )


def layers(records: Sequence[Record]) -> tuple["Figure", str] | None:
    """Draws the share of right tokens by layers whose latents are kept; None if not probed."""
    probed = [record for record in records if _probes(record).get("layers")]
    if not probed:
        return None
    fig = figure(3.6)
    axes = fig.subplots(1, 2, sharey=True)
    titles = ("others: zeros, the prior's mean", "others: a draw of the prior")
    for variant, group in thoughts(probed).items():
        line = line_of(variant)
        kept = _probes(group[0])["layers"]
        group = [record for record in group if _probes(record)["layers"] == kept]
        for ax, name in zip(axes, ("accuracy_zeros", "accuracy_prior"), strict=True):
            rows = np.stack([numbers(_probes(record)[name]) for record in group])
            band(ax, kept, rows, line, marker=line.marker)
            ax.set_xticks(kept)
    for ax, title in zip(axes, titles, strict=True):
        plain(ax, title, "layers that keep their latents", "")
        ax.grid(axis="y", color="0.92", linewidth=0.6)
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes[0].set_ylabel("tokens predicted right", fontsize=8)
    key_below(fig, axes)
    return fig, (
        "Share of held-out tokens that are the most probable one given the true tokens before "
        "them, when only the first layers keep the inferred latents of the text and the others "
        "read zeros (left) or a draw of the prior (right). What is right at 0 layers is due to "
        f"the language model alone. {spread(probed)}"
    )


def _probes(record: Record) -> dict[str, Any]:
    return dict(record.get("probes") or {})


def _quoted(text: str, color: str) -> str:
    style = _BLOCK.format(color=color)
    return f'<pre style="{style}">{escape(text.translate(_PICTURES))}</pre>'


def _mean(values: Sequence[float | None]) -> float:
    return float(np.mean(numbers(values)))
