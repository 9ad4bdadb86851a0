"""Arguments that are one of a few words."""

from collections.abc import Sequence

__all__ = ["check_choice"]


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Refuses words that nobody knows.

    Arguments:
        name: Name of the argument, for the message.
        value: What was given.
        known: The words it may be.

    Raises:
        ValueError: If it is none of them.
    """
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
