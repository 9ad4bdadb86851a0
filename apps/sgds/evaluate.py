"""What the trained model can do before any shifting."""

from typing import Any

import torch
from torch import Tensor

from apps._runner import Run
from apps.sgds.data import PROPERTIES, Molecules
from apps.sgds.settings import Settings
from apps.sgds.train import Learner, posterior_kernel, prior_kernel, property_kernel
from lv_molecule import PROPERTIES as FUNCTIONS
from lv_molecule import SelfiesVocabulary
from lv_molecule.metrics import internal_diversity, novelty, uniqueness, validity

__all__ = ["evaluate"]


def evaluate(
    run: Run,
    settings: Settings,
    molecules: Molecules,
    vocabulary: SelfiesVocabulary,
    learner: Learner,
) -> dict[str, Any]:
    """Returns reconstruction, prior samples and conditional samples as numbers and lists."""
    learner.model.eval()
    return {
        "reconstruction": _reconstruction(run, settings, molecules, learner),
        "prior": _prior(run, settings, molecules, vocabulary, learner),
        "conditional": {
            name: _conditional(run, settings, molecules, vocabulary, learner, name)
            for name in molecules.values
        },
    }


def _reconstruction(
    run: Run, settings: Settings, molecules: Molecules, learner: Learner
) -> dict[str, Any]:
    """Compares latents inferred from held-out molecules with latents of the prior."""
    model, inference, device = learner.model, settings.inference, run.device
    n = min(settings.evaluate.molecules, len(molecules.holdout_tokens))
    tokens = molecules.holdout_tokens[:n].long().to(device)
    values = {k: v[:n].to(device) for k, v in molecules.holdout_values.items()}
    start = model.prior.init(n, generator=run.generator("evaluate", "start"))
    steps = inference.posterior_steps
    given_both = model.infer(
        posterior_kernel(inference, steps),
        start,
        tokens=tokens,
        values=values,
        generator=run.generator("evaluate", "both"),
    ).state.u
    # Predicting a property from a latent that was inferred with the property's help flatters the
    # head: the honest figure infers from the string alone.
    given_string = model.infer(
        prior_kernel(inference, steps), start, tokens=tokens, generator=run.generator("string")
    ).state.u
    from_prior = model.prior.sample(n, generator=run.generator("evaluate", "prior"))
    with torch.no_grad():
        places = model.decoder.pack(tokens).inputs.numel() / n
        nll = {
            key: -model.decoder.log_likelihood(tokens, z)
            for key, z in (("posterior", given_both), ("prior", from_prior))
        }
        found: dict[str, Any] = {
            "nll_posterior": nll["posterior"].mean().item(),
            "nll_prior": nll["prior"].mean().item(),
            "nll_posterior_per_symbol": nll["posterior"].mean().item() / places,
            "nll_prior_per_symbol": nll["prior"].mean().item() / places,
            "histogram": {key: value.tolist() for key, value in nll.items()},
        }
        for name, y in values.items():
            found[f"correlation_{name}_given_both"] = _correlation(
                y, model.head(name).predict(given_both)
            )
            found[f"correlation_{name}_given_string"] = _correlation(
                y, model.head(name).predict(given_string)
            )
    return found


def _prior(
    run: Run,
    settings: Settings,
    molecules: Molecules,
    vocabulary: SelfiesVocabulary,
    learner: Learner,
) -> dict[str, Any]:
    n = settings.evaluate.molecules
    z = learner.model.prior.sample(n, generator=run.generator("evaluate", "samples"))
    smiles = _decode(run, settings, vocabulary, learner, z, "samples")
    real = [s for s in smiles if s is not None]
    found: dict[str, Any] = {
        "validity": validity(smiles),
        "uniqueness": uniqueness(smiles),
        "novelty": novelty(smiles, molecules.reference),
        "internal_diversity": internal_diversity(real[:500]) if len(real) > 1 else 0.0,
        "examples": real[:12],
    }
    for name in molecules.values:
        scores = _score(name, real)
        found[f"{name}_mean"] = sum(scores) / max(1, len(scores))
        found[f"{name}_mean_data"] = molecules.values[name].mean().item()
    return found


def _conditional(
    run: Run,
    settings: Settings,
    molecules: Molecules,
    vocabulary: SelfiesVocabulary,
    learner: Learner,
    name: str,
) -> list[dict[str, float]]:
    """Generates for property targets from fresh starts; compares target, head and oracle."""
    model, count = learner.model, settings.evaluate.per_target
    ends = torch.quantile(molecules.values[name][:100_000], torch.tensor([0.05, 0.95]))
    rows = []
    for k, target in enumerate(torch.linspace(*ends.tolist(), settings.evaluate.targets).tolist()):
        names = ("conditional", name, k)
        z = model.infer(
            property_kernel(settings.inference, settings.inference.prior_steps),
            model.prior.init(count, generator=run.generator(*names, "start")),
            values={name: torch.full((count,), target, device=run.device)},
            generator=run.generator(*names),
        ).state.u
        smiles = _decode(run, settings, vocabulary, learner, z, f"{name}-{k}")
        scores = torch.tensor(_score(name, [s for s in smiles if s is not None]))
        with torch.no_grad():
            predicted = model.head(name).predict(z).mean().item()
        rows.append(
            {
                "target": target,
                "head": predicted,
                "achieved": scores.mean().item(),
                "std": scores.std().item(),
                "error": scores.std().item() / max(1, len(scores)) ** 0.5,
            }
        )
    return rows


def _decode(
    run: Run,
    settings: Settings,
    vocabulary: SelfiesVocabulary,
    learner: Learner,
    z: Tensor,
    name: str,
) -> list[str | None]:
    tokens = learner.model.generate(
        z, max_length=settings.data_set.max_length, generator=run.generator("decode", name)
    )
    return vocabulary.tokens_to_smiles(tokens.cpu())


def _score(name: str, smiles: list[str]) -> list[float]:
    function = FUNCTIONS[PROPERTIES[name]]
    return [function(s) for s in smiles]


def _correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack((a.float(), b.float())))[0, 1].item()
