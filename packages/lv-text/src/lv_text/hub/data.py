"""Texts of a data set of the `datasets` library."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

__all__ = ["texts_from_datasets"]


def texts_from_datasets(
    dataset: Iterable[Mapping[str, Any]], column: str = "text"
) -> Iterator[str]:
    """Iterates over the texts of a `Dataset` or, without downloading it, an `IterableDataset`.

    Arguments:
        dataset: One split of a data set.
        column: The column that holds the texts; no other is read.

    Raises:
        TypeError: If `dataset` is a dictionary of splits, or, when it is reached, a value is no
            string.
        ValueError: If there is no such column.

    Example:
        >>> stream = datasets.load_dataset("some/corpus", split="train", streaming=True)
        >>> write_texts("shards", vocabulary, texts_from_datasets(stream))
    """
    if isinstance(dataset, Mapping):
        raise TypeError(
            f"dataset must be one split, got a dictionary of {sorted(dataset)}: pass one of them, "
            "such as dataset['train']"
        )
    names: list[str] | None = getattr(dataset, "column_names", None)
    if names is not None:  # a stream may not know its columns before it is read
        if column not in names:
            raise ValueError(f"unknown column {column!r}; there are: {', '.join(sorted(names))}")
        # Other columns may be images or long lists; decoding them takes most of the time.
        dataset = cast(Any, dataset).select_columns([column])
    return _texts(dataset, column)


def _texts(rows: Iterable[Mapping[str, Any]], column: str) -> Iterator[str]:
    for place, row in enumerate(rows):
        if column not in row:
            raise ValueError(
                f"unknown column {column!r} in row {place}; there are: {', '.join(sorted(row))}"
            )
        text = row[column]
        if not isinstance(text, str):
            raise TypeError(
                f"column {column!r} must hold strings, got {type(text).__name__} in row {place}: "
                "filter such rows out"
            )
        yield text
