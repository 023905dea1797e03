#!/usr/bin/env python3
"""Generate a routing trace with the locality of a real 512-expert, top-10 MoE model.

No per-token trace of a large model can be had here, so this draws one from the real
popularity of Qwen3-Next-80B-A3B (data/, where it comes from is in data/README.md) and a two-timescale drift, fitted to
published hit rates (LRU with 49 slots a layer .74, Belady .86; with 64 and 128 slots .67
and .81) and to the published share of ids that repeat at the next token (.41 - .46).

  gen_routing.py --profile hard --tokens 4096 --layers 48 --seed 7 out.i16

`easy` is one long chat, `hard` mixed requests. Output: int16 [tokens][layers][10], ids in
descending router-logit order. Needs numpy only.
"""
import argparse
import gzip
import json
import pathlib
import numpy as np

PROFILES = {
    "easy": dict(prior=.65, request=.89, fast=2.0, fast_tau=11.3, slow=.43, slow_tau=134., noise=.864),
    "hard": dict(prior=.53, request=.79, fast=1.75, fast_tau=2.37, slow=1.07, slow_tau=93., noise=.287),
}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--profile", choices=PROFILES, default="hard")
    p.add_argument("--tokens", type=int, default=4096)
    p.add_argument("--layers", type=int, default=48)
    p.add_argument("--request-tokens", type=int, default=512, help="tokens after which the topic changes")
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    heat_file = pathlib.Path(__file__).parent / "data/coactivation_qwen3-next-80b-a3b.json.gz"
    heat = np.array([layer["heat"] for layer in json.loads(gzip.decompress(heat_file.read_bytes()))["layers"]], float)
    q, k = PROFILES[a.profile], 10
    experts = heat.shape[1]
    out = np.empty((a.tokens, a.layers, k), np.int16)
    f, s = np.exp(-1 / q["fast_tau"]), np.exp(-1 / q["slow_tau"])
    fn, sn = np.sqrt(1 - f * f), np.sqrt(1 - s * s)
    for layer in range(a.layers):
        rng = np.random.default_rng(a.seed * 1000 + layer)
        h = heat[layer % len(heat)] + 1
        prior = q["prior"] * np.log(h / h.sum())
        for t in range(a.tokens):
            if t % a.request_tokens == 0:
                request = q["request"] * rng.standard_normal(experts)
                fast, slow = rng.standard_normal(experts), rng.standard_normal(experts)
            z = prior + request + q["fast"] * fast + q["slow"] * slow + q["noise"] * rng.standard_normal(experts)
            top = np.argpartition(-z, k)[:k]
            out[t, layer] = top[np.argsort(-z[top])]
            fast = f * fast + fn * rng.standard_normal(experts)
            slow = s * slow + sn * rng.standard_normal(experts)
    out.tofile(a.out)
    print(f"{a.out}: int16 [{a.tokens}][{a.layers}][{k}], {experts} experts, profile {a.profile}, seed {a.seed}")


if __name__ == "__main__":
    main()
