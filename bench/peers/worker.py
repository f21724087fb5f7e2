"""What the peers' workers share: the files they start from and the line protocol.

A worker is started with a workload, a file of weights and one of inputs, prints "ready", and then answers each line on its standard
input by one line:

    run N    does N training steps and prints the seconds a step took
    loss     starts afresh from the given weights, does 10 steps with the given noise and prints the loss of each
    about    what runs here, and its version

The files are in the safetensors format (64-bit little-endian header length, JSON header, tensors). One holds the weights under
PyTorch's names and in PyTorch's layouts, the other `input` (samples x features, channels last) and `noise` (10 x samples x latent
dimensions).
"""

import array
import json
import os
import sys
import time


def read(path):
    """All tensors of a safetensors file of floats: name -> (shape, array of floats)."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        values = array.array("f")
        values.frombytes(data[begin:end])
        tensors[name] = (entry["shape"], values)
    return tensors


def write(path, tensors):
    """The reverse of read. The file appears whole or not at all."""
    header, position = {}, 0
    for name, (shape, values) in tensors.items():
        end = position + 4 * len(values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path + ".part", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, values in tensors.values():
            file.write(values.tobytes())
    os.replace(path + ".part", path)


def threads():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def serve(step, wait, losses, about):
    """step() starts one training step, wait() ends when all are done, losses() gives ten losses."""
    print("ready", flush=True)
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "run":
            count = int(arguments[0])
            step()  # caches and threads wake up before the clock runs
            wait()
            start = time.perf_counter()
            for _ in range(count):
                step()
            wait()
            print(f"{(time.perf_counter() - start) / count:.9f}", flush=True)
        elif command == "loss":
            print(*(f"{loss:.9g}" for loss in losses()), flush=True)
        elif command == "about":
            print(about, flush=True)
        else:
            print(f"unknown command {command!r}", flush=True)
