"""`make bench`: the command line, a tick, a plan, a year on the fleet, a 20 GB checkpoint, perplexity."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from tests.bench import bench_checkpoint, bench_perplexity, bench_plan, bench_simulation, bench_watch

RUNS = 7


def median_s(*argv: str) -> float:
    """Median wall time of `python argv`."""
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        subprocess.run([sys.executable, *argv], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    """Print every benchmark."""
    bare = median_s("-c", "pass")
    print(f"{'':42}{'seconds':>9}{'÷ bare Python':>16}")
    for label, argv in (
        ("python -c pass", ("-c", "pass")),
        ("import bot", ("-c", "import bot")),
        ("release-bot --help", ("-m", "bot", "--help")),
        ("release-bot recipes list", ("-m", "bot", "recipes", "list")),
    ):
        seconds = median_s(*argv)
        print(f"{label:42}{seconds:9.3f}{seconds / bare:16.1f}")
    for each in (bench_watch, bench_plan, bench_simulation):
        print()
        each.main()
    print()
    bench_checkpoint.main()
    print()
    bench_perplexity.main()


if __name__ == "__main__":
    main()
