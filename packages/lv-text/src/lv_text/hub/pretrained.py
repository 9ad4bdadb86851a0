"""Models in a folder in the layout of `save_pretrained` of Hugging Face's libraries."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lv_text.config import ThoughtConfig
from lv_text.encoder import ThoughtEncoder
from lv_text.hub.tokenizer import tokenizer_json
from lv_text.model import ThoughtModel
from lv_text.vocabulary import BOS, EOS, Vocabulary, check_vocabulary, load_vocabulary

__all__ = ["Pretrained", "load_pretrained", "save_pretrained"]

MODEL_TYPE = "latent-thought"
FORMAT = 1
"""Version of the layout; raised when older readers could misread a folder."""
CONFIG, WEIGHTS = "config.json", "model.safetensors"
ENCODER = "encoder."
"""What the names of an encoder's weights begin with; those of the model begin with decoder."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pretrained:
    """What a folder of `save_pretrained` holds."""

    model: ThoughtModel
    """The model, in evaluation mode."""
    vocabulary: Vocabulary
    """Its vocabulary."""
    encoder: ThoughtEncoder | None
    """The encoder of amortised inference, in evaluation mode; None if none was saved."""


def save_pretrained(
    model: ThoughtModel,
    folder: str | os.PathLike[str],
    *,
    vocabulary: Vocabulary,
    encoder: ThoughtEncoder | None = None,
) -> None:
    """Writes model and vocabulary to a folder that can be shared and uploaded.

    | file | content |
    |---|---|
    | `config.json` | sizes, versions, fingerprint of the vocabulary |
    | `model.safetensors` | weights in their dtypes; the output layer is the token table, once |
    | `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` | for transformers |
    | `vocabulary.json` and its files | for `load_vocabulary` |

    `config.json` is written last: a folder that has one is complete.

    Arguments:
        model: The model, not wrapped for distributed training.
        folder: Where; made where it does not exist. Files of an earlier model are replaced.
        vocabulary: The one that the model was trained with.
        encoder: Of the model's latents, to be saved along.

    Raises:
        ImportError: If safetensors is not installed.
        TypeError: If `model` is wrapped.
        ValueError: If vocabulary or encoder do not fit the model.

    Example:
        >>> save_pretrained(model, "ltm-small", vocabulary=vocabulary)
        >>> load_pretrained("ltm-small").model
    """
    if not isinstance(model, ThoughtModel):
        raise TypeError(
            f"model must be a ThoughtModel, got {type(model).__name__}: unwrap it, such as by "
            "`.module` of DistributedDataParallel or `._orig_mod` of torch.compile"
        )
    config = model.config
    _check_size(vocabulary, config)
    if encoder is not None and encoder.config != config:
        raise ValueError(
            f"encoder must be made for the sizes of the model, got {encoder.config} for {config}"
        )
    save = _safetensors("save")
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / CONFIG).unlink(missing_ok=True)  # what follows is incomplete until it is back
    weights = dict(model.state_dict())
    if encoder is not None:
        weights |= {ENCODER + name: value for name, value in encoder.state_dict().items()}
    stored = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    _replace(path / WEIGHTS, save(stored, {"format": "pt"}))  # what transformers asks for
    vocabulary.save(path)
    _replace(path / "tokenizer.json", tokenizer_json(vocabulary).encode())
    special = {"bos_token": BOS, "eos_token": EOS}
    _write(path / "special_tokens_map.json", special)
    _write(
        path / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **special,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": config.length,
        },
    )
    _write(
        path / CONFIG,
        {
            "model_type": MODEL_TYPE,
            "architectures": [type(model).__name__],
            "format": FORMAT,
            "thought_config": asdict(config),
            "encoder_config": None if encoder is None else {"layers": _layers(encoder)},
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "vocab_size": vocabulary.size,
            "bos_token_id": vocabulary.bos,
            "eos_token_id": vocabulary.eos,
            "vocabulary_fingerprint": vocabulary.fingerprint,
            "lv_text_version": version("lv-text"),
            "torch_version": torch.__version__,
        },
    )


