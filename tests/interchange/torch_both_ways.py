#!/usr/bin/env python3
"""Models of interchange_models in PyTorch, and PyTorch's models there. Run by hand, since torch is large; needs torch, safetensors, numpy:

    cmake --build build --target interchange_models && python3 tests/interchange/torch_both_ways.py build/bin/interchange_models
"""
import pathlib
import subprocess
import sys
import tempfile

import numpy
import torch
from safetensors.torch import load_file
from torch import nn

TOLERANCE = 1e-5
ROOT = pathlib.Path(__file__).parents[2]


class Fc(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 784), nn.Unflatten(1, (1, 28, 28)))
        self.likelihood = nn.Sigmoid()

    def encode(self, x, labels):
        mean, raw = self.encoder(x).chunk(2, 1)
        return mean, 20 * torch.tanh(raw / 20)

    def decode(self, z, labels):
        return self.likelihood(self.decoder(z))


class Conv(Fc):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(192, 32),
                                     nn.ReLU(), nn.Linear(32, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 192), nn.ReLU(), nn.Unflatten(1, (16, 4, 3)),
                                     nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1))
        self.likelihood = nn.Identity()


class BatchNorm(Fc):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.Flatten(),
                                     nn.BatchNorm1d(192), nn.ReLU(), nn.Linear(192, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 192), nn.BatchNorm1d(192), nn.ReLU(), nn.Unflatten(1, (16, 4, 3)),
                                     nn.ConvTranspose2d(16, 8, 3, 2, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1))


class Residual(nn.Module):
    def __init__(self, *body):
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x):
        return x + self.body(x)


class Nested(Fc):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Flatten()),
                                     Residual(nn.LayerNorm(48), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 48)), nn.Linear(48, 32), nn.ReLU(),
                                     nn.Linear(32, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 192), Residual(nn.Tanh(), nn.Linear(192, 192)), nn.Unflatten(1, (16, 4, 3)),
                                     nn.ConvTranspose2d(16, 3, 4, 4))


class Conditional(nn.Module):
    class Encoder(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(3, 8, 4, 2, 1), nn.ReLU(), nn.Flatten())
            self.labels = nn.Embedding(3, 5)
            self.head = nn.Linear(384 + 5, 8)

        def forward(self, x, labels):
            for layer in list(self)[:3]:
                x = layer(x)
            return self.head(torch.cat([x, self.labels(labels)], 1))

    class Decoder(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(9, 192), nn.ReLU(), nn.Unflatten(1, (16, 4, 3)), nn.ConvTranspose2d(16, 3, 4, 4))
            self.labels = nn.Embedding(3, 5)

        def forward(self, z, labels):
            z = torch.cat([z, self.labels(labels)], 1)
            for layer in list(self)[:4]:
                z = layer(z)
            return z

    class Likelihood(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_scale = nn.Parameter(torch.zeros(1))

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.likelihood = self.Encoder(), self.Decoder(), self.Likelihood()

    def encode(self, x, labels):
        mean, raw = self.encoder(x, labels).chunk(2, 1)
        return mean, 20 * torch.tanh(raw / 20)

    def decode(self, z, labels):
        return self.decoder(z, labels)


def read(folder, name):
    array = numpy.load(folder / f"{name}.npy")
    return torch.from_numpy(array.transpose(0, 3, 1, 2).copy() if array.ndim == 4 else array)


@torch.no_grad()
def difference(module, folder):
    module.eval()
    labels = read(folder, "labels").long()
    mean, log_variance = module.encode(read(folder, "input"), labels)
    output = module.decode(read(folder, "code"), labels)
    pairs = (mean, "mean"), (log_variance, "log_variance"), (output, "output")
    return max((ours - read(folder, name)).abs().max().item() for ours, name in pairs)


def train(module, folder):
    """A few steps, so that weights and running statistics are no first values."""
    module.train()
    x, labels = torch.rand(64, *read(folder, "input").shape[1:]), torch.arange(64) % 3
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(20):
        mean, log_variance = module.encode(x, labels)
        output = module.decode(mean + torch.exp(log_variance / 2) * torch.randn_like(mean), labels)
        kl = 0.5 * (mean**2 + torch.exp(log_variance) - 1 - log_variance).sum(1)
        loss = (((output - x) ** 2).flatten(1).sum(1) + kl).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main():
    program = sys.argv[1]
    torch.manual_seed(0)
    passed = failed = 0

    def report(name, worst):
        nonlocal passed, failed
        good = worst <= TOLERANCE
        passed, failed = passed + good, failed + (not good)
        print(f"{name}: {'within' if good else 'FAILED:'} {worst:.1e}")

    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)
        subprocess.run([program, temporary], check=True)
        modules = {"fc": Fc(), "conv": Conv(), "batch_norm": BatchNorm(), "nested": Nested(), "conditional": Conditional()}
        for name, module in modules.items():
            module.load_state_dict(load_file(root / name / "model.safetensors"))  # strict: no name missing, none left
            report(f"{name}, trained here, in PyTorch", difference(module, root / name))
        for name, module in modules.items():
            train(module, root / name)
            torch.save(module.state_dict(), root / name / "model.pt")
            subprocess.run([sys.executable, ROOT / "examples/pt_to_safetensors.py", root / name / "model.pt"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([program, temporary, "load"], check=True)
        for name, module in modules.items():
            report(f"{name}, trained in PyTorch, here", difference(module, root / name))
    print(f"{passed} passed, {failed} failed")
    return failed > 0


sys.exit(main())
