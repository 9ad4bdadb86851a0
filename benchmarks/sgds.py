"""One training iteration of SGDS: ours beside a plain PyTorch transcription of the official one.

The posterior chain dominates: 10 gradients of an LSTM's likelihood for one parameter update.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.measure import in_turns, markdown, matmul_rate
from benchmarks.transcription import Levers, PlainDecoder, Procedure, Settings
from lv_core.nn.mlp import mlp
from lv_molecule import LstmDecoder, MoleculeModel, SelfiesVocabulary, recombine, smiles_to_selfies
from lv_priors import EnergyPrior, PropertyHead
from lv_priors.presets import sgds_posterior, sgds_prior

__all__ = ["run"]

LADDER_STEPS = 3
OFFICIAL = "transcription of the official procedure"
OURS = "lv: dropout off in the chain, ends scored once"
OURS_SAME = "lv, same density: dropout on, padding scored"


def run(*, quick: bool = False) -> str:
    """Returns the table of whole iterations and the ladder of what gains how much."""
    settings = Settings(batch=64) if quick else Settings()
    torch.manual_seed(0)
    tokens = strings(settings)
    y = torch.randn(settings.batch)
    agreement = gradient_difference(settings, tokens)
    whole = _whole(settings, tokens, y, repetitions=1 if quick else 7)
    steps = _ladder(
        replace(settings, steps=LADDER_STEPS), tokens, y, repetitions=1 if quick else 5
    )
    sizes = (
        f"Latent {settings.latent}, embedding {settings.embedding}, hidden {settings.hidden}, "
        f"batch {settings.batch}. {describe(tokens, settings)}"
    )
    return (
        f"{sizes}\n\nGradient of the likelihood with respect to z, ours against `nn.LSTM`, both "
        f"ways of scoring: largest difference {agreement:.1e} of the largest entry.\n\n{whole}"
        f"\n\nWhat gains how much, chains of {LADDER_STEPS} steps; each line switches only "
        f"what it names:\n\n{steps}"
    )


def _whole(settings: Settings, tokens: Tensor, y: Tensor, *, repetitions: int) -> str:
    procedure = Procedure(settings)
    work: dict[str, Callable[[], object]] = {
        OFFICIAL: lambda: procedure.iteration(tokens, y, Levers()),
        OURS_SAME: Ours(settings, same_density=True).iteration(tokens, y),
        OURS: Ours(settings).iteration(tokens, y),
    }
    timings = in_turns(work, repetitions=repetitions)
    rows = []
    for name in work:
        gain = timings.spread(OFFICIAL, name)
        rows.append([name, f"{timings.median(name):.2f}", gain])
    limit = chain_operations(settings, tokens) / matmul_rate()
    gain = f"{timings.median(OFFICIAL) / limit:.2f}"
    rows.append(["matrix products of our chain at the best rate", f"{limit:.2f}", gain])
    header = [f"iteration with chains of {settings.steps} steps", "s", "times faster (quartiles)"]
    return markdown(header, rows)


def _ladder(settings: Settings, tokens: Tensor, y: Tensor, *, repetitions: int) -> str:
    work: dict[str, Callable[[], object]] = {}
    for name, levers in ladder().items():
        procedure = Procedure(settings)
        work[name] = lambda p=procedure, lv=levers: p.iteration(tokens, y, lv)
    timings = in_turns(work, repetitions=repetitions)
    rows = [[name, timings.spread(OFFICIAL, name)] for name in work]
    return markdown(["transcription with", "times faster (quartiles)"], rows)


def ladder() -> dict[str, Levers]:
    """Returns the variants of the transcription, the official one first."""
    return {
        OFFICIAL: Levers(),
        ".backward() in the posterior chain too": Levers(weights_in_chain=True),
        "frozen parameters in the chains": Levers(frozen=True),
        "one backward pass for likelihood and prior": Levers(one_backward=True),
        "no dropout in the chain": Levers(no_dropout=True),
        "packed: no padding": Levers(packed=True),
        "custom recurrence, padding kept": Levers(custom=True),
        "custom recurrence and frozen": Levers(custom=True, frozen=True),
        "custom recurrence, frozen and packed": Levers(custom=True, frozen=True, packed=True),
        "the same, no dropout and token table": Levers(
            custom=True, frozen=True, packed=True, no_dropout=True, table=True
        ),
    }


def strings(settings: Settings) -> Tensor:
    """Returns tokens of generated molecules, padded with the end token, shape `(B, T)`.

    The generator's own vocabulary is smaller than ZINC's 109 tokens; indices are kept and the
    end token moved, so that the output layer has the size of the paper's.
    """
    selfies = [smiles_to_selfies(s) for s in recombine(settings.batch)]
    vocabulary = SelfiesVocabulary.from_selfies(selfies)
    tokens = vocabulary.encode(selfies, settings.length)
    if len(vocabulary) > settings.vocabulary:
        raise ValueError(f"the strings use {len(vocabulary)} tokens, more than ZINC's")
    return torch.where(tokens == vocabulary.nop, settings.end, tokens)


def describe(tokens: Tensor, settings: Settings) -> str:
    """Returns the distribution of the strings' lengths in words."""
    lengths = (tokens != settings.end).sum(1).double()
    return (
        f"Generated molecules, length in tokens: mean {lengths.mean():.1f}, deviation "
        f"{lengths.std():.1f}, range {lengths.min():.0f}-{lengths.max():.0f}, padded to "
        f"{settings.length} (ZINC250k: mean 37.4, deviation 8.5, longest 72)."
    )


