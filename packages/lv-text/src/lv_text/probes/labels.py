"""Whether latents know more about a document than its words do."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lv_text.probes.linear import PENALTIES, LinearProbe, grouped_error, linear_probe

__all__ = ["LabelProbe", "bag_of_words", "label_probe"]

IGNORED = -100


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelProbe:
    """Two classifiers on the same documents and folds."""

    latents: LinearProbe
    """From posterior means."""
    words: LinearProbe
    """From the counts of tokens, which need no model at all."""
    advantage: float
    """Accuracy of the former minus that of the latter."""
    standard_error: float
    """Standard error of `advantage`, from the same documents (or groups) in pairs."""


def label_probe(
    means: Float[Tensor, "n ..."],
    tokens: Int[Tensor, "n time"],
    labels: Int[Tensor, " n"],
    *,
    folds: int = 5,
    groups: Int[Tensor, " n"] | None = None,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
) -> LabelProbe:
    """Predicts a label of documents, such as the author, from latents and from their words.

    The claim that latents hold what a text is about needs the second number: a bag of words tells
    authors and topics apart very well.

    Arguments:
        means: Posterior means, `(n, *event)`.
        tokens: The same documents' ids; -100 is padding.
        labels: Class of each document.
        folds: See `linear_probe`, as for the others.
        groups: Documents that stay together.
        penalties: Candidates.
        seed: Of the folds, which both classifiers share.

    Raises:
        ValueError: As `linear_probe`, or if `tokens` has another number of documents.

    Example:
        >>> label_probe(found.q.mean, tokens, authors, groups=books).advantage
    """
    if len(tokens) != len(labels):
        raise ValueError(
            f"tokens and labels must speak of as many documents, got {len(tokens)} and "
            f"{len(labels)}"
        )

    def probe(features: Tensor, *, standardize: bool) -> LinearProbe:
        return linear_probe(
            features,
            labels,
            folds=folds,
            groups=groups,
            penalties=penalties,
            standardize=standardize,
            generator=torch.Generator().manual_seed(seed),
        )

    latents = probe(means, standardize=True)
    # Scaled to variance one, words that occur once would count as much as all others.
    words = probe(bag_of_words(tokens), standardize=False)
    ours, theirs = ((p.predictions == labels).double() for p in (latents, words))
    return LabelProbe(
        latents=latents,
        words=words,
        advantage=latents.accuracy - words.accuracy,
        standard_error=grouped_error(ours - theirs, groups),
    )


def bag_of_words(tokens: Int[Tensor, "n time"]) -> Float[Tensor, "n kinds"]:
    """Returns log(1 + count) of each id in each document, scaled to length one.

    Only ids that occur have a column, in increasing order.

    Arguments:
        tokens: Documents; -100 is padding.

    Raises:
        ValueError: If a document has no token.
    """
    kept = tokens != IGNORED
    empty = (kept.sum(1) == 0).nonzero()
    if len(empty) or not tokens.numel():
        raise ValueError(
            "tokens must be documents with one token or more, got shape "
            f"{tuple(tokens.shape)} with {len(empty)} empty ones: leave them out"
        )
    kinds, column = torch.unique(tokens[kept], return_inverse=True)
    counts = torch.zeros(len(tokens), len(kinds), device=tokens.device)
    row = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(tokens)[kept]
    counts.index_put_((row, column), torch.ones((), device=tokens.device), accumulate=True)
    return torch.nn.functional.normalize(counts.log1p(), dim=1)
