"""Converters from upstream files to our layout, named in data/registry.toml.

Each takes the folder of sources and the folder to fill. Domain packages are imported inside.
"""

import csv
import gzip
import shutil
import tarfile
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

from apps._runner.settings import UserError

__all__ = ["as_is", "head_direction", "zinc250k"]

COLUMNS = ("smiles", "logP", "SA", "QED", "n_large_rings", "max_ring_excess", "n_heavy")


def as_is(sources: Path, made: Path) -> None:
    """Takes the upstream files as they are."""
    for path in sources.iterdir():
        shutil.copyfile(path, made / path.name)


def head_direction(sources: Path, made: Path) -> None:
    """Takes the waking and REM counts, the heading and the tuning curves of dataHD.mat."""
    from scipy.io import loadmat

    try:
        upstream = loadmat(sources / "dataHD.mat")
        run, rem = upstream["Qrun"], upstream["Qrem"]
        (time, heading), tuning = upstream["angRun"].T, upstream["hdTuning"]
        preferred = upstream["prefHD"].ravel()
    except Exception as error:  # loadmat raises what it stumbles over, IndexError for one
        raise UserError(
            f"dataHD.mat is not what it was ({type(error).__name__}); try again"
        ) from None
    np.savez_compressed(
        made / "adn_mouse_population.npz",
        counts_run=run,
        counts_rem=rem,
        hd_time_s=time,
        hd_rad=heading.astype(np.float32),
        pref_hd_rad=preferred.astype(np.float32),
        tuning_angle_rad=tuning[:, 0].astype(np.float32),
        tuning_hz=tuning[:, 1:].astype(np.float32),
        bin_s=np.float32(0.01),
    )
    cells = [f"cell{number:02d}_hz" for number in range(tuning.shape[1] - 1)]
    with (made / "adn_mouse_tuning_curves.csv").open("w", encoding="ascii", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(["angle_rad", *cells])
        for angle, *rates in tuning.tolist():
            writer.writerow([f"{angle:.6f}", *(f"{rate:.5f}" for rate in rates)])


def zinc250k(sources: Path, made: Path, *, processes: int = 2) -> None:
    """Computes the properties of ZINC250k (some ten minutes), copies the hold-out split."""
    shutil.copyfile(sources / "sgds_test10k.txt", made / "sgds_test10k.txt")
    smiles = _zinc_smiles(sources / "zinc.txt.gz")
    counts: Counter[str] = Counter()
    with (
        get_context("spawn").Pool(processes) as pool,
        gzip.open(made / "zinc250k_props.csv.gz", "wt", encoding="utf-8", newline="") as file,
        tqdm(total=len(smiles), desc="zinc250k: properties", mininterval=5) as bar,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, "selfies_len"])
        for row, symbols in pool.imap(_zinc_row, smiles, chunksize=200):
            writer.writerow(row)
            counts.update(symbols)
            bar.update()
    ranked = sorted(counts.items(), key=lambda pair: -pair[1])  # ties keep order of appearance
    text = "".join(f"{symbol}\t{count}\n" for symbol, count in ranked)
    (made / "selfies_alphabet.txt").write_text(text, encoding="utf-8")


def _zinc_smiles(path: Path) -> list[str]:
    try:
        with tarfile.open(path) as archive:
            member = next(m for m in archive if m.isfile() and m.name.endswith("zinc.txt"))
            file = archive.extractfile(member)
            words = [line.split() for line in file.read().decode().splitlines()] if file else []
    except (tarfile.TarError, OSError, EOFError, StopIteration) as error:
        raise UserError(
            f"{path.name} is no tar.gz with zinc.txt in it ({type(error).__name__}); try again"
        ) from None
    smiles = [word[0] for word in words if word]
    return smiles[1:] if smiles and smiles[0].lower() == "smiles" else smiles


def _zinc_row(smiles: str) -> tuple[list[object], list[str]]:
    import selfies
    from rdkit import Chem

    from lv_molecule.oracles.properties import log_p, qed, sa_score

    molecule = Chem.MolFromSmiles(smiles)
    excess = [len(ring) - 6 for ring in Chem.GetSSSR(molecule)]
    symbols = list(selfies.split_selfies(selfies.encoder(smiles)))
    properties = [f"{function(molecule):.4f}" for function in (log_p, sa_score, qed)]
    rings = [sum(size > 0 for size in excess), max([0, *excess])]
    return [smiles, *properties, *rings, molecule.GetNumHeavyAtoms(), len(symbols)], symbols
