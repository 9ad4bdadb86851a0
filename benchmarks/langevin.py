"""One Langevin step: our kernel beside plain loops and the installed peers, on the same target.

All versions run chains of 60 steps `u' = u + s^2/2 grad log p(u) + s eps` from the same starts.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from benchmarks.measure import in_turns, markdown, matmul_rate
from lv_core import Compiled, Langevin, LogDensity, PerceptronTarget, set_fast_cpu
from lv_core.nn.mlp import mlp
from lv_priors import EnergyPrior

__all__ = ["run"]

STEPS = 60
Chain = Callable[[Tensor], Tensor]
"""Maps starts `(B, D)` to where the chains end."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A log density for all versions.

    Arguments:
        title: Heading of its table.
        step_size: s.
        dim: Number of coordinates.
        log_density: For the plain loops and TorchEBM.
        ours: The same as a user of lv writes it.
        jax: The same for one chain, in JAX; None where JAX is missing.
        flops: Operations of the matrix products of one step of one chain; 0 = none.
        network: The perceptron of an energy-based prior of scale one; None = another target.
    """

    title: str
    step_size: float
    dim: int
    log_density: LogDensity
    ours: LogDensity
    jax: Callable | None
    flops: float = 0.0
    network: nn.Module | None = None


def run(*, quick: bool = False) -> str:
    """Returns the tables of both targets at both batch sizes."""
    tables = []
    flat = latent_energy(flat=True)
    for target in (latent_energy(), mixture()):
        makers = installed(target)
        spreads = {name: spread_of_chains(target, flat, make) for name, make in makers.items()}
        for batch in (256,) if quick else (256, 2048):
            chains = {name: make(target) for name, make in makers.items()}
            repetitions = 5 if quick else (41 if batch == 256 else 15)
            tables.append(_measure(target, chains, spreads, batch, repetitions))
    return "\n\n".join(tables) + "\n\n" + _missing()


def latent_energy(*, flat: bool = False) -> Target:
    """Returns an energy-based prior in 64 dimensions; `flat` makes its network constant."""
    dim, hidden = 64, 200
    torch.manual_seed(0)
    network = mlp((dim, hidden, hidden, 1), activation="gelu")
    if flat:
        nn.init.zeros_(network[-1].weight)
    prior = EnergyPrior(network, dim)

    def log_density(z: Tensor) -> Tensor:
        return network(z).squeeze(-1) - 0.5 * z.square().sum(-1)

    return Target(
        title="64-dimensional energy-based prior (perceptron 64-200-200-1, exact GELU), s = 0.4",
        step_size=0.4,
        dim=dim,
        log_density=log_density,
        ours=prior.log_density,
        jax=_jax_latent_energy(network),
        network=network,
        flops=2 * (dim * hidden + hidden**2 + hidden) + 2 * (hidden**2 + hidden * dim),
    )


def mixture() -> Target:
    """Returns a mixture of 8 normals of standard deviation 0.5 on a circle of radius 4."""
    centers = mixture_centers()

    def log_density(z: Tensor) -> Tensor:
        squares = (z[:, None, :] - centers).square().sum(-1)
        return torch.logsumexp(-2.0 * squares, dim=-1)

    return Target(
        title="2-dimensional mixture of 8 normals (radius 4, deviation 0.5), s = 0.1",
        step_size=0.1,
        dim=2,
        log_density=log_density,
        ours=log_density,
        jax=_jax_mixture(centers),
    )


def mixture_centers() -> Tensor:
    """Returns the centers of the mixture, shape `(8, 2)`."""
    angle = torch.arange(8) * (math.pi / 4)
    return 4.0 * torch.stack((angle.cos(), angle.sin()), dim=-1)


def installed(target: Target) -> dict[str, Callable[[Target], Chain]]:
    """Returns what makes each installed version of the chain; the first is the reference."""
    found: dict[str, Callable[[Target], Chain]] = {
        "naive loop, autograd.grad": naive,
        "lv Langevin": ours,
        "lv Langevin.run, with its trace": lambda t: ours(t, traced=True),
        "lv Compiled(Langevin)": compiled,
        "naive loop, .backward()": lambda t: naive(t, backward=True),
    }
    if target.network is not None:
        found["lv Langevin, PerceptronTarget"] = closed_form
    if set_fast_cpu().enabled:
        found["naive loop, fast matmul"] = lambda t: fast(naive(t))
        if target.network is not None:
            found["lv Langevin, PerceptronTarget, fast matmul"] = lambda t: fast(closed_form(t))
    torch.set_float32_matmul_precision("highest")
    if find_spec("torchebm"):
        found["TorchEBM LangevinDynamics"] = torchebm
    if find_spec("blackjax") and target.jax is not None:
        found["BlackJAX sgld, vmap and scan"] = blackjax
    if find_spec("jax") and target.jax is not None:
        found["JAX, vmap and scan by hand"] = scan
    return found


def naive(target: Target, *, backward: bool = False) -> Chain:
    """Returns the loop of research code; `.backward()` also forms the weights' gradients."""
    s = target.step_size

    def chain(u: Tensor) -> Tensor:
        for _ in range(STEPS):
            u = u.detach().requires_grad_(True)
            total = target.log_density(u).sum()
            if backward:
                total.backward()
                grad = u.grad
            else:
                grad = torch.autograd.grad(total, u)[0]
            u = u.detach() + 0.5 * s**2 * grad + s * torch.randn_like(u)
        return u

    return chain