class Ours:
    """Model, optimizers and one training iteration with the packages."""

    def __init__(self, settings: Settings, *, same_density: bool = False) -> None:
        self.settings = settings
        prior = EnergyPrior(
            mlp((settings.latent, 200, 200, 1), activation="gelu"),
            settings.latent,
            scale=settings.scale,
            sampler=sgds_prior(settings.steps),
        )
        decoder = make_decoder(settings, score_padding=same_density)
        head = PropertyHead((settings.latent, 200, 200, 1), precision=settings.precision)
        mode = "train" if same_density else "eval"
        self.model = MoleculeModel(prior, decoder, {"y": head}, inference_mode=mode)
        self.likelihood = [*decoder.parameters(), *head.parameters()]
        self.prior = list(prior.parameters())
        for parameter in self.likelihood + self.prior:
            nn.init.uniform_(parameter, -0.1, 0.1)
        self.optimizer = torch.optim.Adam(self.likelihood, lr=1e-3)
        self.optimizer_prior = torch.optim.Adam(self.prior, lr=1e-4)
        self.kernel = sgds_posterior(settings.steps)

    def iteration(self, tokens: Tensor, y: Tensor) -> Callable[[], None]:
        """Returns the function that runs both chains and both updates."""
        values = {"y": y}

        def iterate() -> None:
            model, batch = self.model, len(tokens)
            start = model.prior.init(batch)
            trace = model.infer(self.kernel, start, tokens=tokens, values=values)
            losses = model(tokens, values, trace.state.u, model.prior.sample(batch))
            self.optimizer.zero_grad()
            self.optimizer_prior.zero_grad()
            (losses.likelihood + losses.properties + losses.prior).backward()
            nn.utils.clip_grad_norm_(self.likelihood, 5.0)
            nn.utils.clip_grad_norm_(self.prior, 1.0)
            self.optimizer.step()
            self.optimizer_prior.step()

        return iterate


def make_decoder(settings: Settings, *, score_padding: bool = False) -> LstmDecoder:
    """Returns our decoder in the sizes of the comparison."""
    return LstmDecoder(
        settings.vocabulary,
        settings.latent,
        end=settings.end,
        start=settings.start,
        embedding=settings.embedding,
        hidden=settings.hidden,
        dropout=settings.dropout,
        score_padding=score_padding,
    )


def gradient_difference(settings: Settings, tokens: Tensor) -> float:
    """Returns how far the two likelihoods' gradients with respect to z differ, relatively.

    Checks both ways of scoring, through `nn.LSTM` on one side and our decoder on the other.

    Raises:
        RuntimeError: If they are not the same function: the times would compare unlike work.
    """
    z = torch.randn(len(tokens), settings.latent, requires_grad=True)
    worst = 0.0
    for score_padding in (False, True):
        decoder = make_decoder(settings, score_padding=score_padding).eval()
        plain = PlainDecoder(settings)
        plain.load(decoder)
        levers = Levers(packed=not score_padding)
        theirs = torch.autograd.grad(plain.nll(tokens, z, rate=0.0, levers=levers), z)[0]
        mine = torch.autograd.grad(-decoder.log_likelihood(tokens, z).sum(), z)[0]
        worst = max(worst, ((mine - theirs).abs().max() / theirs.abs().max()).item())
    if not worst < 1e-5:
        raise RuntimeError(f"the gradients differ by {worst:.1e} of the largest entry")
    return worst


def chain_operations(settings: Settings, tokens: Tensor) -> float:
    """Returns the operations of the matrix products that a posterior chain cannot avoid.

    Per token: recurrence and output layer, forward and backward with respect to their inputs.
    """
    n_tokens = int((tokens != settings.end).sum(1).add(1).clamp(max=settings.length).sum())
    per_token = settings.hidden * (4 * settings.hidden + settings.vocabulary)
    return settings.steps * n_tokens * 2 * 2 * per_token
