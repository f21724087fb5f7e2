#!/usr/bin/env python3
"""Turns a state_dict that PyTorch saved into a safetensors file: pt_to_safetensors.py MODEL.pt [MODEL.safetensors]

Needs the packages torch and safetensors. vaelib itself never reads .pt files: they are pickles, which can run code. Here they
are read by torch.load(weights_only=True), which builds tensors and plain containers only.
"""
import pathlib
import pickle
import sys

import torch
from safetensors.torch import save_file


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    source = pathlib.Path(sys.argv[1])
    target = pathlib.Path(sys.argv[2]) if len(sys.argv) == 3 else source.with_suffix(".safetensors")
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        sys.exit(f"{source}: holds more than tensors, perhaps a whole module; save its state_dict: torch.save(model.state_dict(), ...)")
    for key in ("state_dict", "model_state_dict"):  # the usual checkpoints
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        sys.exit(f"{source}: holds a {type(content).__name__}, expected a state_dict: torch.save(model.state_dict(), ...)")
    others = [f"{name} ({type(value).__name__})" for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        sys.exit(f"{source}: not a state_dict; these are no tensors: {', '.join(map(str, others))}")
    # Copies, since tensors of a safetensors file share no memory and have no gaps.
    save_file({name: value.detach().clone().contiguous() for name, value in content.items()}, target)
    print(target)


main()