def ours(target: Target, *, traced: bool = False) -> Chain:
    """Returns our kernel, called for its end points or run for its diagnostics."""
    kernel = Langevin(steps=STEPS, step_size=target.step_size)
    if traced:
        return lambda u: kernel.run(target.ours, u).state.u
    return lambda u: kernel(target.ours, u)


def compiled(target: Target) -> Chain:
    """Returns our kernel compiled in chunks of ten steps, its noise passed in."""
    return Compiled(Langevin(steps=STEPS, step_size=target.step_size), target.ours)


def closed_form(target: Target) -> Chain:
    """Returns our kernel with the gradient written out."""
    kernel = Langevin(steps=STEPS, step_size=target.step_size)
    assert target.network is not None
    perceptron = PerceptronTarget(target.network)
    return lambda u: kernel(perceptron, u)


def fast(chain: Chain) -> Chain:
    """Returns the chain with the faster route of matrix products, as `set_fast_cpu` sets it."""

    def call(u: Tensor) -> Tensor:
        torch.set_float32_matmul_precision("medium")
        end = chain(u)
        torch.set_float32_matmul_precision("highest")
        return end

    return call


def torchebm(target: Target) -> Chain:
    """Returns TorchEBM's sampler: it takes an energy, and its step size is s^2 / 2."""
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    class Energy(BaseModel):
        def forward(self, x: Tensor) -> Tensor:
            return -target.log_density(x)

    sampler = LangevinDynamics(Energy(), step_size=0.5 * target.step_size**2, device="cpu")
    return lambda u: sampler.sample(x=u, n_steps=STEPS)


def blackjax(target: Target) -> Chain:
    """Returns BlackJAX's sampler, compiled whole; its step size is s^2 / 2."""
    import blackjax as library
    import jax
    from jax import numpy as jnp

    gradient = jax.grad(target.jax)
    sampler = library.sgld(lambda position, _: gradient(position))
    step_size = 0.5 * target.step_size**2

    @jax.jit
    def chain(key, u):  # noqa: ANN001, ANN202 - arrays of JAX
        def step(u, key):  # noqa: ANN001, ANN202
            keys = jax.random.split(key, len(u))
            move = jax.vmap(lambda k, x: sampler.step(k, x, None, step_size))
            return move(keys, u), None

        return jax.lax.scan(step, u, jax.random.split(key, STEPS))[0]

    counter = iter(range(10**9))

    def call(u: Tensor) -> Tensor:
        start = jnp.asarray(u.numpy())
        end = chain(jax.random.PRNGKey(next(counter)), start).block_until_ready()
        return torch.from_numpy(jax.device_get(end).copy())

    return call


def scan(target: Target) -> Chain:
    """Returns the loop as one writes it in JAX, compiled whole."""
    import jax
    from jax import numpy as jnp

    gradient = jax.vmap(jax.grad(target.jax))
    s = target.step_size

    @jax.jit
    def chain(key, u):  # noqa: ANN001, ANN202 - arrays of JAX
        def step(u, key):  # noqa: ANN001, ANN202
            return u + 0.5 * s**2 * gradient(u) + s * jax.random.normal(key, u.shape), None

        return jax.lax.scan(step, u, jax.random.split(key, STEPS))[0]

    counter = iter(range(10**9))

    def call(u: Tensor) -> Tensor:
        key = jax.random.PRNGKey(next(counter))
        end = chain(key, jnp.asarray(u.numpy())).block_until_ready()
        return torch.from_numpy(jax.device_get(end).copy())

    return call


