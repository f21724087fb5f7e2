#!/usr/bin/env python3
"""Numbers that PyTorch computes of a perceptual distance and of a VQGAN's step, for the tests to compare with. Needs torch and safetensors.

Writes lpips.safetensors, a network of 13 convolutions in the format of the package lpips (LPIPS(net="vgg")) but with few channels, and
vqgan.safetensors: images, distances, the weights of a model and the gradients of its two phases. The distance and the losses
are written as lpips 0.1.4 and taming-transformers' vqperceptual.py have them.
"""
import pathlib

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

HERE = pathlib.Path(__file__).parent


def last(x):
    """Channels last."""
    return x.movedim(1, -1).contiguous()


def singles(tensors):
    return {name: t.detach().to(torch.float32 if t.is_floating_point() else t.dtype).contiguous() for name, t in tensors.items()}


class Lpips(nn.Module):
    STAGES = [[0, 2], [5, 7], [10, 12, 14], [17, 19, 21], [24, 26, 28]]
    WIDTHS = [4, 4, 6, 6, 6]

    def __init__(self):
        super().__init__()
        self.numbers = {}
        before = 3
        for stage, (numbers, width) in enumerate(zip(self.STAGES, self.WIDTHS)):
            for number in numbers:
                name = f"net.slice{stage + 1}.{number}"
                self.numbers[name + ".weight"] = (2 / (9 * before)) ** 0.5 * torch.randn(width, before, 3, 3)
                self.numbers[name + ".bias"] = 0.1 * torch.randn(width)
                before = width
            self.numbers[f"lin{stage}.model.1.weight"] = torch.rand(1, width, 1, 1)
        self.numbers["scaling_layer.shift"] = torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None]
        self.numbers["scaling_layer.scale"] = torch.tensor([0.458, 0.448, 0.450])[None, :, None, None]

    def features(self, x):
        n = {name: t.double() for name, t in self.numbers.items()}
        x = (x - n["scaling_layer.shift"]) / n["scaling_layer.scale"]
        out = []
        for stage, numbers in enumerate(self.STAGES):
            if stage > 0:
                x = functional.max_pool2d(x, 2)
            for number in numbers:
                name = f"net.slice{stage + 1}.{number}"
                x = functional.relu(functional.conv2d(x, n[name + ".weight"], n[name + ".bias"], padding=1))
            out.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return out

    def forward(self, y, x):
        """One distance an image; images from 0 to 1, as lpips has them with normalize=True."""
        if y.shape[1] == 1:
            y, x = y.expand(-1, 3, -1, -1), x.expand(-1, 3, -1, -1)
        total = 0
        for stage, (a, b) in enumerate(zip(self.features(2 * y - 1), self.features(2 * x - 1))):
            weight = self.numbers[f"lin{stage}.model.1.weight"].double()
            total = total + functional.conv2d((a - b) ** 2, weight).mean(dim=(2, 3))
        return total[:, 0]


def quantize(table, z):
    """The nearest codes, straight through, and the commitment loss of weight 0.25."""
    rows = last(z).reshape(-1, z.shape[1])
    codes = torch.cdist(rows, table).argmin(dim=1)
    q = table[codes].reshape(last(z).shape).movedim(-1, 1)
    return z + (q - z).detach(), 0.25 * functional.mse_loss(z, q)


def main():
    torch.manual_seed(3)
    perceptual = Lpips()
    save_file(singles(perceptual.numbers), HERE / "lpips.safetensors")

    out = {}
    for name, channels in (("colour", 3), ("grey", 1)):
        x, y = torch.rand(2, channels, 16, 16).double(), torch.rand(2, channels, 16, 16).double().requires_grad_()
        distance = perceptual(y, x).mean()
        distance.backward()
        out.update({f"{name}.x": last(x), f"{name}.y": last(y), f"{name}.distance": distance, f"{name}.dy": last(y.grad)})

    codes, width = 12, 5
    model = nn.ModuleDict({
        "encoder": nn.Sequential(nn.Conv2d(3, 6, 4, 2, 1), nn.ReLU(), nn.Conv2d(6, width, 4, 2, 1)),
        "decoder": nn.Sequential(nn.ConvTranspose2d(width, 6, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(6, 3, 4, 2, 1)),
        "discriminator": nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2),
                                       nn.Conv2d(4, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.LeakyReLU(0.2),
                                       nn.Conv2d(8, 16, 4, 1, 1), nn.BatchNorm2d(16), nn.LeakyReLU(0.2), nn.Conv2d(16, 1, 4, 1, 1)),
    })
    table = 0.2 * torch.randn(codes, width)
    out.update({name: t.clone() for name, t in model.state_dict().items()})
    out.update({"quantizer.codebook": table, "quantizer.sum": table.clone(), "quantizer.count": torch.ones(codes),
                "quantizer.batch_count": torch.zeros(codes), "quantizer.used": torch.tensor(codes)})
    model.double()
    x = torch.rand(3, 3, 16, 16).double()
    q, commitment = quantize(table.double(), model["encoder"](x))
    y = model["decoder"](q)
    likeness = 0.7 * (y - x).abs().mean() + 0.5 * perceptual(y, x).mean()
    fooled = -model["discriminator"](y).mean()
    last_layer = model["decoder"][-1].weight
    norms = [torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in (likeness, fooled)]
    weight = torch.clamp(norms[0] / (norms[1] + 1e-6), 0.0, 1e4).detach()
    objective = likeness + weight * 0.8 * fooled + commitment
    generator = {n: p for n, p in model.named_parameters() if not n.startswith("discriminator.")}
    for name, gradient in zip(generator, torch.autograd.grad(objective, generator.values())):
        out["gradient." + name] = gradient
    real, made = model["discriminator"](x), model["discriminator"](y.detach())
    loss = 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + made).mean())
    of_discriminator = {n: p for n, p in model.named_parameters() if n.startswith("discriminator.")}
    for name, gradient in zip(of_discriminator, torch.autograd.grad(loss, of_discriminator.values())):
        out["gradient." + name] = gradient
    out.update({"x": last(x), "objective": objective, "lambda": weight, "generator_loss": fooled, "discriminator_loss": loss})
    save_file(singles(out), HERE / "vqgan.safetensors")


if __name__ == "__main__":
    main()
