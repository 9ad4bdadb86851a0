"""Corpora as shards of token ids on disk."""

from lv_text.store.layout import ShardRecord, SplitRecord
from lv_text.store.order import ReadOrder
from lv_text.store.reader import Batch, TokenStore
from lv_text.store.writer import ShardWriter, write_texts

__all__ = [
    "Batch",
    "ReadOrder",
    "ShardRecord",
    "ShardWriter",
    "SplitRecord",
    "TokenStore",
    "write_texts",
]
