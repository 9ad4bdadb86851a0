"""Zero-shot perplexity: published protocols on benchmark texts, with all bounds side by side."""

from lv_text.zero_shot.blocks import ZeroShotBlocks, zero_shot_blocks
from lv_text.zero_shot.runner import Score, ZeroShot, zero_shot
from lv_text.zero_shot.sets import (
    read_ag_news,
    read_lambada,
    read_scitldr,
    read_tinyshakespeare,
    read_wikitext,
)

__all__ = [
    "Score",
    "ZeroShot",
    "ZeroShotBlocks",
    "read_ag_news",
    "read_lambada",
    "read_scitldr",
    "read_tinyshakespeare",
    "read_wikitext",
    "zero_shot",
    "zero_shot_blocks",
]
