#!/usr/bin/env python3
"""Write a quantised Hugging Face folder with Qwen3-Next-80B-A3B's layer shapes and random codes.

Speed does not depend on what the weights are, only on their shapes and formats. Text made from it means nothing. One shard a
layer, and one for the rest, or one for all, or as many as a size gives, wherever that cuts a module's tensors apart. The
tokenizer is copied from a small one.

  synth_checkpoint.py --format nf4dq --layers 4 out_folder      # bitsandbytes NF4, double-quantised: every linear
  synth_checkpoint.py --format gptq --layers 4 out_folder       # 4 bits, group 128; also gptq-act (desc_act), awq
"""
import argparse
import json
import os
import random
import shutil
import struct

TOKENIZER = os.path.join(os.path.dirname(__file__), "../../tests/data/quantised/bnb_nf4/qwen3_next/tokenizer.json")
NF4 = [-1, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.09105, 0, 0.0795803, 0.1609302, 0.2461123,
       0.3379152, 0.4407098, 0.562617, 0.7229568, 1]
CONFIGS = {
    "nf4dq": {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
              "bnb_4bit_use_double_quant": True, "bnb_4bit_quant_storage": "uint8",
              "llm_int8_skip_modules": ["lm_head", "mlp.gate", "mlp.shared_expert_gate", "linear_attn.in_proj_ba"]},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True, "checkpoint_format": "gptq"},
    "gptq-act": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True,
                 "checkpoint_format": "gptq"},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
}
GROUP = 128


