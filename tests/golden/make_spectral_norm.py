#!/usr/bin/env python3
"""Numbers that PyTorch computes of spectral normalisation, for tests/layers/spectral_norm_test.cpp. Needs torch and safetensors.

Writes spectral_norm.safetensors beside this script.
"""
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from make_golden import HERE, layer, singles


def main():
    torch.manual_seed(6)
    out = {}
    for mode in ("training", "evaluation"):
        layer(out, "linear_" + mode, spectral_norm(nn.Linear(7, 5)), (7,), mode == "evaluation")
        layer(out, "conv_" + mode, spectral_norm(nn.Conv2d(3, 4, 3, 2, 1)), (3, 5, 4), mode == "evaluation")
    save_file(singles(out), HERE / "spectral_norm.safetensors")


if __name__ == "__main__":
    main()
