"""Text from latents: sampling, completion, reconstruction and the scoring of candidates."""

from lv_text.generation.complete import Completion, complete
from lv_text.generation.generate import Generated, generate
from lv_text.generation.latents import Latent, posterior_samples, prior_samples
from lv_text.generation.reconstruct import Reconstruction, reconstruct
from lv_text.generation.sampling import Drawn, Sampling, probabilities, sample
from lv_text.generation.score import Scores, score_candidates
from lv_text.generation.writing import Plan

__all__ = [
    "Completion",
    "Drawn",
    "Generated",
    "Latent",
    "Plan",
    "Reconstruction",
    "Sampling",
    "Scores",
    "complete",
    "generate",
    "posterior_samples",
    "prior_samples",
    "probabilities",
    "reconstruct",
    "sample",
    "score_candidates",
]
