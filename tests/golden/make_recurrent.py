#!/usr/bin/env python3
"""Numbers that PyTorch computes of GRU and LSTM, for tests/layers/recurrent_test.cpp. Needs torch and safetensors.

Writes recurrent.safetensors beside this script: three sequences, computed one by one, from zeros and from given states.
"""
import torch
from safetensors.torch import save_file
from torch import nn

from make_golden import HERE, singles

LENGTHS, IN, OUT = [4, 0, 7, 1], 3, 5


def main():
    torch.manual_seed(8)
    out = {}
    for name, kind, states in (("gru", nn.GRU, 1), ("lstm", nn.LSTM, 2)):
        layer = kind(IN, OUT).double()
        for p in layer.parameters():
            nn.init.normal_(p, std=0.6)
        for key, p in layer.named_parameters():
            out[f"{name}.{key}"] = p
        x = torch.randn(sum(LENGTHS), IN, dtype=torch.float64)
        g = torch.randn(sum(LENGTHS), OUT, dtype=torch.float64)
        out.update({f"{name}.x": x, f"{name}.g": g})
        for case in ("zeros", "given"):
            x = x.detach().requires_grad_()
            first = [torch.randn(len(LENGTHS), OUT, dtype=torch.float64, requires_grad=True) for _ in range(states)]
            rows = []
            for s, part in enumerate(x.split(LENGTHS)):
                if len(part) == 0:
                    continue
                given = None if case == "zeros" else tuple(f[s : s + 1] for f in first)
                rows.append(layer(part, given if states == 2 or given is None else given[0])[0])
            y = torch.cat(rows)
            layer.zero_grad()
            ((y * g).sum() / len(y)).backward()
            out.update({f"{name}.{case}.y": y, f"{name}.{case}.dx": x.grad})
            for key, p in layer.named_parameters():
                out[f"{name}.{case}.d{key}"] = p.grad.clone()
            if case == "given":
                for k, f in enumerate(first):
                    out.update({f"{name}.first{k}": f, f"{name}.dfirst{k}": f.grad})
    save_file(singles(out), HERE / "recurrent.safetensors")


if __name__ == "__main__":
    main()
