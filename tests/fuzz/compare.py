#!/usr/bin/env python3
"""Generated safetensors and .npy files, read here and by the reference (the package safetensors, in Rust; NumPy).

  compare.py [NUMBER OF FILES EACH]

What is read here must be read there, and .npy files to the same values. What is read there only is listed with the reason.
Needs a C++ compiler, zlib, numpy and safetensors.
"""
import collections
import io
import json
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib

import numpy as np
import safetensors

READER = r"""
#include <vaelib/io/npy.hpp>
#include <vaelib/io/safetensors.hpp>
#include <cstdio>
int main(int, char** arguments) {  // kind, file of (u32 length, bytes) ...: a line for each, + or - and a checksum or a reason
  const std::string all = vaelib::read_file(arguments[2], ~0ull);
  for (std::size_t at = 0; at < all.size();) {
    std::uint32_t length = 0;
    all.copy(reinterpret_cast<char*>(&length), 4, at);
    vaelib::InputFile file("f", all.substr(at + 4, length));
    at += 4 + length;
    unsigned long sum = 0;
    try {
      if (*arguments[1] == 's') {
        const vaelib::SafetensorsFile opened(std::move(file));
        for (const auto& tensor : opened.tensors()) {
          std::vector<float> values(tensor.count());
          opened.read(tensor.name, values);
        }
      } else {
        const auto array = vaelib::read_npy(file);
        sum = crc32_z(0, reinterpret_cast<const unsigned char*>(array.values.data()), array.values.size() * 4);
      }
      std::printf("+ %lu\n", sum);
    } catch (const vaelib::Error& error) {
      std::string reason = error.what();
      for (char& c : reason) c = c == '\n' ? ' ' : c;
      std::printf("- %s\n", reason.c_str());
    }
  }
}
"""

chance = random.Random(1)
DTYPES = {"F32": 4, "F64": 8, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "U16": 2, "U32": 4, "U64": 8, "BOOL": 1}
MORE_DTYPES = ["F8_E4M3", "F8_E5M2", "F4", "F6_E2M3", "C64", "f32", ""]
EXTENTS = [0, 1, 2, 3, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -1, 1.0]
NAMES = ["a", "b", "", "\u00e9", "a.b", "\\", "\"", "\u0000", "\U0001f600", "__metadata__"]


def text_of(value):
    """JSON with now and then another space, escape or order."""
    if isinstance(value, dict):
        items = list(value.items())
        if chance.random() < 0.1:
            chance.shuffle(items)
        if items and chance.random() < 0.03:
            items.append(chance.choice(items))
        return "{" + ",".join(text_of(k) + ":" + text_of(v) for k, v in items) + "}"
    space = chance.choice([" ", "\n", "\t", "\r", "\v"]) if chance.random() < 0.01 else ""
    if isinstance(value, list):
        return space + "[" + ",".join(text_of(v) for v in value) + "]"
    return space + json.dumps(value, ensure_ascii=chance.random() < 0.5)


def safetensors_file():
    header, end = {}, 0
    if chance.random() < 0.3:
        header["__metadata__"] = {chance.choice(NAMES): chance.choice(["v", "\u2028", 1, None, {}, []] if chance.random() < 0.1 else ["v"])}
    for _ in range(chance.randrange(4)):
        dtype = chance.choice(list(DTYPES) if chance.random() < 0.97 else MORE_DTYPES)
        shape = [chance.choice(EXTENTS[:4] if chance.random() < 0.98 else EXTENTS) for _ in range(chance.randrange(4))]
        size = DTYPES.get(dtype, 1)
        for extent in shape:
            size *= int(extent)
        begin = end
        if 0 <= size < 4096:
            end += size
        offsets = [begin, begin + size]
        if chance.random() < 0.03:
            offsets[chance.randrange(2)] = chance.choice(EXTENTS + [begin + 1, end - 1])
        if chance.random() < 0.01:
            offsets = chance.choice([[], [0], offsets + [end], end, [[0, end]]])
        entry = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        if chance.random() < 0.02:
            entry[chance.choice(["x", "dtype ", "strides"])] = chance.choice([1, "v", {}, None])
        if chance.random() < 0.02:
            del entry[chance.choice(list(entry))]
        header[chance.choice(NAMES)] = entry
    text = bytearray(text_of(header).encode("utf-8", "surrogatepass") + b" " * chance.choice([0, 0, 0, 1, 7]))
    if chance.random() < 0.2:
        for _ in range(chance.randrange(1, 3)):
            at = chance.randrange(len(text))
            text[at:at + chance.randrange(2)] = bytes([chance.choice(b'{}[]",: \n0129ae\\\x00\xff\xc3')]) * chance.randrange(2)
    length = len(text) + (chance.choice([-1, 1, 8, 2**31, 2**63]) if chance.random() < 0.02 else 0)
    data = bytes(end + (chance.choice([-1, 1]) if chance.random() < 0.02 and end else 0))
    return struct.pack("<Q", length) + bytes(text) + data


