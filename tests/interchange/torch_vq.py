#!/usr/bin/env python3
"""A model of `vqvae train --data fashion-mnist` in PyTorch: the same codes, and decoder outputs within 1e-5. By hand, as it wants PyTorch:

    vqvae encode --model-path M --count 50 --output codes.npy && vqvae reconstruct --model-path M --count 50 --output remade.npy
    torch_vq.py M codes.npy remade.npy IMAGES        (t10k-images-idx3-ubyte.gz)
"""
import gzip
import json
import sys

import numpy
import torch
from safetensors import safe_open
from torch import nn


class Residual(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(width, hidden, 3, 1, 1), nn.ReLU(), nn.Conv2d(hidden, width, 1))

    def forward(self, x):
        return x + self.body(x)


class Encoder(nn.Module):
    def __init__(self, channels, o):
        super().__init__()
        widths = [channels] + [o["width"] // 2] * (o["halvings"] - 1) + [o["width"]]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in zip(widths, widths[1:]))
        self.middle = nn.Conv2d(widths[-1], o["width"], 3, 1, 1)
        self.blocks = nn.Sequential(*(Residual(o["width"], o["hidden"]) for _ in range(o["blocks"])))
        self.last = nn.Conv2d(o["width"], o["code-width"], 1)

    def forward(self, x):
        for layer in self.down:
            x = layer(x).relu()
        return self.last(self.blocks(self.middle(x)).relu())


class Decoder(nn.Module):
    def __init__(self, channels, o):
        super().__init__()
        widths = [o["width"]] + [o["width"] // 2] * (o["halvings"] - 1) + [channels]
        self.middle = nn.Conv2d(o["code-width"], o["width"], 3, 1, 1)
        self.blocks = nn.Sequential(*(Residual(o["width"], o["hidden"]) for _ in range(o["blocks"])))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in zip(widths, widths[1:]))

    def forward(self, q):
        y = self.blocks(self.middle(q)).relu()
        for i, layer in enumerate(self.up):
            y = layer(y) if i + 1 == len(self.up) else layer(y).relu()
        return y


def main():
    path, codes_path, remade_path, images = sys.argv[1:]
    with safe_open(path, "pt") as file:
        options = json.loads(file.metadata()["vqvae.options"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    codes, remade = numpy.load(codes_path), numpy.load(remade_path)
    model = nn.ModuleDict({"encoder": Encoder(remade.shape[-1], options), "decoder": Decoder(remade.shape[-1], options)})
    model.load_state_dict({name: t for name, t in tensors.items() if not name.startswith("quantizer.")})
    pixels = numpy.frombuffer(gzip.open(images).read(), numpy.uint8, offset=16).reshape(-1, 1, 28, 28)[: len(codes)]
    with torch.no_grad():
        z = model["encoder"](torch.from_numpy(pixels.astype(numpy.float32) / 255)).permute(0, 2, 3, 1)
        table = tensors["quantizer.codebook"]
        found = torch.cdist(z.reshape(-1, z.shape[-1]).double(), table.double()).argmin(1).reshape(z.shape[:-1])
        output = model["decoder"](table[found].permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    other = int((found.numpy() != codes[..., 0]).sum())
    difference = float(numpy.abs(output - remade).max())
    print(f"{other} of {found.numel()} codes differ; largest difference of the outputs {difference:.2e}")
    sys.exit(other > 0 or difference > 1e-5)


if __name__ == "__main__":
    main()
