"""Writes tests/data/blocks/: random valid blocks of every readable type and what gguf-py makes of
them. Run once, with the PyPI package `gguf` (and numpy) installed:

    python3 tests/make_block_goldens.py

<TYPE>.bin            u32 count, u32 bytes a block, u32 elements a block; the blocks; then
                      count * elements float32, gguf-py's dequantised values.
<TYPE>.quantised.bin  the same header and parts, but the float32 are the input, and the blocks
                      gguf-py's quantised output.
All numbers are little-endian. Blocks hold extreme fields on purpose, but no NaN or infinity.
"""

import pathlib

import gguf
import numpy as np

OUT = pathlib.Path(__file__).parent / "data" / "blocks"
QUANT = gguf.GGMLQuantizationType

# Type: (blocks, byte offsets of its f16 fields).
TYPES = {
    "F32": (256, []), "F16": (256, []), "BF16": (256, []),
    "Q4_0": (64, [0]), "Q4_1": (64, [0, 2]), "Q5_0": (64, [0]), "Q5_1": (64, [0, 2]),
    "Q8_0": (64, [0]), "IQ4_NL": (64, [0]), "MXFP4": (64, []),
    "Q2_K": (16, [80, 82]), "Q3_K": (16, [108]), "Q4_K": (16, [0, 2]), "Q5_K": (16, [0, 2]),
    "Q6_K": (16, [208]), "IQ4_XS": (16, [0]),
}
# Zero, minus zero, subnormals of both signs, least normal, one, largest of both signs.
SPECIAL_HALVES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0xBC00, 0x7BFF, 0xFBFF]
E8M0_SPECIAL = [0, 1, 2, 127, 128, 254]


def random_halves(rng, n):
    """Finite halves: half of them of the sizes real scales have, half any."""
    usual = rng.normal(0, 0.02, n).astype(np.float16).view(np.uint16)
    sign = (rng.integers(0, 2, n) << 15).astype(np.uint16)
    finite = rng.integers(0, 0x7C00, n).astype(np.uint16) | sign
    return np.where(rng.integers(0, 2, n) == 0, usual, finite)


def random_blocks(rng, name, count, halves):
    elements, size = gguf.GGML_QUANT_SIZES[QUANT[name]]
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    if name == "F32":
        values = rng.normal(0, 1, count).astype(np.float32)
        values[:6] = [0, -0.0, 1e-45, -1e-39, 3.4e38, -1]
        return values.view(np.uint8).reshape(count, 4)
    if name == "F16":
        values = random_halves(rng, count)
        values[: len(SPECIAL_HALVES)] = SPECIAL_HALVES
        return values.view(np.uint8).reshape(count, 2)
    if name == "BF16":
        values = rng.normal(0, 1, count).astype(np.float32).view(np.uint32) >> 16
        values[:6] = [0, 0x8000, 1, 0x807F, 0x7F7F, 0xBF80]
        return values.astype(np.uint16).view(np.uint8).reshape(count, 2)
    for field, at in enumerate(halves):
        values = random_halves(rng, count)
        values[: len(SPECIAL_HALVES)] = np.roll(SPECIAL_HALVES, field)
        blocks[:, at : at + 2] = values.view(np.uint8).reshape(count, 2)
    if name == "MXFP4":
        blocks[:, 0] = rng.integers(0, 255, count)
        blocks[: len(E8M0_SPECIAL), 0] = E8M0_SPECIAL
    if name == "Q6_K":
        blocks[3, 192:208] = 0x80  # -128
        blocks[4, 192:208] = 0x7F
        blocks[5, 192:208:2] = 0
    return blocks


def write(name, blocks, values, elements):
    header = np.array([len(blocks), blocks.shape[1], elements], dtype="<u4")
    values = np.ascontiguousarray(values, dtype="<f4")
    assert values.size == len(blocks) * elements
    (OUT / f"{name}.bin").write_bytes(header.tobytes() + blocks.tobytes() + values.tobytes())


def quantiser_inputs(rng):
    """Rows of 32 floats that meet the corners of the quantisers."""
    rows = rng.normal(0, 1, (64, 32)).astype(np.float32)
    rows *= np.float32(10.0) ** rng.integers(-6, 4, (64, 1)).astype(np.float32)
    rows[0] = 0
    rows[1] = 1.5
    rows[2] = np.linspace(-8, 7, 32)
    rows[3] = np.arange(32) - 16
    rows[4, ::2] = -rows[4, 1::2]  # ties of magnitude: the first one counts
    rows[5] = rng.integers(-127, 128, 32) * 0.5  # ties of rounding at scale 0.5
    rows[5, 0] = 63.5
    rows[6] = rng.integers(-254, 255, 32) * 0.5
    rows[6, 0] = -127
    rows[7] *= np.float32(1e-6)  # a scale that is subnormal in f16
    rows[8] = 0
    rows[8, 31] = -3
    return rows


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for number, (name, (count, halves)) in enumerate(TYPES.items()):
        blocks = random_blocks(np.random.default_rng(1000 + number), name, count, halves)
        elements = gguf.GGML_QUANT_SIZES[QUANT[name]][0]
        with np.errstate(over="ignore"):  # MXFP4 with e = 254 reaches infinity, as float32 does
            values = gguf.dequantize(blocks.reshape(1, -1), QUANT[name])
        assert not np.isnan(values).any()
        write(name, blocks, values, elements)
    rows = quantiser_inputs(np.random.default_rng(7))
    for name in ("Q4_0", "Q8_0", "F16", "BF16"):
        blocks = gguf.quantize(rows, QUANT[name])
        elements, size = gguf.GGML_QUANT_SIZES[QUANT[name]]
        write(f"{name}.quantised", blocks.view(np.uint8).reshape(-1, size), rows, elements)


main()
