"""`zero-shot`: perplexities on benchmark texts by all definitions, in published protocols."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from apps._runner import UserError
from apps.ltm.commands_open import Common, baseline_of, data_set, open_model, table
from lv_text.detokenize import DETOKENIZERS, scientific_papers
from lv_text.zero_shot import (
    read_ag_news,
    read_lambada,
    read_scitldr,
    read_tinyshakespeare,
    read_wikitext,
    zero_shot,
    zero_shot_blocks,
)

__all__ = ["Settings", "run"]

Rules = Callable[[str], str] | None
Reader = Callable[[Path], Iterable[str]]

SETS: dict[str, tuple[str, Reader, Rules]] = {
    "wikitext": ("wikitext2-eval", read_wikitext, DETOKENIZERS["wikitext"]),
    "lambada": ("lambada", read_lambada, DETOKENIZERS["lambada"]),
    "ag-news": ("ag-news", read_ag_news, DETOKENIZERS["ag_news"]),
    "scitldr": ("scitldr", read_scitldr, scientific_papers),
    "tinyshakespeare": ("tinyshakespeare", read_tinyshakespeare, None),
}
"""Name in the registry, reader, detokenizer."""


NAMES = {
    "nelbo_shared_noise": "shared-noise number",
    "nelbo": "valid bound",
    "iwae": "IWAE",
    "autoregressive": "exact NLL without latents",
}


@dataclass(frozen=True, kw_only=True)
class Settings(Common):
    """Scores benchmark texts that the model was not trained on."""

    set: Literal["wikitext", "lambada", "ag-news", "scitldr", "tinyshakespeare"] = "wikitext"
    """which benchmark"""
    path: str = ""
    """a file or folder of it; empty = where data sets are looked for"""
    data: str = ""
    """folder with one sub-folder per data set; empty means $LV_DATA, the user cache"""
    protocol: Literal["official", "mdlm"] = "official"
    """how texts are cut into blocks; numbers of the two differ"""
    limit: int = 16
    """blocks; 0 = all"""
    steps: int = 0
    """inference steps; 0 = as in training"""
    samples: int = 16
    """fresh draws of the valid bounds"""
    batch_size: int = 8
    """blocks at a time"""


def run(given: Settings) -> None:
    """Prints the perplexities as a table and writes them to zero-shot-<set>-<model>.json."""
    for name in ("samples", "batch_size"):
        if getattr(given, name) < 1:
            raise UserError(f"{name} must be positive, got {getattr(given, name)}")
    if given.limit < 0:
        raise UserError(f"limit must be positive, or 0 for all, got {given.limit}")
    opened = open_model(given)
    opened.need_latents("zero-shot")
    name, read, rules = SETS[given.set]
    blocks = zero_shot_blocks(
        read(data_set(name, given.path, given.data)),
        opened.vocabulary,
        length=min(1024, opened.cell.model.length + 1),
        detokenizer=rules,
        protocol=given.protocol,
    )
    base = baseline_of(given, opened)
    found = zero_shot(
        opened.model,
        blocks,
        opened.inference(given.steps),
        baseline=None if base is None else base.model,
        encoder=opened.encoder,
        samples=given.samples,
        batch_size=given.batch_size,
        limit=given.limit or None,
        seed=given.seed,
    )
    scores = dict(found.scores)
    plain = "none in this run" if base is None else base.cell.name
    if base is None:
        # The model's own NLL without latents says nothing: it never read a text without them.
        del scores["autoregressive"]
    rows: list[dict[str, Any]] = [
        {
            "number": NAMES[key],
            "nats per token": score.perplexity.nats_per_token,
            "perplexity, exp of the mean": score.perplexity.corpus,
            "mean over blocks": score.perplexity.sequence_mean,
            "bits per byte": score.bits_per_byte,
            "a bound": score.bound,
        }
        for key, score in scores.items()
    ]
    scored = len(found.bounds.tokens)
    length = blocks.tokens.shape[1]
    print(
        f"{given.set}, protocol {given.protocol}: {scored} of {len(blocks.tokens)} blocks of "
        f"{length} scored tokens (published protocols: 1,023 of GPT-2's), {blocks.texts} texts\n"
    )
    print(table(rows))
    print("\nOnly rows that are a bound can be compared with other models.")
    print(f"model without latents: {plain}")
    opened.write(
        f"zero-shot-{given.set}",
        {
            "set": given.set,
            "protocol": given.protocol,
            "blocks": scored,
            "tokens_per_block": length,
            "steps": opened.inference(given.steps).steps,
            "baseline": None if base is None else base.cell.name,
            "scores": rows,
        },
    )
