"""Vocabularies: text to token ids and back, exactly."""

from lv_text.vocabulary.base import BOS, EOS, Ids, Vocabulary, check_vocabulary
from lv_text.vocabulary.bpe import BpeVocabulary
from lv_text.vocabulary.byte import ByteVocabulary
from lv_text.vocabulary.folder import load_vocabulary

__all__ = [
    "BOS",
    "EOS",
    "BpeVocabulary",
    "ByteVocabulary",
    "Ids",
    "Vocabulary",
    "check_vocabulary",
    "load_vocabulary",
]
