"""Makes the reference values of `lv_core.targets.posteriors` by long runs of NumPyro's NUTS.

`python -m benchmarks.references [names]` writes one file for each model into the tests of
lv-core: mean, deviation and their errors of every scalar, R-hat, and potential energies at some
points. The models are written here a second time, in NumPyro, so that a density without the
Jacobian of a transform, or with another prior, disagrees with its file. Takes some minutes.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import torch
from jax import numpy as jnp
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import potential_energy

from lv_core.targets import Autoregression, EightSchools, OrderedMixture, ScaledRegression

__all__ = ["MODELS", "data_of", "scalars"]

FOLDER = Path(__file__).parents[1] / "packages" / "lv-core" / "tests" / "references"
CHAINS, WARMUP, DRAWS = 16, 2000, 5000


def eight_schools(effects, errors) -> None:  # noqa: ANN001 - arrays of JAX
    """Eight schools, non-centred."""
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    eta = numpyro.sample("eta", dist.Normal(0, 1).expand([8]).to_event(1))
    theta = numpyro.deterministic("theta", mu + tau * eta)
    numpyro.sample("y", dist.Normal(theta, errors), obs=effects)


def scaled_regression(x, y) -> None:  # noqa: ANN001
    """Linear regression with predictors of several scales."""
    intercept = numpyro.sample("intercept", dist.Normal(0, 10))
    coefficients = numpyro.sample("coefficients", dist.Normal(0, 10).expand([5]).to_event(1))
    sigma = numpyro.sample("sigma", dist.Exponential(1))
    numpyro.sample("y", dist.Normal(intercept + x @ coefficients, sigma), obs=y)


def autoregression(series) -> None:  # noqa: ANN001
    """Autoregression of order 7, conditional on the first values."""
    intercept = numpyro.sample("intercept", dist.Normal(0, 10))
    coefficients = numpyro.sample("coefficients", dist.Normal(0, 10).expand([7]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    past = sum(coefficients[k - 1] * series[7 - k : -k] for k in range(1, 8))
    numpyro.sample("y", dist.Normal(intercept + past, sigma), obs=series[7:])


def ordered_mixture(data) -> None:  # noqa: ANN001
    """Mixture of two normals with ordered means."""
    flat = dist.ImproperUniform(constraints.ordered_vector, (), event_shape=(2,))
    means = numpyro.sample("means", flat)
    numpyro.factor("prior", dist.Normal(0, 3).log_prob(means).sum())
    scales = numpyro.sample("scales", dist.LogNormal(0, 0.5).expand([2]).to_event(1))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 3.0)))
    components = dist.Normal(means, scales)
    mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), components)
    numpyro.sample("y", mixture, obs=data)


MODELS: Mapping[str, tuple[Callable[..., None], type, tuple[str, ...], dict[str, int]]] = {
    "eight_schools": (
        eight_schools,
        EightSchools,
        ("effects", "errors"),
        {"mu": 0, "tau": 0, "eta": 8},
    ),
    "scaled_regression": (
        scaled_regression,
        ScaledRegression,
        ("x", "y"),
        {"intercept": 0, "coefficients": 5, "sigma": 0},
    ),
    "autoregression": (
        autoregression,
        Autoregression,
        ("series",),
        {"intercept": 0, "coefficients": 7, "sigma": 0},
    ),
    "ordered_mixture": (
        ordered_mixture,
        OrderedMixture,
        ("data",),
        {"means": 2, "scales": 2, "weights": 1},
    ),
}
"""Name to NumPyro model, class in lv, its buffers that the model takes, and sizes of the sites.

