"""Files that are not what they should be: one way to say so."""

from pathlib import Path

__all__ = ["existing", "wrong_file"]


def existing(path: str | Path, what: str) -> Path:
    """Returns the path of a file that is there.

    Raises:
        FileNotFoundError: If it is not.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give the path of {what}")
    return path


def wrong_file(path: Path, what: str, problem: str) -> ValueError:
    """Returns the error for a file that is damaged or of another kind.

    Arguments:
        path: The file.
        what: What was expected.
        problem: What was found.
    """
    return ValueError(
        f"{path} is not {what}: {problem}; it is damaged, cut off or of another kind - get it "
        "again or give another path"
    )
