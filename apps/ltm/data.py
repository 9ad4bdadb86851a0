"""The text of a run: vocabulary and shards, made once per text and kept."""

import hashlib
import json
import lzma
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apps._runner import Run, UserError
from apps.ltm.settings import Corpus
from lv_core.random import stream
from lv_text import BpeVocabulary, TokenStore, Vocabulary, load_vocabulary, sample_documents
from lv_text.store import write_texts

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Text", "open_text", "prepare", "reopen_text"]

HELD_OUT = ("valid", "test")


@dataclass(frozen=True)
class Text:
    """Where a prepared text lies; small enough to be sent to other processes."""

    folder: Path
    """Holds train*.bin, valid*.bin and vocabulary/."""

    def vocabulary(self) -> Vocabulary:
        """Returns the vocabulary."""
        return load_vocabulary(self.folder / "vocabulary")

    def store(self, split: str, length: int, blocks: str = "stream") -> TokenStore:
        """Opens a split."""
        kind = "document" if blocks == "document" else "stream"
        return TokenStore(self.folder, self.vocabulary(), length=length, split=split, blocks=kind)


def open_text(run: Run, corpus: Corpus) -> Text:
    """Returns the run's text, making vocabulary and shards if this is their first use.

    They are kept beside the runs, in a folder named by what they are made of.
    """
    source = run.data("classic-books") if corpus.source == "books" else None
    gpt2 = run.data("gpt2-bpe") if corpus.vocabulary == 0 else None
    folder = _kept(run.folder, corpus)

    def make() -> None:
        prepare(corpus, folder, source=source, gpt2=gpt2)
        _check_files(corpus, folder)

    run.on_main(make)
    return Text(folder)


def reopen_text(run: Path, corpus: Corpus) -> Text:
    """Returns the text of a finished run, which must still be there.

    Arguments:
        run: Folder of the run.
        corpus: Of its settings.
    """
    folder = _kept(run.resolve(), corpus)
    if not (folder / "complete").exists():
        raise UserError(
            f"the text of {run} is not beside it in {folder}; bring it back, or resume the run "
            "with --resume True, which makes it again"
        )
    return Text(folder)


def _kept(run: Path, corpus: Corpus) -> Path:
    key = hashlib.sha256(json.dumps(asdict(corpus), sort_keys=True).encode()).hexdigest()[:12]
    return run.parent / "text" / f"{corpus.source}-{corpus.vocabulary or 'gpt2'}-{key}"


def prepare(corpus: Corpus, folder: Path, *, source: Path | None, gpt2: Path | None) -> None:
    """Writes vocabulary and shards into `folder`, unless they are there.

    Arguments:
        corpus: What to prepare.
        folder: Where to.
        source: Folder of the books.
        gpt2: Folder of GPT-2's encoder.json and vocab.bpe.
    """
    if (folder / "complete").exists():
        return
    splits = _splits(corpus, source)
    print(f"preparing the text in {folder}", file=sys.stderr)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: what a killed or failed run leaves behind must not stop the next one.
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        partial.chmod(0o755)
        if gpt2 is not None:
            vocabulary: Vocabulary = BpeVocabulary.load(gpt2)
        else:
            vocabulary = BpeVocabulary.train(splits["train"](), size=corpus.vocabulary)
        vocabulary.save(partial / "vocabulary")
        for split, texts in splits.items():
            write_texts(texts(), partial, vocabulary, split=split)
        if corpus.source == "folder":
            (partial / "files.json").write_text(json.dumps(_files(corpus)), encoding="utf-8")
        (partial / "complete").touch()
        if folder.exists() and not (folder / "complete").exists():
            shutil.rmtree(folder)
        if not folder.exists():  # another run may have been faster
            partial.rename(folder)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None  # so that no process waits for this one
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _files(corpus: Corpus) -> list[list[str | int]]:
    """Returns name, size and time of each file of an own text."""
    paths = sorted({path for part in _own(corpus.folder).values() for path in part})
    return [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in paths]


def _check_files(corpus: Corpus, folder: Path) -> None:
    """Refuses a text that was prepared from other files of the same folder."""
    record = folder / "files.json"
    if corpus.source != "folder" or not record.exists():
        return
    if json.loads(record.read_text("utf-8")) != _files(corpus):
        raise UserError(
            f"the files in {corpus.folder} have changed since their text was prepared in {folder}:"
            " bring them back, or remove that folder to prepare it anew"
        )


def _splits(corpus: Corpus, source: Path | None) -> "dict[str, Callable[[], Iterator[str]]]":
    if corpus.source == "sample":
        texts = sample_documents(corpus.documents, generator=stream(0, "sample text"))
        held = max(1, len(texts) // 10)
        return {
            "train": lambda: iter(texts[2 * held :]),
            "valid": lambda: iter(texts[:held]),
            "test": lambda: iter(texts[held : 2 * held]),
        }
    if corpus.source == "books":
        assert source is not None
        train = [source / f"train-{k:02}.jsonl.xz" for k in range(corpus.shards)]
        files = {"train": train, **{s: [source / f"{s}.jsonl.xz"] for s in HELD_OUT}}
    else:
        files = _own(corpus.folder)
    return {split: lambda paths=paths: _read(paths) for split, paths in files.items()}


def _own(name: str) -> dict[str, list[Path]]:
    folder = Path(name)
    if not name or not folder.is_dir():
        raise UserError(f"corpus.folder names no folder: {name!r}")
    paths = sorted(
        path for pattern in ("*.txt", "*.jsonl", "*.jsonl.xz") for path in folder.glob(pattern)
    )
    files = {s: [p for p in paths if p.name.startswith(s)] for s in HELD_OUT}
    files["train"] = [p for p in paths if not p.name.startswith(HELD_OUT)]
    if not files["test"]:
        files["test"] = files["valid"]
    if empty := [split for split, found in files.items() if not found]:
        raise UserError(
            f"{folder} has no files for: {', '.join(empty)}; it needs .txt, .jsonl or .jsonl.xz "
            "files, held-out ones with names that begin with valid"
        )
    return files


def _read(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        count = 0
        try:
            for text in _texts(path):
                count += 1
                yield text
        except (UnicodeDecodeError, lzma.LZMAError, EOFError) as error:
            reason = "is no UTF-8" if isinstance(error, UnicodeDecodeError) else "is damaged"
            raise UserError(f"{path} {reason} after {count} texts: {error}") from None


def _texts(path: Path) -> Iterator[str]:
    if path.suffix == ".txt":
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            raise UserError(f"{path} is empty: remove it")
        yield text
        return
    opened = lzma.open if path.suffix == ".xz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)["text"]
            except (json.JSONDecodeError, KeyError, TypeError):
                text = None
            if not isinstance(text, str):
                raise UserError(f'{path}, line {number}: no JSON object with a "text"')
            if not text.strip():
                raise UserError(f"{path}, line {number}: the text is empty: remove the line")
            yield text
