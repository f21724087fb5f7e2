#!/usr/bin/env python3
"""Losses that PyTorch computes of ten steps of a SetVae, for tests/models/set_vae_golden_test.cpp. Needs torch, numpy and safetensors.

    VAELIB_SET_VAE_INPUTS=FOLDER build/bin/test_models -tc="SetVae: ten steps*"
    python3 make_set_vae.py FOLDER

The first line writes first weights, points and noise; the second set_vae_initial.safetensors and set_vae_losses.npy beside this script.
Computed in double; sets one by one, so that nothing is padded.
"""
import pathlib
import shutil
import sys

import numpy
import torch
from safetensors.torch import load_file
from torch import nn

from make_sets import ISAB, MAB

HERE = pathlib.Path(__file__).parent
WIDTH, HEADS, LATENT, INDUCING, SIZES = 8, 2, 2, [3, 2], [5, 1, 9, 4]
WEIGHT, FREE_BITS, LEVEL_WEIGHTS, BETA = 5, 0.1, [1, 2], 0.5


def clamp(raw):
    return 20 * torch.tanh(raw / 20)


class Level(nn.Module):
    def __init__(self, inducing):
        super().__init__()
        self.encoder = ISAB(WIDTH, HEADS, inducing, over_slots=True)
        self.rows = nn.Parameter(torch.zeros(inducing, WIDTH))
        self.gather, self.spread = MAB(WIDTH, HEADS, over_slots=True), MAB(WIDTH, HEADS)
        self.prior, self.posterior, self.lift = nn.Linear(WIDTH, 2 * LATENT), nn.Linear(2 * WIDTH, 2 * LATENT), nn.Linear(LATENT, WIDTH)


class SetVae(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.enter, self.leave = nn.Linear(3, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.means, self.log_scales = nn.Embedding(1, WIDTH), nn.Embedding(1, WIDTH)
        self.levels = nn.ModuleList(Level(m) for m in INDUCING)

    def one(self, x, start, noises):
        """The points made of one set, and the KL divergences of its numbers by level."""
        h, kept = self.embed(x), []
        for level in self.levels:
            kept.append(level.encoder.mab0(level.encoder.I, h))
            h = level.encoder.mab1(h, kept[-1])
        g = self.enter(self.means.weight + torch.exp(self.log_scales.weight) * start)
        divergences = {}
        for l in reversed(range(len(self.levels))):
            level = self.levels[l]
            c = level.gather(level.rows, g)
            prior_mean, prior_raw = level.prior(c).chunk(2, -1)
            mean, raw = level.posterior(torch.cat([c, kept[l]], -1)).chunk(2, -1)
            u = mean + torch.exp(clamp(raw) / 2) * noises[l].view(mean.shape)
            divergences[l] = (0.5 * (mean**2 + torch.exp(clamp(raw)) - 1 - clamp(raw))).flatten()
            z = prior_mean + torch.exp(clamp(prior_raw) / 2) * u
            g = level.spread(g, c + level.lift(z))
        return self.leave(g), divergences

    def losses(self, x, noise):
        sizes = [sum(SIZES) * WIDTH] + [len(SIZES) * m * LATENT for m in reversed(INDUCING)]
        start, *levels = noise.split(sizes)
        levels = levels[::-1]
        error, divergences = 0, [[] for _ in INDUCING]
        for s, (points, begin) in enumerate(zip(x.split(SIZES), start.view(-1, WIDTH).split(SIZES))):
            y, own = self.one(points, begin, [n.view(len(SIZES), -1)[s] for n in levels])
            d = torch.cdist(y, points, compute_mode="donot_use_mm_for_euclid_dist").square()
            error = error + WEIGHT * (d.min(0).values.sum() + d.min(1).values.sum()) / len(SIZES)
            for l, numbers in own.items():
                divergences[l].append(numbers)
        means = [torch.stack(d).mean(0) for d in divergences]
        charged = sum(w * m.clamp(min=FREE_BITS).sum() for w, m in zip(LEVEL_WEIGHTS, means))
        return error + BETA * charged, error, sum(m.sum() for m in means)


def main():
    folder = pathlib.Path(sys.argv[1])
    model = SetVae().double()
    missing = model.load_state_dict({k: v.double() for k, v in load_file(folder / "set_vae_initial.safetensors").items()}, strict=True)
    assert not missing.missing_keys
    x, noise = (torch.from_numpy(numpy.load(folder / name)).double() for name in ("points.npy", "noise.npy"))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for step in noise:
        optimizer.zero_grad()
        objective, error, kl = model.losses(x, step)
        losses.append([objective.item(), error.item(), kl.item()])
        objective.backward()
        optimizer.step()
    print(numpy.array(losses))
    numpy.save(HERE / "set_vae_losses.npy", numpy.array(losses, dtype=numpy.float32))
    shutil.copy(folder / "set_vae_initial.safetensors", HERE)


if __name__ == "__main__":
    main()
