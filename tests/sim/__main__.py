"""`python -m tests.sim`: compare policies by simulated weeks of people, a queue and a model."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from .picture import draw
from .report import Row, measure, table
from .strategies import strategies
from .world import World, lognormal_waits, measured_waits


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--people", type=int, nargs="+", default=[1, 5, 50], help="people who share the model")
    parser.add_argument(
        "--days", type=int, nargs="+", default=[30, 30, 7], help="for each number of people; the last one is repeated"
    )
    parser.add_argument("--seeds", type=int, default=1, help="number of months, each with other people and waits")
    parser.add_argument("--queue-median", type=float, default=10.0, help="median queue wait in minutes")
    parser.add_argument("--queue-spread", type=float, default=1.0, help="standard deviation of the wait's logarithm")
    parser.add_argument("--waits", type=Path, help="a file of queue waits, one number of seconds a line")
    parser.add_argument("--only", help="part of the names of the policies to run")
    parser.add_argument("--svg", type=Path, help="draw the comparison into this file")
    return parser


def main(argv: list[str]) -> int:
    """Run every policy for every number of people, and print a table for each."""
    args = options().parse_args(argv)
    waits = lognormal_waits(args.queue_median * 60, args.queue_spread)
    if args.waits is not None:
        waits = measured_waits([float(line) for line in args.waits.read_text().split()])
    tables: dict[tuple[int, int], list[Row]] = {}
    for place, people in enumerate(args.people):
        days = args.days[min(place, len(args.days) - 1)]
        began, rows = time.monotonic(), []
        for index, named in enumerate(strategies(people)):
            if args.only and args.only not in named.name:
                continue
            outcomes = []
            for seed in range(args.seeds):
                strategy = strategies(people)[index]
                outcomes.append(World(strategy, people, days, seed, waits).run())
            rows.append(measure(named.name, outcomes))
        tables[people, days] = rows
        print(table(people, days, rows))
        print(f"simulated in {time.monotonic() - began:.0f} s\n", flush=True)
    if args.svg is not None:
        args.svg.write_text(draw(tables), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
