"""Writes decode.bin and encode.bin: what the PyPI package `gguf` makes of fixed blocks, and ../../src/lattices.bin, the
points of the IQ formats as the package has them.

    pip install gguf numpy && python3 generate.py

decode.bin, for each format: name (8 bytes, zero padded), block count (u32 LE), the blocks, then for each block the FNV-1a
hash (64 bits) of its decoded weights as little-endian f32. encode.bin: count (u32 LE) of groups of 32 values, the values
as f32; then for each of ENCODED the name (8 bytes) and the encoded values. Formats that the package has no decoder for
(DEFINED) are decoded here, by the words of their definition.
"""

import pathlib

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES
from gguf import quants
from gguf.quants import dequantize, quantize

HERE = pathlib.Path(__file__).parent
# Byte offsets of the half-precision scales in a block.
HALVES = {
    "F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
    "IQ1_S": [0], "IQ1_M": [], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0],
    "TQ1_0": [52], "TQ2_0": [64], "NVFP4": [], "Q1_0": [0], "Q8_K": [], "F8_E4M3": [], "NVFP4F32": [],
}
NAMES = [
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0",
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4",
]
# Drawn from numbers of their own, so that the blocks above stay as they were.
LATER = [
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0", "NVFP4", "Q1_0", "Q8_K", "F8_E4M3",
    "NVFP4F32",
]
# The points, in the order of lattices.bin.
LATTICES = [quants.IQ2_XXS, quants.IQ2_XS, quants.IQ2_S, quants.IQ1_S, quants.IQ3_XXS, quants.IQ3_S]
# Those for which the package has an encoder.
ENCODED = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"]
# Largest, smallest subnormal, largest subnormal, smallest normal, one, both zeros, and negatives.
EXTREME_HALVES = [0x7BFF, 0xFBFF, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x0000, 0x8000]


def fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def q8_k(blocks: np.ndarray) -> np.ndarray:
    """f32 scale, 256 signed bytes; the sums behind them are not used."""
    return blocks[:, :4].copy().view("<f4") * blocks[:, 4:260].view(np.int8).astype(np.float32)


def q1_0(blocks: np.ndarray) -> np.ndarray:
    """f16 scale, 128 bits: the scale where a bit is set, else its negative."""
    d = blocks[:, :2].copy().view("<f2").astype(np.float32)
    return np.where(np.unpackbits(blocks[:, 2:], axis=1, bitorder="little") == 1, d, -d)


def f8_e4m3(blocks: np.ndarray) -> np.ndarray:
    """f32 scale, 32 floats of 8 bits: 1 sign, 4 exponent (bias 7), 3 mantissa."""
    code = blocks[:, 4:].astype(np.int64)
    exponent, mantissa = code >> 3 & 15, (code & 7) / 8.0
    value = np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent - 7))
    return blocks[:, :4].copy().view("<f4") * np.where(code & 128, -value, value).astype(np.float32)


def nvfp4_f32(blocks: np.ndarray) -> np.ndarray:
    """f32 scale, then a block of NVFP4: half of its scales times the f32 scale, rounded, times twice its floats."""
    rest = np.ascontiguousarray(blocks[:, 4:])
    code = rest[:, :4].astype(np.int64)
    exponent, mantissa = code >> 3 & 15, (code & 7) / 8.0
    scales = np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent - 7)).astype(np.float32)
    scales = np.where(code == 127, np.float32(0), scales)
    both = blocks[:, :4].copy().view("<f4") * (scales / 2)
    rest[:, :4] = 0x38  # one
    return np.repeat(both, 16, axis=1) * (2 * dequantize(rest, T.NVFP4))


DEFINED = {"Q8_K": q8_k, "Q1_0": q1_0, "F8_E4M3": f8_e4m3, "NVFP4F32": nvfp4_f32}
# Bytes of the blocks that no file has.
OWN = {"F8_E4M3": 36, "NVFP4F32": 40}


