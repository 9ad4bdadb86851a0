"""Runs benchmarks and prints their tables: `python -m benchmarks [names] [--write] [--quick]`."""

import argparse
import importlib
import re
from pathlib import Path

import torch

from benchmarks.measure import machine

NAMES = ("langevin", "nuts", "memory", "sgds", "oracle", "ring", "thought", "solve")
README = Path(__file__).with_name("README.md")


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(NAMES)}; none = all")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    parser.add_argument("--quick", action="store_true", help="few repetitions: a trial run")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}; there are: {', '.join(NAMES)}")
    if arguments.quick and arguments.write:
        parser.error("--quick measures too little for the README; leave one of the two out")
    torch.set_num_threads(1)
    for name in arguments.names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        table: str = module.run(quick=arguments.quick)
        text = f"Measured on {machine()}.\n\n{table}"
        print(f"\r{'':60}\r## {name}\n\n{text}\n", flush=True)
        if arguments.write:
            write(name, text)


def write(name: str, text: str) -> None:
    """Replaces what stands between the markers of a benchmark in the README."""
    begin, end = f"<!-- bench:begin {name} -->", f"<!-- bench:end {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), flags=re.DOTALL)
    page = README.read_text(encoding="utf-8")
    if not pattern.search(page):
        raise SystemExit(f"{README.name} holds no {begin} ... {end}")
    filled = pattern.sub(lambda _: f"{begin}\n{text}\n{end}", page)
    README.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