def noise_alone(dim: int, batch: int) -> Callable[[], None]:
    """Returns a function that draws the noise of a chain and does nothing else."""
    buffer = torch.empty(batch, dim)

    def draw() -> None:
        for _ in range(STEPS):
            buffer.normal_()

    return draw


def spread_of_chains(target: Target, flat: Target, make: Callable[[Target], Chain]) -> str:
    """Returns the standard deviation that a version's chains reach on a known density.

    The latent target is judged with its network held constant: a standard normal, where the
    stationary deviation is (1 - s^2/4)^(-1/2). The mixture is judged by the offsets from
    the centers where the chains start, whose variance after k steps is known as well.
    """
    torch.manual_seed(1)
    if target.dim == 64:
        return f"{make(flat)(torch.randn(2048, 64)).std().item():.4f}"
    end = make(target)(mixture_centers().repeat(2048, 1))
    # The nearest center, not the first: one chain in a thousand crosses to the next one.
    offset = end[:, None, :] - mixture_centers()
    nearest = offset.square().sum(-1).argmin(-1)
    return f"{offset[torch.arange(len(end)), nearest].std().item():.4f}"


def expected_spread(target: Target) -> float:
    """Returns what `spread_of_chains` should be, in closed form."""
    if target.dim == 64:
        return (1.0 - target.step_size**2 / 4) ** -0.5
    shrink = 1.0 - 0.5 * target.step_size**2 / 0.25
    total = sum(target.step_size**2 * shrink ** (2 * k) for k in range(STEPS))
    return math.sqrt(total)


def _measure(
    target: Target,
    chains: Mapping[str, Chain],
    spreads: Mapping[str, str],
    batch: int,
    repetitions: int,
) -> str:
    torch.manual_seed(2)
    start = torch.randn(batch, target.dim)
    work: dict[str, Callable[[], object]] = {
        name: (lambda chain=chain: chain(start)) for name, chain in chains.items()
    }
    work["noise alone"] = noise_alone(target.dim, batch)
    timings = in_turns(work, repetitions=repetitions)
    reference = next(iter(chains))
    rows = []
    for name in work:
        micros = 1e6 * timings.median(name) / STEPS
        rows.append(
            [name, f"{micros:.0f}", timings.spread(name, reference), spreads.get(name, "")]
        )
    if target.flops:
        limit = target.flops * batch / matmul_rate()
        share = limit * STEPS / timings.median(reference)
        rows.append(["matrix products at the best rate", f"{1e6 * limit:.0f}", f"{share:.2f}", ""])
    header = ["version", "us a step", "time / naive (quartiles)", "deviation of chains"]
    expected = f"Deviation in closed form: {expected_spread(target):.4f}."
    return f"**{target.title}; {batch} chains.** {expected}\n\n{markdown(header, rows)}"


def _jax_latent_energy(network: nn.Sequential) -> Callable | None:
    if not find_spec("jax"):
        return None
    import jax
    from jax import numpy as jnp

    layers = [
        (jnp.asarray(m.weight.detach().numpy()), jnp.asarray(m.bias.detach().numpy()))
        for m in network
        if isinstance(m, nn.Linear)
    ]

    def log_density(z):  # noqa: ANN001, ANN202 - arrays of JAX
        h = z
        for weight, bias in layers[:-1]:
            h = jax.nn.gelu(weight @ h + bias, approximate=False)
        weight, bias = layers[-1]
        return (weight @ h + bias)[0] - 0.5 * (z**2).sum()

    return log_density


def _jax_mixture(centers: Tensor) -> Callable | None:
    if not find_spec("jax"):
        return None
    import jax
    from jax import numpy as jnp

    means = jnp.asarray(centers.numpy())
    return lambda z: jax.nn.logsumexp(-2.0 * ((z - means) ** 2).sum(-1))


def _missing() -> str:
    absent = [name for name in ("torchebm", "blackjax", "jax") if not find_spec(name)]
    note = "Compilation is left out; random numbers are part of every version."
    if absent:
        note += f" Not installed and left out: {', '.join(absent)}."
    return note
