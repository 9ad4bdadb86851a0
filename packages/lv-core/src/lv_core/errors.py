"""The errors that samplers raise."""

__all__ = ["DivergenceError"]


class DivergenceError(FloatingPointError):
    """Says that too large a share of chains met a non-finite log density or gradient."""
