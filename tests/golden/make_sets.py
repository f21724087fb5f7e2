#!/usr/bin/env python3
"""Numbers that PyTorch computes of layers of sets, for the tests to compare with. Needs torch and safetensors.

Writes sets.safetensors beside this script: for each layer its parameters, rows of three sets (x), the output (y), a gradient of it (g)
and the gradients of x and the parameters; and Chamfer distances of sets. The sets are computed one by one, so that nothing is padded.
"""
import pathlib

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

HERE = pathlib.Path(__file__).parent
SIZES, WIDTH = [5, 1, 9], 8


class Attention(nn.Module):
    """Over slots: as Locatello et al. 2020, algorithm 1, without the small number that is added to the weights."""

    def __init__(self, width, heads, over_slots=False):
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.heads, self.over_slots = heads, over_slots

    def forward(self, x, y):
        split = lambda t: t.view(len(t), self.heads, -1).transpose(0, 1)
        q, k, v = split(self.query(x)), split(self.key(y)), split(self.value(y))
        if self.over_slots:
            weights = functional.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=1)
            out = weights / weights.sum(dim=2, keepdim=True) @ v
        else:
            out = functional.scaled_dot_product_attention(q, k, v)
        return self.output(out.transpose(0, 1).reshape(len(x), -1))


class MAB(nn.Module):
    def __init__(self, width, heads, norm="post", hidden=None, activation=functional.relu, over_slots=False):
        super().__init__()
        hidden = hidden or width
        self.attention = Attention(width, heads, over_slots)
        if norm != "none":
            self.ln0, self.ln1 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm, self.activation = norm, activation

    def forward(self, x, y):
        rff = lambda h: self.linear2(self.activation(self.linear1(h)))
        if self.norm == "pre":
            from_x = self.ln0(x)
            h = x + self.attention(from_x, from_x if y is x else y)
            return h + rff(self.ln1(h))
        h = x + self.attention(x, y)
        h = self.ln0(h) if self.norm == "post" else h
        h = h + rff(h)
        return self.ln1(h) if self.norm == "post" else h


class SAB(nn.Module):
    def __init__(self, *args, **settings):
        super().__init__()
        self.mab = MAB(*args, **settings)

    def forward(self, x):
        return self.mab(x, x)


class ISAB(nn.Module):
    def __init__(self, width, heads, inducing, over_slots=False, **settings):
        super().__init__()
        self.I = nn.Parameter(torch.randn(inducing, width))
        self.mab0 = MAB(width, heads, over_slots=over_slots, **settings)
        self.mab1 = MAB(width, heads, **settings)

    def forward(self, x):
        return self.mab1(x, self.mab0(self.I, x))


class PMA(nn.Module):
    def __init__(self, width, heads, seeds):
        super().__init__()
        self.S = nn.Parameter(torch.randn(seeds, width))
        self.linear1, self.linear2 = nn.Linear(width, width), nn.Linear(width, width)
        self.mab = MAB(width, heads)

    def forward(self, x):
        return self.mab(self.S, self.linear2(functional.relu(self.linear1(x))))


def layer(out, name, module):
    module = module.double()
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    x = torch.randn(sum(SIZES), WIDTH, dtype=torch.float64).requires_grad_()
    y = torch.cat([module(rows) for rows in x.split(SIZES)])
    g = torch.randn_like(y)
    (y * g).sum().backward()
    out.update({f"{name}.x": x, f"{name}.y": y, f"{name}.g": g, f"{name}.dx": x.grad})
    for key, p in module.named_parameters():
        out[f"{name}.{key}"], out[f"{name}.d{key}"] = p, p.grad


def chamfer(out):
    """Of three pairs of sets: sums over both directions, and the gradient of their total with respect to y."""
    x = torch.randn(sum(SIZES), 3, dtype=torch.float64)
    y = torch.randn(9 + 2 + 4, 3, dtype=torch.float64).requires_grad_()
    distances = [torch.cdist(a, b).square() for a, b in zip(x.split(SIZES), y.split([9, 2, 4]))]
    values = torch.stack([d.min(0).values.sum() + d.min(1).values.sum() for d in distances])
    values.sum().backward()
    out.update({"chamfer.x": x, "chamfer.y": y, "chamfer.values": values, "chamfer.dy": y.grad})


def main():
    torch.manual_seed(6)
    out = {}
    layer(out, "sab", SAB(WIDTH, 2, activation=functional.gelu))
    layer(out, "pre", SAB(WIDTH, 4, norm="pre", hidden=5))
    layer(out, "isab", ISAB(WIDTH, 2, 3))
    layer(out, "slots", ISAB(WIDTH, 2, 3, over_slots=True, norm="none"))
    layer(out, "pma", PMA(WIDTH, 1, 2))
    chamfer(out)
    save_file({name: t.detach().to(torch.float32).contiguous() for name, t in out.items()}, HERE / "sets.safetensors")


if __name__ == "__main__":
    main()