Sites are in the order of `u`, sizes those of the unconstrained values (0 = a scalar).
"""


def main() -> None:
    """Writes the files that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.references", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(MODELS)}; none = all")
    names = parser.parse_args().names or list(MODELS)
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        parser.error(f"unknown model {unknown[0]!r}; there are: {', '.join(MODELS)}")
    jax.config.update("jax_enable_x64", True)
    FOLDER.mkdir(exist_ok=True)
    for name in names:
        record = reference(name)
        text = json.dumps(record, indent=1)
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        worst = max(q["rhat"] for q in record["quantities"].values())
        print(f"{name}: {record['divergent']} divergent, worst R-hat {worst:.4f}", flush=True)


def data_of(name: str) -> tuple[jax.Array, ...]:
    """Returns the arguments of a NumPyro model, from the buffers of ours."""
    _, target, buffers, _ = MODELS[name]
    made = target()
    return tuple(jnp.asarray(getattr(made, buffer).numpy()) for buffer in buffers)


def sites(name: str, u) -> dict[str, jax.Array]:  # noqa: ANN001
    """Returns the flat vector `u` as the unconstrained sites of the NumPyro model."""
    parts, start = {}, 0
    for site, size in MODELS[name][3].items():
        end = start + max(size, 1)
        parts[site] = jnp.asarray(u[start:end] if size else u[start])
        start = end
    return parts


def flat(name: str, unconstrained: Mapping[str, jax.Array]) -> np.ndarray:
    """Returns unconstrained sites with the chains first as vectors `u`, `(chains, dim)`."""
    columns = [np.asarray(unconstrained[site]) for site in MODELS[name][3]]
    return np.concatenate([column.reshape(len(column), -1) for column in columns], axis=-1)


def scalars(draws: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """Returns every scalar of some draws `(chains, draws, ...)`: `theta` as `theta[0]`, ..."""
    found = {}
    for name, values in draws.items():
        array = np.asarray(values)
        if array.ndim == 2:
            found[name] = array
        else:
            found |= {f"{name}[{k}]": array[..., k] for k in range(array.shape[-1])}
    return found


def reference(name: str) -> dict:
    """Returns the record of one model."""
    model = MODELS[name][0]
    data = data_of(name)
    kernel = NUTS(model, target_accept_prob=0.95)
    mcmc = MCMC(
        kernel,
        num_warmup=WARMUP,
        num_samples=DRAWS,
        num_chains=CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    begin = time.perf_counter()
    mcmc.run(jax.random.PRNGKey(0), *data, extra_fields=("diverging",))
    print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
    target = MODELS[name][1]()
    draws = mcmc.get_samples(group_by_chain=True)
    named = {key: draws[key] for key in target.named(torch.zeros(target.dim))}
    typical = flat(name, mcmc.last_state.z)[:3]
    normals = np.random.default_rng(0).standard_normal((3, target.dim))
    points = np.concatenate((normals, typical)).round(4)
    potentials = [float(potential_energy(model, data, {}, sites(name, u))) for u in points]
    return {
        "settings": {
            "sampler": "NumPyro NUTS, float64, target acceptance 0.95",
            "chains": CHAINS,
            "warmup": WARMUP,
            "draws": DRAWS,
            "seed": 0,
            "numpyro": numpyro.__version__,
            "jax": jax.__version__,
        },
        "divergent": int(mcmc.get_extra_fields()["diverging"].sum()),
        "quantities": {key: summary(values) for key, values in scalars(named).items()},
        "points": points.tolist(),
        "potentials": potentials,
    }


def summary(values: np.ndarray) -> dict[str, float]:
    """Returns mean and deviation of draws `(chains, draws)`, their standard errors, and R-hat."""
    mean, deviation = values.mean(), values.std()
    squares = (values - mean) ** 2
    # d sd = d var / (2 sd)
    error = squares.std() / np.sqrt(effective_sample_size(squares)) / (2 * deviation)
    return {
        "mean": float(mean),
        "mcse_mean": float(deviation / np.sqrt(effective_sample_size(values))),
        "sd": float(deviation),
        "mcse_sd": float(error),
        "rhat": float(split_gelman_rubin(values)),
    }


if __name__ == "__main__":
    main()
