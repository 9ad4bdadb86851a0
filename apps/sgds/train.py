"""Maximum-likelihood learning of prior, decoder and property heads.

One update: posterior chains for the batch, prior chains, then one step of two Adam optimisers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from apps._runner import Run, UserError
from apps.sgds.data import Molecules
from apps.sgds.settings import Inference, Settings
from lv_core import ChainBank, GradientStep, Kernel, Langevin, Sequence, Shard, stream
from lv_core.nn import mlp
from lv_molecule import LstmDecoder, MoleculeModel, SelfiesVocabulary
from lv_priors import EnergyHealth, EnergyPrior, PropertyHead, TargetTransform

__all__ = ["Learner", "build", "posterior_kernel", "prior_kernel", "property_kernel", "train"]


def posterior_kernel(settings: Inference, steps: int) -> Kernel:
    """Returns the chain on z given string and properties."""
    langevin = Langevin.from_noise_factor(
        steps=steps,
        step_size=settings.step_size,
        noise_factor=settings.noise_factor,
        clip=settings.clip,
    )
    if settings.joint:
        return langevin
    guided = GradientStep(step_size=settings.step_size, clip=settings.clip)
    return Sequence(stages=((langevin, ("prior", "x")), (guided, ("y",))), steps=steps)


def property_kernel(settings: Inference, steps: int) -> Kernel:
    """Returns the chain on z given property values alone."""
    langevin = prior_kernel(settings, steps)
    if settings.joint:
        return langevin
    guided = GradientStep(step_size=settings.step_size, clip=settings.clip)
    return Sequence(stages=((langevin, ("prior",)), (guided, ("y",))), steps=steps)


def prior_kernel(settings: Inference, steps: int) -> Langevin:
    """Returns the chain of the prior."""
    return Langevin.from_noise_factor(
        steps=steps,
        step_size=settings.step_size,
        noise_factor=settings.noise_factor,
        clip=settings.clip,
    )


def build(settings: Settings, molecules: Molecules) -> tuple[MoleculeModel, SelfiesVocabulary]:
    """Returns the model with fresh parameters, and the vocabulary."""
    sizes, vocabulary = settings.model, SelfiesVocabulary(molecules.symbols)
    tilt = mlp((sizes.latent, sizes.prior_hidden, sizes.prior_hidden, 1), activation="gelu")
    prior = EnergyPrior(
        tilt,
        sizes.latent,
        scale=sizes.prior_scale,
        sampler=prior_kernel(settings.inference, settings.inference.prior_steps),
    )
    decoder = LstmDecoder(
        len(vocabulary),
        sizes.latent,
        end=vocabulary.nop,
        start=vocabulary.start,
        embedding=sizes.embedding,
        hidden=sizes.hidden,
        dropout=sizes.dropout,
        score_padding=sizes.score_padding,
    )
    # Values are standardised with the training set's moments, once, for learning, inference,
    # targets and reports alike. [code: raw values; a head of raw p-logP needs a smaller step]
    heads = {
        name: PropertyHead(
            (sizes.latent, sizes.head_hidden, sizes.head_hidden, 1),
            activation="silu",
            precision=sizes.precision,
            transform=TargetTransform.fit(values),
        )
        for name, values in molecules.values.items()
    }
    # Every parameter starts uniform on (-0.1, 0.1) [code].
    for module in (prior, *heads.values()):
        for parameter in module.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)
    model = MoleculeModel(prior, decoder, heads, inference_mode=sizes.inference_mode)
    return model, vocabulary


@dataclass
class Learner:
    """Model, optimisers and the one update that training and design rounds share."""

    run: Run
    settings: Settings
    model: MoleculeModel
    optimizers: dict[str, torch.optim.Optimizer]
    wrapped: nn.Module
    rank: int
    world: int

    @classmethod
    def of(cls, run: Run, settings: Settings, model: MoleculeModel) -> "Learner":
        """Places the model on the run's device and makes its optimisers."""
        model.to(run.device)
        slow = list(model.prior.parameters())
        fast = [*model.decoder.parameters(), *model.heads.parameters()]
        optimizers: dict[str, torch.optim.Optimizer] = {
            "generator": torch.optim.Adam(fast, lr=settings.train.lr),
            "prior": torch.optim.Adam(slow, lr=settings.train.prior_lr),
        }
        wrapped = run.accelerator.prepare_model(model) if run.world > 1 else model
        return cls(run, settings, model, optimizers, wrapped, run.rank, run.world)

    def alone(self) -> "Learner":
        """Returns the learner for work of one process: without wrapper, with whole batches."""
        return replace(self, wrapped=self.model, rank=0, world=1)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint holds."""
        return {"model": self.model}

    def source(self, *names: str | int) -> Shard:
        """Returns this process's share of a stream."""
        generator = self.run.generator(*names)
        return Shard(generator=generator, rank=self.rank, world=self.world)

    def update(
        self,
        names: tuple[str | int, ...],
        kernel: Kernel,
        start: Tensor,
        tokens: Tensor,
        values: Mapping[str, Tensor],
        *,
        clip: float | None,
        prior_clip: float | None,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Infers, samples, and makes one step of both optimisers.

        Arguments:
            names: Names of the random streams of this update.
            kernel: The posterior chain.
            start: Where it starts, shape `(batch, latent)`.
            tokens: Strings.
            values: Property values.
            clip: Gradient norm of decoder and heads, None = no clipping.
            prior_clip: Gradient norm of the prior.

        Returns:
            Posterior samples, what to log, and prior samples.
        """
        model = self.model
        # Dropout draws from torch's global generator; a resumed run needs the same masks.
        self.run.reseed("dropout", *names, self.rank)
        model.train()
        chain = model.infer(
            kernel,
            start,
            tokens=tokens,
            values=values,
            generator=self.source("posterior", *names),
        )
        z = chain.state.u
        z_prior = model.prior.sample(len(z), generator=self.source("prior", *names))
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        losses = self.wrapped(tokens, values, z, z_prior)
        (losses.likelihood + losses.properties + losses.prior).backward()
        limits = {"generator": clip, "prior": prior_clip}
        for name, optimizer in self.optimizers.items():
            limit = limits[name]
            if limit is not None:
                nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], limit)
            optimizer.step()
        logs = {
            "nll": losses.likelihood.detach(),
            "property": losses.properties.detach(),
            "gap": losses.gap,
            "displacement": chain.displacement.mean(),
            "grad_norm": chain.grad_norm.mean(),
        }
        if chain.clipped is not None:
            logs["clipped"] = chain.clipped.float().mean()
        return z, logs, z_prior


def train(run: Run, settings: Settings, molecules: Molecules, learner: Learner) -> list[str]:
    """Trains, with checkpoints; goes on where a checkpoint stands.

    Returns:
        What the prior's health says, in words.
    """
    batch, inference = run.share(settings.train.batch_size), settings.inference
    n = len(molecules.tokens)
    per_epoch = n // settings.train.batch_size
    if per_epoch < 1:
        raise UserError(
            f"train.batch_size is {settings.train.batch_size} but there are {n} training molecules"
        )
    total = per_epoch * settings.train.epochs
    bank = None
    if inference.warm_steps is not None:
        bank = ChainBank(n, (settings.model.latent,), seed=settings.seed, device=run.device)
    record = run.load("state", modules=learner.modules, optimizers=learner.optimizers)
    start = 0 if record is None else record["step"]
    health = EnergyHealth(learner.model.prior)
    if record is not None:
        health.load_state_dict(record["health"])
        if bank is not None:
            bank.load_state_dict(record["bank"])
    cold = posterior_kernel(inference, inference.posterior_steps)
    for step in run.steps(total, start, label="train"):
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(n, generator=stream(settings.seed, "order", epoch))
        # Each process takes its part of the one global batch.
        first = place * settings.train.batch_size + run.rank * batch
        index = order[first : first + batch]
        tokens = molecules.tokens[index].long().to(run.device)
        values = {k: v[index].to(run.device) for k, v in molecules.values.items()}
        kernel, u = cold, None
        if bank is not None and epoch > 0 and inference.warm_steps is not None:
            kernel = posterior_kernel(inference, inference.warm_steps)
            u = bank.get(index.to(run.device))
        if u is None:
            u = learner.model.prior.init(batch, generator=learner.source("start", step))
        z, logs, z_prior = learner.update(
            ("train", step),
            kernel,
            u,
            tokens,
            values,
            clip=settings.train.clip,
            prior_clip=settings.train.prior_clip,
        )
        if bank is not None:
            _store(run, bank, index.to(run.device), z)
        if step % 10 == 0 or step == total - 1:
            run.log(step, "train", **{**logs, **health.update(z, z_prior)})
        if (step + 1) % settings.train.save_every == 0 or step == total - 1:
            extra = {"bank": bank.state_dict()} if bank is not None else {}
            run.save(
                step + 1,
                "state",
                modules=learner.modules,
                optimizers=learner.optimizers,
                health=health.state_dict(),
                **extra,
            )
    return health.words()


def _store(run: Run, bank: ChainBank, index: Tensor, z: Tensor) -> None:
    """Puts the ends of chains back, on all processes: the next epoch deals the data anew."""
    if run.world > 1:
        index, z = run.accelerator.gather((index, z))
    bank.put(index, z)
