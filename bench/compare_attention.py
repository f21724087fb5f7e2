#!/usr/bin/env python3
"""Times an attention block over sets of 50 to 2048 points: vaelib on ragged rows, PyTorch on padded and on packed ones.

The contestants take turns, round after round, each in a process of its own; a speed is the ratio of two fastest runs of one round, and
the median over the rounds is reported. PyTorch runs as shipped, and with its products at full speed (peers/mkl_full_speed.c).
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys

import compare

HERE = pathlib.Path(__file__).resolve().parent


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", type=pathlib.Path, default=HERE.parent / "build", help="where bin/bench_attention lies")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has PyTorch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6, help="of each contestant in each round")
    options = parser.parse_args()
    if not compare.installed(options.python, "torch"):
        sys.exit(f"PyTorch is not installed for {options.python}. Another interpreter: --python")
    environment = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "LD_PRELOAD")}
    library = compare.full_speed_library(options.build)
    own = [options.build / "bin" / "bench_attention", "--once", options.seconds]
    contestants = {"vaelib": (own, environment)}
    for how in ("padded", "packed"):
        command = [options.python, HERE / "peers" / "torch_attention.py", how, options.seconds]
        contestants[f"PyTorch, {how}"] = command, environment
        if library:
            contestants[f"PyTorch, {how}, MKL at full speed"] = command, {**environment, "LD_PRELOAD": str(library)}
    times, shares = {name: [] for name in contestants}, []
    for _ in range(options.rounds):
        for name, (command, variables) in contestants.items():
            words = subprocess.run([str(w) for w in command], env=variables, check=True, capture_output=True, text=True).stdout.split()
            times[name].append(float(words[0]))
            if name == "vaelib":
                shares.append(float(words[1]))
    print(f"{compare.processor()}; vaelib at {max(shares):.0f} % of the peak of multiply-adds")
    for name, all_of in times.items():
        ratio = statistics.median(peer / own for peer, own in zip(all_of, times["vaelib"]))
        print(f"  {name:36}{statistics.median(all_of):9.1f} ms  fastest {min(all_of):8.1f}  {ratio:5.2f}x")


if __name__ == "__main__":
    main()
