"""Settings of a latent energy-based ODE, as a plain record that a checkpoint holds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from lv_core.nn.mlp import Activation
from lv_dynamics.emission import EmissionOutput
from lv_dynamics.field import FieldActivation
from lv_dynamics.solve import Solver

__all__ = ["OdeConfig"]

_NAMES: dict[str, object] = {
    "order": Literal[1, 2],
    "emission": Literal["perceptron", "linear", "conv"],
    "emission_output": Literal["auto", "linear", "sigmoid"],
    "likelihood": Literal["gaussian", "bernoulli"],
    "prior": Literal["energy", "gaussian"],
}


@dataclass(frozen=True, kw_only=True)
class OdeConfig:
    """What an `EnergyOde` is made of.

    Raises:
        ValueError: If a number is out of range, a name unknown, or settings contradict.

    Source:
        Sizes of the field and the emission: MoNODE code (Auzina et al., 2023); of the prior:
        code of Pang et al., 2020.

    Example:
        >>> config = OdeConfig(observed=(1,), state=4, static=4, sigma=0.3)
        >>> OdeConfig.from_dict(config.to_dict()) == config
        True
    """

    observed: tuple[int, ...]
    """shape of one observation"""
    state: int = 4
    """numbers d of the dynamic state; even for order 2, which splits it in position, velocity"""
    static: int = 4
    """numbers q of the static variables, which stay constant along a sequence; 0 = none"""
    static_in_dynamics: bool = True
    """whether the static variables enter the vector field"""
    static_in_emission: bool = False
    """whether the static variables enter the emission"""
    order: Literal[1, 2] = 1
    """order of the differential equation"""
    field_hidden: tuple[int, ...] = (100, 100)
    """widths of the hidden layers of the vector field"""
    field_activation: FieldActivation = "softplus"
    """activation of the vector field"""
    emission: Literal["perceptron", "linear", "conv"] = "perceptron"
    """kind of emission; "conv" for images of 28 x 28"""
    emission_hidden: tuple[int, ...] = (100, 100)
    """widths of the hidden layers of the perceptron emission"""
    emission_activation: Activation = "relu"
    """activation of the perceptron emission"""
    emission_channels: int = 16
    """n of the convolutional emission"""
    emission_output: Literal["auto", "linear", "sigmoid"] = "auto"
    """last step of the emission; "auto" = sigmoid for Gaussian images, else linear"""
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    """observation model"""
    sigma: float | Literal["learned"] = "learned"
    """standard deviation of Gaussian noise, in units of the data"""
    sigma_per_dimension: bool = True
    """whether each entry of an observation has its own sigma"""
    sigma_floor: float = 1e-3
    """smallest learned sigma"""
    prior: Literal["energy", "gaussian"] = "energy"
    """prior of [z0, z_s] jointly: a learned tilting of N(0, I), or N(0, I) itself"""
    energy_hidden: tuple[int, ...] = (200, 200)
    """widths of the hidden layers of the prior's tilt"""
    energy_activation: Activation = "gelu"
    """activation of the prior's tilt; a smooth one"""
    energy_l2: float = 0.01
    """weight of the squared tilt in the prior's loss, which keeps it from running away"""
    prior_steps: int = 60
    """Langevin steps of a sample of the prior"""
    prior_step_size: float = 0.4
    """step size of these steps, with the convention u + s^2/2 grad + s eps"""
    double_sums: bool = False
    """whether likelihoods are summed, and returned, in float64"""
    solver: Solver = field(default_factory=Solver)
    """how the differential equation is solved"""

    def __post_init__(self) -> None:
        for name, kind in _NAMES.items():
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                listed = ", ".join(str(k) for k in known)
                raise ValueError(f"unknown {name} {value!r}; there are: {listed}")
        for name in ("state", "emission_channels", "prior_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.observed or min(self.observed) < 1:
            raise ValueError(f"observed must be one or more positive lengths, got {self.observed}")
        if self.static < 0:
            raise ValueError(f"static must not be negative, got {self.static}")
        if self.order == 2 and self.state % 2:
            raise ValueError(f"state must be even for order 2, got {self.state}")
        if self.static > 0 and not (self.static_in_dynamics or self.static_in_emission):
            raise ValueError(
                f"{self.static} static variables enter nothing: set static_in_dynamics or "
                "static_in_emission, or static=0"
            )
        if self.likelihood == "bernoulli" and self.emission_output == "sigmoid":
            raise ValueError(
                "emission_output must be 'auto' or 'linear' for the Bernoulli likelihood, which "
                "takes logits, got 'sigmoid'"
            )
        for name in ("sigma_floor", "prior_step_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.energy_l2 < 0:
            raise ValueError(f"energy_l2 must not be negative, got {self.energy_l2}")

    @property
    def dim(self) -> int:
        """Numbers D = d + q of the whole latent."""
        return self.state + self.static

    @property
    def field_static(self) -> int:
        """Static numbers that enter the vector field."""
        return self.static if self.static_in_dynamics else 0

    @property
    def emission_width(self) -> int:
        """Numbers that enter the emission."""
        return self.state + (self.static if self.static_in_emission else 0)

    @property
    def output(self) -> EmissionOutput:
        """What follows the last layer of the emission, "auto" resolved."""
        if self.emission_output != "auto":
            return self.emission_output
        image = self.emission == "conv" and self.likelihood == "gaussian"
        return "sigmoid" if image else "linear"

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as numbers, strings, lists and dictionaries, fit for JSON."""
        record = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in record.items()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "OdeConfig":
        """Returns the settings that `to_dict` wrote.

        Raises:
            ValueError: If there is an unknown name, or a value is out of range.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(record.keys() - known):
            raise ValueError(f"unknown settings {unknown}; there are: {', '.join(sorted(known))}")
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in record.items()
        }
        if isinstance(values.get("solver"), Mapping):
            values["solver"] = Solver(**values["solver"])
        return cls(**values)
