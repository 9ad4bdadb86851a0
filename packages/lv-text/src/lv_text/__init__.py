"""Language models with latent thought vectors: inference, honest bounds, generation."""

from importlib.metadata import version

from lv_text.bounds import (
    Bounds,
    Continuation,
    autoregressive_nll,
    continuation,
    evaluate_bounds,
    gaussian_prior,
)
from lv_text.config import ThoughtConfig
from lv_text.encoder import ThoughtEncoder
from lv_text.inference import Inference, Inferred, infer, infer_from
from lv_text.model import ThoughtModel
from lv_text.sample import sample_documents
from lv_text.store import Batch, ShardWriter, TokenStore, write_texts
from lv_text.vocabulary import (
    BpeVocabulary,
    ByteVocabulary,
    Vocabulary,
    check_vocabulary,
    load_vocabulary,
)

__version__ = version("lv-text")

__all__ = [
    "Batch",
    "Bounds",
    "BpeVocabulary",
    "ByteVocabulary",
    "Continuation",
    "Inference",
    "Inferred",
    "ShardWriter",
    "ThoughtConfig",
    "ThoughtEncoder",
    "ThoughtModel",
    "TokenStore",
    "Vocabulary",
    "__version__",
    "autoregressive_nll",
    "check_vocabulary",
    "continuation",
    "evaluate_bounds",
    "gaussian_prior",
    "infer",
    "infer_from",
    "load_vocabulary",
    "sample_documents",
    "write_texts",
]