def load_pretrained(
    folder: str | os.PathLike[str],
    *,
    vocabulary: Vocabulary | None = None,
    device: torch.device | str = "cpu",
) -> Pretrained:
    """Returns the model that `save_pretrained` wrote to a folder, bit by bit as it was.

    Arguments:
        folder: A folder on this machine.
        vocabulary: The one that the caller's ids are made with, to be checked; None = the one in
            the folder.
        device: Where the weights go.

    Raises:
        FileNotFoundError: If a file is missing.
        ImportError: If safetensors is not installed.
        ValueError: If a file is damaged, the folder holds another kind of model or was written by
            a newer version, or vocabulary, sizes and weights do not fit each other.
    """
    path = Path(folder)
    described = _described(path)
    config = _config(path, described)
    if vocabulary is None:
        vocabulary = load_vocabulary(path)
    check_vocabulary(f"the model in {path}", vocabulary, described["vocabulary_fingerprint"])
    _check_size(vocabulary, config)
    weights = _weights(path, str(device))
    # Initial weights, which nobody needs, would take time and the caller's random numbers.
    with torch.device("meta"):
        model, encoder = ThoughtModel(config), None
        if described["encoder_config"] is not None:
            encoder = ThoughtEncoder(config, layers=described["encoder_config"]["layers"])
    inner = {name: value for name, value in weights.items() if name.startswith(ENCODER)}
    outer = {name: value for name, value in weights.items() if name not in inner}
    _fill(model, outer, path)
    if encoder is not None or inner:
        stripped = {name.removeprefix(ENCODER): value for name, value in inner.items()}
        _fill(nn.Module() if encoder is None else encoder, stripped, path)
    if encoder is not None:
        encoder.to(device).eval()
    model.to(device).eval()
    return Pretrained(model=model, vocabulary=vocabulary, encoder=encoder)


def _described(path: Path) -> dict[str, Any]:
    """Returns what `config.json` says, if it is one of ours."""
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise FileNotFoundError(
                f"{path} holds no {name}: no model was saved there, or saving was interrupted"
            )
    try:
        described = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path / CONFIG} is damaged: {error}") from error
    kind = described.get("model_type") if isinstance(described, dict) else None
    if kind != MODEL_TYPE:
        raise ValueError(
            f"{path / CONFIG} must be of model_type {MODEL_TYPE!r}, got {kind!r}: load it with "
            "the library that made it"
        )
    if described.get("format") != FORMAT:
        raise ValueError(
            f"{path / CONFIG} must be of format {FORMAT}, got {described.get('format')!r}, "
            f"written by lv-text {described.get('lv_text_version')}: update lv-text"
        )
    missing = {"thought_config", "encoder_config", "vocabulary_fingerprint"} - described.keys()
    if missing:
        raise ValueError(f"{path / CONFIG} is damaged: it lacks {', '.join(sorted(missing))}")
    return dict(described)


def _config(path: Path, described: Mapping[str, Any]) -> ThoughtConfig:
    given = described["thought_config"]
    names = {field.name for field in fields(ThoughtConfig)}
    if given.keys() != names:
        wrong = ", ".join(sorted(given.keys() ^ names))
        raise ValueError(
            f"{path / CONFIG}: thought_config must hold the settings of ThoughtConfig, missing or "
            f"unknown are: {wrong}; it was written by lv-text {described.get('lv_text_version')}"
        )
    return ThoughtConfig(**given)


def _weights(path: Path, device: str) -> dict[str, Tensor]:
    load = _safetensors("load_file")
    try:
        found: dict[str, Tensor] = load(path / WEIGHTS, device=device)
    except Exception as error:  # the library has no public class for this in older versions
        raise ValueError(
            f"{path / WEIGHTS} is damaged ({error}): copy or download it again"
        ) from error
    return found


def _fill(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Puts weights into a network, or says what does not fit."""
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = [
        f"{name}: {given.get(name, 'missing')}, expected {wanted.get(name, 'no such weight')}"
        for name in sorted(wanted.keys() | given.keys())
        if wanted.get(name) != given.get(name)
    ]
    if wrong:
        raise ValueError(
            f"{path / WEIGHTS} must hold the weights of {CONFIG}, {len(wrong)} do not fit: "
            f"{'; '.join(wrong[:4])}; the files are of two models"
        )
    module.load_state_dict(weights, assign=True)  # keeps the dtypes of the file


def _check_size(vocabulary: Vocabulary, config: ThoughtConfig) -> None:
    if vocabulary.size != config.vocabulary:
        raise ValueError(
            f"vocabulary must have the {config.vocabulary} ids of the model, got {vocabulary!r}: "
            "give the one that the model was trained with"
        )


def _layers(encoder: ThoughtEncoder) -> int:
    return encoder.reader.config.layers


def _safetensors(name: str) -> Callable[..., Any]:
    try:
        function: Callable[..., Any] = getattr(import_module("safetensors.torch"), name)
    except ImportError as error:
        raise ImportError(
            "saving and loading models needs safetensors: install lv-text[hf]"
        ) from error
    return function


def _write(path: Path, content: Mapping[str, Any]) -> None:
    _replace(path, (json.dumps(content, indent=2) + "\n").encode())


def _replace(path: Path, content: bytes) -> None:
    """Writes a file in one go: a killed process leaves the old one or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