class Random:
    """Bytes from random places of 16 MiB that are made once."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.pool = self.random.randbytes(16 << 20)

    def bytes(self, n):
        out = b""
        while len(out) < n:
            at = self.random.randrange(len(self.pool) // 2)
            out += self.pool[at:at + min(n - len(out), len(self.pool) // 2)]
        return out


def f16(value):
    return struct.pack("<e", value)


def bf16_words(r, n, std):
    """n bf16 numbers of either sign, about `std`."""
    high = struct.unpack("<I", struct.pack("<f", std))[0] >> 16 & 0x7f80
    choices = [struct.pack("<H", high | sign << 15 | r.random.randrange(128)) for sign in (0, 1) for _ in range(512)]
    block = b"".join(r.random.choice(choices) for _ in range(4096))
    return (block * (n * 2 // len(block) + 1))[:n * 2]


class Shards:
    """Tensors in files, a new one where roll() says so, or where one would have more than `limit` bytes (None: no limit)."""

    def __init__(self, folder, limit):
        self.folder, self.limit, self.headers, self.total = folder, limit, [], 0
        self.open()

    def open(self):
        self.header, self.at = {}, 0
        self.data = open(self.path(len(self.headers), "data"), "wb")

    def path(self, i, ending):
        return os.path.join(self.folder, f"shard-{i}.{ending}")

    def add(self, name, dtype, shape, content):
        if self.limit is not None and self.at + len(content) > self.limit:
            self.roll()
        self.header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [self.at, self.at + len(content)]}
        self.data.write(content)
        self.at += len(content)

    def roll(self):
        if self.at > 0:
            self.close()
            self.open()

    def close(self):
        self.data.close()
        head = json.dumps(self.header).encode()
        head += b" " * (-len(head) % 8)
        i = len(self.headers)
        with open(self.path(i, "full"), "wb") as out, open(self.path(i, "data"), "rb") as data:
            out.write(struct.pack("<Q", len(head)) + head)
            shutil.copyfileobj(data, out, 16 << 20)
        os.remove(self.path(i, "data"))
        self.headers.append(self.header)
        self.total += self.at

    def finish(self):
        """Closes the last one, names all by their number, and writes the index."""
        self.close()
        weight_map = {}
        for i, header in enumerate(self.headers):
            name = f"model-{i + 1:05}-of-{len(self.headers):05}.safetensors"
            os.rename(self.path(i, "full"), os.path.join(self.folder, name))
            weight_map.update({tensor: name for tensor in header})
        with open(os.path.join(self.folder, "model.safetensors.index.json"), "w") as f:
            json.dump({"metadata": {"total_size": self.total}, "weight_map": weight_map}, f)


def add_nf4dq(s, r, name, n, k):
    blocks = n * k // 64
    nested = (blocks + 255) // 256
    std = k ** -0.5
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [n, k], "nested_blocksize": 256,
             "nested_dtype": "float32", "nested_offset": 2.5 * std}
    s.add(name + ".weight", "U8", [n * k // 2, 1], r.bytes(n * k // 2))
    s.add(name + ".weight.absmax", "U8", [blocks], r.bytes(blocks))
    s.add(name + ".weight.nested_absmax", "F32", [nested], struct.pack("<f", std) * nested)
    s.add(name + ".weight.nested_quant_map", "F32", [256], struct.pack("<256f", *[(i - 127) / 128 for i in range(256)]))
    s.add(name + ".weight.quant_map", "F32", [16], struct.pack("<16f", *NF4))
    text = json.dumps(state).encode()
    s.add(name + ".weight.quant_state.bitsandbytes__nf4", "U8", [len(text)], text)


def add_groups(s, r, name, n, k, code_shape, zero):
    groups = (k + GROUP - 1) // GROUP
    s.add(name + ".qweight", "I32", code_shape, r.bytes(n * k // 2))
    s.add(name + ".qzeros", "I32", [groups, n // 8], zero(groups * n // 2))
    s.add(name + ".scales", "F16", [groups, n], f16(k ** -0.5 / 4.6) * (groups * n))


def add_gptq(s, r, name, n, k, act_order=False):
    add_groups(s, r, name, n, k, [k // 8, n], lambda count: b"\x77" * count)
    columns = list(range(k))
    if act_order:
        r.random.shuffle(columns)
    s.add(name + ".g_idx", "I32", [k], struct.pack(f"<{k}i", *[c // GROUP for c in columns]))


def add_gptq_act(s, r, name, n, k):
    add_gptq(s, r, name, n, k, True)


def add_awq(s, r, name, n, k):
    add_groups(s, r, name, n, k, [k, n // 8], r.bytes)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--format", choices=CONFIGS, default="nf4dq")
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--experts", type=int, default=512)
    p.add_argument("--vocab", type=int, default=151936)
    p.add_argument("--one-shard", action="store_true", help="all tensors in one file")
    p.add_argument("--shard-kb", type=int, help="files of that size at most (of one tensor, if it is larger)")
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    hidden, inner, heads, kv_heads, head_dim, key_heads, value_heads, state = 2048, 512, 16, 2, 256, 16, 32, 128
    r = Random(a.seed)
    add = {"nf4dq": add_nf4dq, "gptq": add_gptq, "gptq-act": add_gptq_act, "awq": add_awq}[a.format]
    os.makedirs(a.out, exist_ok=True)
    def floats(s, name, shape, std=None):
        count = 1
        for d in shape:
            count *= d
        s.add(name, "BF16", list(shape), b"\0\0" * count if std is None else bf16_words(r, count, std))

    s = Shards(a.out, a.shard_kb and a.shard_kb * 1000)
    for i in range(a.layers):
        p = f"model.layers.{i}."
        floats(s, p + "input_layernorm.weight", [hidden])
        floats(s, p + "post_attention_layernorm.weight", [hidden])
        if (i + 1) % 4:
            channels = 2 * key_heads * state + value_heads * state
            add(s, r, p + "linear_attn.in_proj_qkvz", channels + value_heads * state, hidden)
            floats(s, p + "linear_attn.in_proj_ba.weight", [2 * value_heads, hidden], hidden ** -0.5)
            add(s, r, p + "linear_attn.out_proj", hidden, value_heads * state)
            floats(s, p + "linear_attn.conv1d.weight", [channels, 1, 4], 0.5)
            floats(s, p + "linear_attn.dt_bias", [value_heads], 1)
            floats(s, p + "linear_attn.A_log", [value_heads], 1)
            floats(s, p + "linear_attn.norm.weight", [state], 1)
        else:
            add(s, r, p + "self_attn.q_proj", 2 * heads * head_dim, hidden)
            add(s, r, p + "self_attn.k_proj", kv_heads * head_dim, hidden)
            add(s, r, p + "self_attn.v_proj", kv_heads * head_dim, hidden)
            add(s, r, p + "self_attn.o_proj", hidden, heads * head_dim)
            floats(s, p + "self_attn.q_norm.weight", [head_dim])
            floats(s, p + "self_attn.k_norm.weight", [head_dim])
        floats(s, p + "mlp.gate.weight", [a.experts, hidden], hidden ** -0.5)
        floats(s, p + "mlp.shared_expert_gate.weight", [1, hidden], hidden ** -0.5)
        for e in [f"experts.{j}." for j in range(a.experts)] + ["shared_expert."]:
            add(s, r, p + "mlp." + e + "gate_proj", inner, hidden)
            add(s, r, p + "mlp." + e + "up_proj", inner, hidden)
            add(s, r, p + "mlp." + e + "down_proj", hidden, inner)
        if not a.one_shard and a.shard_kb is None:
            s.roll()
    floats(s, "model.embed_tokens.weight", [a.vocab, hidden], 1)
    floats(s, "model.norm.weight", [hidden])
    floats(s, "lm_head.weight", [a.vocab, hidden], hidden ** -0.5)
    s.finish()
    config = {"architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "vocab_size": a.vocab,
              "hidden_act": "silu", "torch_dtype": "bfloat16", "max_position_embeddings": 32768,
              "tie_word_embeddings": False, "hidden_size": hidden, "intermediate_size": 5120,
              "num_hidden_layers": a.layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
              "head_dim": head_dim, "partial_rotary_factor": 0.25, "rope_theta": 10000000, "rms_norm_eps": 1e-6,
              "attention_bias": False, "full_attention_interval": 4, "linear_conv_kernel_dim": 4,
              "linear_key_head_dim": state, "linear_value_head_dim": state, "linear_num_key_heads": key_heads,
              "linear_num_value_heads": value_heads, "decoder_sparse_step": 1, "mlp_only_layers": [],
              "moe_intermediate_size": inner, "shared_expert_intermediate_size": inner, "num_experts": a.experts,
              "num_experts_per_tok": 10, "norm_topk_prob": True, "quantization_config": CONFIGS[a.format]}
    with open(os.path.join(a.out, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
    shutil.copyfile(TOKENIZER, os.path.join(a.out, "tokenizer.json"))


if __name__ == "__main__":
    main()