def blocks_of(name: str, rng: np.random.Generator) -> np.ndarray:
    size = OWN.get(name) or GGML_QUANT_SIZES[T[name]][1]
    if name in ("F32", "F16", "BF16"):
        blocks = rng.integers(0, 256, (256, size), dtype=np.uint8)
        # Clear one exponent bit: no infinities and no NaN, because conversions may change the payload of a NaN.
        blocks[:, -1] &= 0xBF
        return blocks
    if name == "MXFP4":
        blocks = rng.integers(0, 256, (256, size), dtype=np.uint8)
        blocks[:, 0] = np.arange(256)
        return blocks
    codes = [rng.integers(0, 256, size, dtype=np.uint8) for _ in range(30)]
    codes += [np.full(size, value, np.uint8) for value in (0x00, 0xFF, 0x0F, 0xF0, 0x80, 0x7F, 0x55, 0xAA, 0x3F, 0xC0)]
    codes += [np.arange(size).astype(np.uint8), np.arange(size)[::-1].astype(np.uint8)]
    blocks = np.stack(codes)
    if name in ("Q8_K", "F8_E4M3", "NVFP4F32"):
        scales = np.array([3e38, -3e38, 1e-45, -1e-45, 1.0, -1.0, 0.0, -0.0, 1e-38], "<f4")
        for i, block in enumerate(blocks):
            scale = scales[i // 2 % len(scales)] if i % 2 else np.float32(rng.normal() * 0.1)
            block[:4] = np.frombuffer(scale.tobytes(), np.uint8)
        if name == "F8_E4M3":
            # No NaN, whose payload may change.
            blocks[:, 4:][blocks[:, 4:] & 0x7F == 0x7F] ^= 1
    if name == "IQ1_M":
        for i, block in enumerate(blocks):
            half = int(np.float16(rng.normal() * 0.1).view(np.uint16)) if i % 2 == 0 else EXTREME_HALVES[i // 2 % 10]
            for j in range(4):
                block[49 + 2 * j] = block[49 + 2 * j] & 15 | (half >> 4 * j & 15) << 4
    for i, block in enumerate(blocks):
        for j, at in enumerate(HALVES[name]):
            if i % 2 == 0:
                half = np.float16(rng.normal() * 0.1)
            else:
                half = np.uint16(EXTREME_HALVES[(i // 2 + 3 * j) % len(EXTREME_HALVES)]).view(np.float16)
            block[at:at + 2] = np.frombuffer(half.tobytes(), np.uint8)
    return blocks


def main() -> None:
    points = b"".join(bytes.fromhex(lattice.grid_hex.decode()) for lattice in LATTICES)
    (HERE / "../../src/lattices.bin").write_bytes(points)
    rng = np.random.default_rng(20250)
    with open(HERE / "decode.bin", "wb") as file:
        later = np.random.default_rng(20261)
        for name in NAMES + LATER:
            blocks = blocks_of(name, later if name in LATER else rng)
            with np.errstate(all="ignore"):
                decoded = DEFINED[name](blocks) if name in DEFINED else dequantize(blocks, T[name])
                weights = decoded.astype("<f4")
            file.write(name.encode().ljust(8, b"\0") + len(blocks).to_bytes(4, "little") + blocks.tobytes())
            for row in weights.reshape(len(blocks), -1):
                file.write(fnv1a(row.tobytes()).to_bytes(8, "little"))

    values = rng.normal(size=(60, 32)).astype(np.float32)
    values *= np.exp(rng.uniform(-12, 9.5, (60, 1))).astype(np.float32)
    values[0] = 0
    values[1] = 127
    values[2] = np.arange(32) / 2  # halves: ties once scaled
    values[2, 0] = 127
    values[3] = -np.arange(32) - 0.5
    values[3, 31] = -127
    values[4, :] = 0
    values[4, 7] = -1e-6  # a subnormal half scale
    values[5] = 6e4 * np.sign(values[5])  # near the largest half; both signs of the largest magnitude
    values[6] = -values[5]
    values[7] = np.arange(32) - 16  # ties of 4-bit floats
    values[8] = 3 + np.arange(32) / 64  # far from zero
    with open(HERE / "encode.bin", "wb") as file:
        file.write(len(values).to_bytes(4, "little") + values.astype("<f4").tobytes())
        for name in ENCODED:
            file.write(name.encode().ljust(8, b"\0") + quantize(values, T[name]).tobytes())


if __name__ == "__main__":
    main()
