#!/usr/bin/env python3
"""What being watched costs a decoding engine: ring and attached daemon against neither.

Two answers. The clock's: runs of `hotset bench` of a few seconds, watched and alone in turns (A B B
A), each a process of its own, since where one's memory happens to lie is worth more than a percent.
A run's figure is its mean time a token, so that the daemon's ticks count in full; the result is the
median of the pairs' ratios with the 95 % interval of a bootstrap over pairs. One daemon lives
through all of it and is stopped (SIGSTOP) while a run is alone.

And the bill's, which hardly varies: processor time of the daemon over the time that it watched, as
if every moment of it were taken from the engine, and the records of a token times what one costs
(RingTest.AWriteTakesTensOfNanoseconds prints that) over the time of a token. What it leaves out is
what a tick pushes out of the caches.

--json keeps the pairs: a file that is there is added to, so that a machine that is shared need not
be taken for long at a time. With --pairs 0 what was kept is summed up.

  tools/bench/watch_overhead.py -m MODEL.gguf [--pairs 20] [--json FILE] [-- BENCH OPTIONS]
"""
import argparse
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Daemon:
    """A daemon that watches, or sleeps."""

    def __init__(self, hotset, environment, folder):
        self.log = os.path.join(folder, "log.jsonl")
        self.process = subprocess.Popen([hotset, "daemon", "--port", "0", "--log", self.log],
                                        env=environment, stderr=subprocess.DEVNULL)

    def signal(self, number):
        self.process.send_signal(number)

    def seconds(self):
        """Processor time so far, of all threads."""
        tasks = f"/proc/{self.process.pid}/task"
        return sum(int(open(f"{tasks}/{task}/schedstat").read().split()[0])
                   for task in os.listdir(tasks)) / 1e9

    def end_of(self, pid):
        """Its last line about an engine, once it has missed it."""
        while True:
            with open(self.log) as log:
                for line in log:
                    if '"end of engine"' in line and f'"pid":{pid},' in line:
                        return json.loads(line)
            time.sleep(0.05)


def run(options, arguments, daemon, environment):
    """Seconds a token of one run, and what else is known of it."""
    command = [arguments.hotset, "bench", "--json", *options]
    daemon_seconds = daemon.seconds() if daemon else 0
    began = time.monotonic()
    bench = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
    out, errors = bench.communicate()
    took = time.monotonic() - began
    if bench.returncode != 0:
        sys.exit(f"{' '.join(command)}: {errors.strip()}")
    figures = json.loads(out)
    rates = figures["decode_tps"]["values"]
    found = {"token_s": statistics.mean(1 / rate for rate in rates), "isa": figures["isa"]}
    if daemon:
        found["daemon_share"] = (daemon.seconds() - daemon_seconds) / took
        last = daemon.end_of(bench.pid)
        seen = last["records"] + last["records_lost"]
        tokens = arguments.tokens * (len(rates) + 1)  # with the warm-up
        found["records_a_token"] = seen / tokens
        found["lost"] = last["records_lost"] / max(seen, 1)
    return found


def measure(arguments, options, pairs, keep):
    # Where rings lie by default when there is no session: on tmpfs.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        environment = dict(os.environ, XDG_RUNTIME_DIR=folder)
        daemon = Daemon(arguments.hotset, environment, folder)
        try:
            for _ in range(arguments.pairs):
                pair = {}
                for is_watched in ((True, False) if len(pairs) % 2 == 0 else (False, True)):
                    daemon.signal(signal.SIGCONT if is_watched else signal.SIGSTOP)
                    if is_watched:
                        pair["watched"] = run(options, arguments, daemon, environment)
                    else:
                        alone = [*options, "--set", "profiler.ring=0"]
                        pair["alone"] = run(alone, arguments, None, environment)
                pairs.append(pair)
                keep()
                print(f"watched {1 / pair['watched']['token_s']:.2f} tokens/s, "
                      f"alone {1 / pair['alone']['token_s']:.2f}, "
                      f"daemon {100 * pair['watched']['daemon_share']:.2f} % of a core",
                      file=sys.stderr, flush=True)
        finally:
            daemon.signal(signal.SIGCONT)
            daemon.process.terminate()
            daemon.process.wait()


def report(arguments, pairs):
    ratios = [math.log(pair["watched"]["token_s"] / pair["alone"]["token_s"]) for pair in pairs]
    drawn = random.Random(1)
    medians = sorted(statistics.median(drawn.choices(ratios, k=len(ratios)))
                     for _ in range(10000))
    low, middle, high = (100 * (math.exp(x) - 1)
                         for x in (medians[250], statistics.median(ratios), medians[9749]))
    watched = [pair["watched"] for pair in pairs]
    share = statistics.median(w["daemon_share"] for w in watched)
    records = statistics.median(w["records_a_token"] for w in watched)
    token_ns = 1e9 * statistics.median(pair["alone"]["token_s"] for pair in pairs)
    written = records * arguments.record_ns / token_ns
    lost = statistics.median(w["lost"] for w in watched)
    print(f"{os.path.basename(arguments.model)}, {watched[0]['isa']}: overhead {middle:+.2f} % "
          f"(95 %: {low:+.2f} .. {high:+.2f}), {len(pairs)} pairs\n"
          f"by account: the daemon took {100 * share:.2f} % of a core; {records:.0f} records a "
          f"token at {arguments.record_ns:.0f} ns are {100 * written:.2f} % of its "
          f"{token_ns / 1e6:.2f} ms; {100 * lost:.1f} % of the records were lost; "
          f"{100 * (share + written):.2f} % in all")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64, help="decoded in a repetition")
    parser.add_argument("--repetitions", type=int, default=3, help="in a run")
    parser.add_argument("--record-ns", type=float, default=40,
                        help="what a record costs, its look at the clock included")
    parser.add_argument("--json", help="keep pairs in this file, and count those in it, too")
    parser.add_argument("--hotset", default=os.path.join(ROOT, "build/release/tools/hotset"))
    parser.add_argument("bench", nargs="*", help="further options of hotset bench, after --")
    arguments = parser.parse_args()
    options = ["-m", arguments.model, "-p", "0", "-n", str(arguments.tokens),
               "-r", str(arguments.repetitions), *arguments.bench]
    pairs = []
    if arguments.json and os.path.exists(arguments.json):
        with open(arguments.json) as kept:
            pairs = json.load(kept)

    def keep():
        if arguments.json:
            with open(arguments.json, "w") as kept:
                json.dump(pairs, kept)

    measure(arguments, options, pairs, keep)
    if not pairs:
        sys.exit("no pairs: --pairs 0 sums up what --json has kept")
    report(arguments, pairs)


if __name__ == "__main__":
    main()