def npy_file():
    kinds = ["<f2", "<f4", "<f8", "|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8"]
    kind = chance.choice(kinds if chance.random() < 0.9 else [">f4", "|O", "<c8", "|S3", "<f16", "f4", "=f4", "<u1", "|V4", "<M8", "b1", "float32"])
    shape = [chance.choice([0, 1, 2, 3, 4, 5] if chance.random() < 0.98 else [2**31, 2**62, 2**63, 2**64, -1]) for _ in range(chance.randrange(4))]
    count = int(np.prod(shape)) if all(0 <= e < 10 for e in shape) else 1
    tuple_text = ", ".join(map(str, shape)) + ("," if len(shape) == 1 or (shape and chance.random() < 0.2) else "")
    items = [f"'descr': '{kind}'", f"'fortran_order': {chance.choice(['False'] * 9 + ['True'])}", f"'shape': ({tuple_text})"]
    if chance.random() < 0.1:
        chance.shuffle(items)
    if chance.random() < 0.03:
        items.append(chance.choice(items + ["'x': 1"]))
    header = "{" + ", ".join(items) + (", }" if chance.random() < 0.8 else "}")
    header = bytearray((header + " " * chance.randrange(40) + "\n" * (chance.random() < 0.9)).encode())
    if chance.random() < 0.3:
        for _ in range(chance.randrange(1, 3)):
            at = chance.randrange(len(header))
            header[at:at + chance.randrange(2)] = bytes([chance.choice(b"{}()',: \n0129TF#_-L\\\xff")]) * chance.randrange(2)
    version = chance.choice([1] * 7 + [2, 3] + ([0, 4] if chance.random() < 0.1 else []))
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    width = {"1": 1, "2": 2, "4": 4, "8": 8}.get(kind[-1], 4)
    data = bytes(chance.randrange(0, 2 if kind == "|b1" else 60) for _ in range(max(0, count * width + (chance.choice([-1, 1]) if chance.random() < 0.02 else 0))))
    return b"\x93NUMPY" + bytes([version, 0]) + length + bytes(header) + data


def by_safetensors(content):
    safetensors.deserialize(content)
    return None


def by_numpy(content):
    file = io.BytesIO(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = np.load(file, allow_pickle=False)
        if file.read(1):
            return "bytes behind it"  # numpy leaves them
        return zlib.crc32(np.ascontiguousarray(array.astype("<f4")).tobytes())


def compare(kind, make, reference, number, reader, folder):
    files = [make() for _ in range(number)]
    cases = folder / kind
    cases.write_bytes(b"".join(struct.pack("<I", len(f)) + f for f in files))
    lines = subprocess.run([reader, kind, cases], stdout=subprocess.PIPE, check=True).stdout.decode("utf-8", "replace").split("\n")
    both = neither = wrong = 0
    only_there = collections.Counter()
    for content, line in zip(files, lines, strict=False):
        here = line[0] == "+"
        try:
            there, answer = True, reference(content)
        except Exception as error:  # whatever it throws, it refuses
            there, answer = False, error
        if here and not (there and answer in (None, int(line[2:]))):
            wrong += 1
            print(f"{kind}: read here only, or otherwise: {content[:300]!r} there: {answer}")
        elif here:
            both += 1
        elif there:
            only_there[re.sub(r"\d+|\"[^\"]*\"|'[^']*'", "_", line[2:90])] += 1
        else:
            neither += 1
    print(f"{kind}: {number} files: {both} read by both, {neither} by neither, {sum(only_there.values())} there only, {wrong} here only or otherwise")
    for reason, count in only_there.most_common():
        print(f"  {count:6} there only, here: {reason}")
    return wrong


def main():
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    include = pathlib.Path(__file__).parents[2] / "include"
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "reader.cpp").write_text(READER)
        reader = folder / "reader"
        subprocess.run(["c++", "-std=c++20", "-O1", f"-I{include}", folder / "reader.cpp", "-o", reader, "-lz"], check=True)
        wrong = compare("safetensors", safetensors_file, by_safetensors, number, reader, folder)
        wrong += compare("npy", npy_file, by_numpy, number, reader, folder)
    sys.exit(1 if wrong else 0)


main()
