#!/usr/bin/env python3
"""The first inputs of the fuzzers: writes corpus/<format>/* beside this script. Needs numpy and pillow."""
import gzip
import io
import json
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image

CORPUS = pathlib.Path(__file__).parent / "corpus"


def put(name, content):
    path = CORPUS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def safetensors(tensors, metadata=None):
    header, data = ({"__metadata__": metadata} if metadata else {}), b""
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def checkpoint(tensors, metadata):
    file = safetensors(tensors | {"checkpoint.crc32": ("U8", np.zeros(4, "u1"))}, metadata)[:-4]
    return file + struct.pack("<I", zlib.crc32(file))


def saved(save, *arrays, **named):
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


def image(array, kind, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def idx(shape):
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + bytes(i % 251 for i in range(int(np.prod(shape))))


x = np.arange(6, dtype="f4").reshape(2, 3)
all_types = {"F64": "f8", "I64": "i8", "U64": "u8", "F32": "f4", "I32": "i4", "U32": "u4", "F16": "f2", "BF16": "u2", "I16": "i2", "U16": "u2", "I8": "i1",
             "U8": "u1", "BOOL": "?"}
put("safetensors/types", safetensors({name: (name, np.arange(2).astype(kind)) for name, kind in all_types.items()}, {"format": "pt"}))
put("safetensors/shapes", safetensors({"\n\u00e9": ("F32", x), "scalar": ("F32", x[0, 0]), "none": ("F32", x[:0])}))
put("safetensors/empty", safetensors({}))
put("checkpoint/one", checkpoint({"w": ("F32", x)}, {"checkpoint.step": "7", "k": "v"}))
put("checkpoint/empty", checkpoint({}, {"checkpoint.step": "0"}))
put("json/object", '{"a":{"dtypea":"F32","shapeb":[1,2],"c":"\\u00e9\\ud83d\\ude00\\n\\"\\\\"},"b":["x"]}  ')
put("json/string", '"\u00e9\u2028\U0001f600 plain"')
for kind in ("f2", "f4", "f8", "i1", "u2", "i4", "i8", "?"):
    put(f"npy/{kind.replace('?', 'bool')}", saved(np.save, x.astype(kind)))
version2 = saved(np.save, x)
put("npy/version2", version2[:6] + b"\2\0" + version2[8:10] + b"\0\0" + version2[10:])
put("npz/stored", saved(np.savez, a=x, b=x[:0]))
put("npz/compressed", saved(np.savez_compressed, a=np.zeros((20, 20), "u1"), b=x))
put("idx/one", idx([5]))
put("idx/images", idx([2, 4, 4]))
put("idx/images.gz", gzip.compress(idx([2, 4, 4]), mtime=0))
put("csv/numbers", "1,2\r\n-3.5e2,nan\r\n")
put("csv/named", '\ufeff"a ""b""";c;\n+1 ; 2;"3"\n\n4;5;inf')
axes = "property float x\nproperty float y\nproperty float z\n"
face = "element face 1\nproperty list uchar int vertex_indices\n"
put("ply/ascii", f"ply\nformat ascii 1.0\ncomment c\nelement vertex 2\nproperty uchar red\n{axes}{face}end_header\n255 1 2 3\n0 4 5 -6e-1\n3 0 1 0\n")
put("ply/little", f"ply\nformat binary_little_endian 1.0\nelement vertex 2\n{axes}end_header\n".encode() + x.tobytes())
put("ply/big", f"ply\r\nformat binary_big_endian 1.0\r\nelement vertex 1\n{axes}property double q\nend_header\n".encode() + x[0].astype(">f4").tobytes() + bytes(8))
put("xyz/plain", "# points\n1 2 3\n-4e-1,+5, 6 # one\r\n\n7\t8 9\n")
put("xyz/columns", "1 2 3 255 0\n4 5 6 0 nan\n")
grey = (np.arange(80, dtype="u1") * 3).reshape(10, 8)
colour = np.stack([grey, grey.T.reshape(10, 8), 255 - grey], axis=2)
put("png/grey", image(grey, "PNG"))
put("png/colour", image(colour, "PNG"))
put("png/alpha", image(np.concatenate([colour, grey[..., None]], axis=2), "PNG"))
put("png/bits", image(grey > 100, "PNG"))
palette = Image.fromarray(colour).quantize(5)
file = io.BytesIO()
palette.save(file, "PNG")
put("png/palette", file.getvalue())
put("png/deep", image(grey.astype("u2") * 257, "PNG"))
put("jpeg/grey", image(grey, "JPEG", quality=30))
put("jpeg/colour", image(colour, "JPEG", quality=30))
put("jpeg/progressive", image(colour, "JPEG", quality=30, progressive=True))
put("jpeg/restarts", image(colour, "JPEG", quality=30, subsampling=0, restart_marker_blocks=1))
put("config/flags", '{"epochs": 10, "model_type": "fc", "lr": 1e-3, "conditional": true, "data": "a/b"}')
put("config/run", '{"program": "vae", "options": {"beta-strategy": "cyclical", "code_size": 2}, "data": {"image": [28, 28, 1], "classes": ["\\u00e9"]}}')
