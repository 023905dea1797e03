#!/usr/bin/env python3
"""What being watched costs a decoding engine: ring and attached daemon against neither.

Pairs of `hotset bench` run one after the other, the order within a pair drawn by turns, so that
what changes on the machine over minutes touches both. A run decodes the same tokens several times
after one warm-up; its figure is the best time of them, since whatever else the machine does can
only make a run slower. The result is the median of the pairs' ratios with the 95 % interval of a
bootstrap over pairs. Run it on a machine that does nothing else.

  tools/bench/watch_overhead.py -m MODEL.gguf [--pairs 20] [--tokens 64] [-- BENCH OPTIONS]
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def decode_rate(hotset, options, is_watched, folder):
    """Tokens a second of one run, with a daemon beside it or without a ring."""
    environment = dict(os.environ, XDG_RUNTIME_DIR=folder)
    daemon = None
    if is_watched:
        log = os.path.join(folder, "log.jsonl")
        daemon = subprocess.Popen([hotset, "daemon", "--port", "0", "--log", log],
                                  env=environment, stderr=subprocess.DEVNULL)
    try:
        command = [hotset, "bench", "--json", *options]
        if not is_watched:
            command += ["--set", "profiler.ring=0"]
        run = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(command)}: {error.stderr.strip()}")
    finally:
        if daemon:
            daemon.terminate()
            daemon.wait()
    return json.loads(run.stdout)["decode_tps"]["max"]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64, help="decoded in a repetition")
    parser.add_argument("--repetitions", type=int, default=5, help="in a run")
    parser.add_argument("--hotset", default=os.path.join(ROOT, "build/release/tools/hotset"))
    parser.add_argument("bench", nargs="*", help="further options of hotset bench, after --")
    arguments = parser.parse_args()
    options = ["-m", arguments.model, "-p", "16", "-n", str(arguments.tokens),
               "-r", str(arguments.repetitions), *arguments.bench]
    overheads = []
    # Where rings lie by default when there is no session: on tmpfs.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for pair in range(arguments.pairs):
            rates = {}
            for is_watched in ((True, False) if pair % 2 == 0 else (False, True)):
                rates[is_watched] = decode_rate(arguments.hotset, options, is_watched, folder)
            overheads.append(100 * (rates[False] / rates[True] - 1))
            print(f"watched {rates[True]:.2f} tokens/s, alone {rates[False]:.2f}: "
                  f"{overheads[-1]:+.2f} %", file=sys.stderr, flush=True)
    drawn = random.Random(1)
    medians = sorted(statistics.median(drawn.choices(overheads, k=len(overheads)))
                     for _ in range(10000))
    print(f"{os.path.basename(arguments.model)}: overhead {statistics.median(overheads):+.2f} % "
          f"(95 %: {medians[250]:+.2f} .. {medians[9749]:+.2f}), {len(overheads)} pairs")


if __name__ == "__main__":
    main()
