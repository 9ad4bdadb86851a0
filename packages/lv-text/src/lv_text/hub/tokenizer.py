"""Vocabularies as tokenizers of the `transformers` library, and back."""

import json
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from lv_text.vocabulary import BOS, EOS, BpeVocabulary, ByteVocabulary, Vocabulary
from lv_text.vocabulary.bpe import _LETTERS

__all__ = ["tokenizer_json", "vocabulary_from_transformers"]

_PROBES = (
    "The miller's daughter didn't know; they'll say  she'd gone.\n\n\tx = y_1 + 23.50",
    "Ünïcödé 東京 👩‍👩‍👧 \u00a0\u3000 e\u0301 \x00\x7f",
    " leading and trailing \r\n",
)


def tokenizer_json(vocabulary: Vocabulary) -> str:
    """Returns a vocabulary in the format of `tokenizer.json`, which `transformers` loads.

    Texts get the same ids, except that `<|beginoftext|>` and `<|endoftext|>` in a text are taken
    for special tokens there, as by `encode(text, special=True)`; `split_special_tokens=True`
    treats them as text.

    Arguments:
        vocabulary: A `ByteVocabulary` or `BpeVocabulary`.

    Raises:
        TypeError: If it is of another kind.
    """
    if isinstance(vocabulary, BpeVocabulary):
        ids, merges = vocabulary._ids, vocabulary._merges
    elif isinstance(vocabulary, ByteVocabulary):
        ids, merges = _LETTERS, []
    else:
        raise TypeError(
            f"vocabulary must be a ByteVocabulary or BpeVocabulary, got "
            f"{type(vocabulary).__name__}: transformers has no format for it"
        )
    # Special tokens must be in the model, or they would be numbered after all others.
    known = {**ids, EOS: vocabulary.eos, BOS: vocabulary.bos}
    tokenizer = Tokenizer(models.BPE(vocab=known, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in (EOS, BOS)]
    )
    return str(tokenizer.to_str(pretty=False))


def vocabulary_from_transformers(tokenizer: Any) -> BpeVocabulary:  # noqa: ANN401 - not imported
    """Returns the vocabulary of a byte-level BPE tokenizer of `transformers`, with equal ids.

    `tokenizer(text, add_special_tokens=False).input_ids == vocabulary.encode(text)` for texts
    without special tokens. If it has no `<|beginoftext|>`, that is added as the last id.

    Arguments:
        tokenizer: A fast tokenizer in the manner of GPT-2, such as
            `AutoTokenizer.from_pretrained("gpt2")`.

    Raises:
        TypeError: If `tokenizer` is no fast tokenizer.
        ValueError: If it is of another kind: another model than BPE, a normalizer, another way of
            cutting texts, or other special tokens. The message says which.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise TypeError(
            "tokenizer must be a fast tokenizer of transformers, got "
            f"{type(tokenizer).__name__}: load it with AutoTokenizer and use_fast=True"
        )
    described = json.loads(backend.to_str())
    model = described["model"]
    problem = _problem(described)
    if problem:
        raise ValueError(
            f"tokenizer must be byte-level BPE in the manner of GPT-2, got one with {problem}"
        )
    ids: dict[str, int] = dict(model["vocab"])
    for token in described["added_tokens"]:
        if token["content"] not in (BOS, EOS):
            raise ValueError(
                f"tokenizer must have no special tokens but {EOS} and {BOS}, got "
                f"{token['content']!r} (id {token['id']}): ids of other tokens have no bytes"
            )
        ids[token["content"]] = token["id"]
    vocabulary = BpeVocabulary(ids, [_pair(merge) for merge in model["merges"]])
    for text in _PROBES:
        theirs, ours = backend.encode(text, add_special_tokens=False).ids, vocabulary.encode(text)
        if theirs != ours:
            raise ValueError(
                f"tokenizer gives {text!r} the ids {theirs[:12]}, the same tables here give "
                f"{ours[:12]}: it has settings that BpeVocabulary does not know"
            )
    return vocabulary


def _problem(described: dict[str, Any]) -> str | None:
    """Returns what makes a tokenizer another kind than GPT-2's, if anything."""
    model, cut = described["model"], described["pre_tokenizer"]
    if model["type"] != "BPE":
        return f"the model {model['type']}"
    for name in ("byte_fallback", "ignore_merges", "dropout"):
        if model.get(name):
            return f"{name}={model[name]}"
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            return f"{name}={model[name]!r}"
    if described["normalizer"] is not None:
        return f"the normalizer {described['normalizer']['type']}"
    if cut is None or cut["type"] != "ByteLevel":
        return f"the pre-tokenizer {None if cut is None else cut['type']}"
    if cut["add_prefix_space"]:
        return "add_prefix_space=True"
    if not cut.get("use_regex", True):
        return "use_regex=False"
    return None


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """Returns the two tokens of a merge; older files hold them in one string."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right
