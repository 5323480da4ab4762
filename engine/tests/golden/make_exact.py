"""Writes a folder with 8-bit and 4-bit floats as one with the same numbers in F32: make_exact.py FROM TO.

Products with four bits round activations, so the golden is met by the F32 folder. Only the standard library."""

import array
import json
import os
import shutil
import struct
import sys

FOUR = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
FOUR += [-value for value in FOUR]


def eight(byte):
    sign, exponent, mantissa = (-1 if byte & 128 else 1), byte >> 3 & 15, byte & 7
    return sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


EIGHT = [eight(byte) for byte in range(256)]
SCALES = [2.0 ** (byte - 127) for byte in range(256)]


def exact(dtype, shape, codes, scales, blocks):
    """The numbers of codes whose rows have `blocks` scales each, in runs of 32 or squares of 128."""
    if dtype == "F8_E4M3":
        columns = shape[1]
        scale = lambda at: SCALES[scales[at // columns // 128 * blocks + at % columns // 128]]
        return shape, array.array("f", (EIGHT[code] * scale(at) for at, code in enumerate(codes)))
    columns = 2 * shape[1]
    assert columns == 32 * blocks
    both = (code for byte in codes for code in (byte & 15, byte >> 4))
    numbers = array.array("f", (FOUR[code] * SCALES[scales[at // 32]] for at, code in enumerate(both)))
    return [shape[0], columns], numbers


def main(source, target):
    os.makedirs(target, exist_ok=True)
    with open(os.path.join(source, "model.safetensors"), "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header, data = json.loads(file.read(length)), file.read()
    header.pop("__metadata__", None)
    of = lambda tensor: data[slice(*tensor["data_offsets"])]
    out, parts, at = {}, [], 0
    for name, tensor in header.items():
        scales = header.get(name.removesuffix(".weight") + ".scale")
        if name.endswith(".scale") and name.removesuffix(".scale") + ".weight" in header:
            continue
        dtype, shape, part = tensor["dtype"], tensor["shape"], of(tensor)
        if scales is not None and name.endswith(".weight"):
            shape, numbers = exact(dtype, shape, part, of(scales), scales["shape"][1])
            dtype, part = "F32", numbers.tobytes()
        out[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(part)]}
        at += len(part)
        parts.append(part)
    head = json.dumps(out).encode()
    head += b" " * (-len(head) % 8)
    with open(os.path.join(target, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.writelines(parts)
    with open(os.path.join(source, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    for key in ("quantization_config", "expert_dtype"):
        config.pop(key, None)
    with open(os.path.join(target, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1)
    shutil.copyfile(os.path.join(source, "golden.safetensors"), os.path.join(target, "golden.safetensors"))


main(*sys.argv[1:])
