"""Exchange with the libraries of Hugging Face: models, tokenizers, data sets."""

from lv_text.hub.data import texts_from_datasets
from lv_text.hub.pretrained import Pretrained, load_pretrained, save_pretrained
from lv_text.hub.tokenizer import tokenizer_json, vocabulary_from_transformers

__all__ = [
    "Pretrained",
    "load_pretrained",
    "save_pretrained",
    "texts_from_datasets",
    "tokenizer_json",
    "vocabulary_from_transformers",
]
