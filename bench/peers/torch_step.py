"""One training step of the workloads in PyTorch: forward, backward, Adam. Run by compare.py; see worker.py.

    python3 torch_step.py fc|conv28|conv64|vq|set WEIGHTS INPUTS
"""

import sys

import torch
from torch import nn
from torch.nn import functional

import worker


def kl_divergence(mean, log_variance):
    return -0.5 * torch.sum(1 + log_variance - mean * mean - log_variance.exp())


class Vae(nn.Module):
    def __init__(self, encoder, decoder, reconstruction):
        super().__init__()
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)
        self.reconstruction = reconstruction

    def forward(self, x, noise=None):
        mean, log_variance = self.encoder(x).chunk(2, -1)
        noise = torch.randn_like(mean) if noise is None else noise
        output = self.decoder(mean + noise * torch.exp(0.5 * log_variance))
        return (self.reconstruction(output, x, reduction="sum") + kl_divergence(mean, log_variance)) / x.shape[0]


def fc():
    encoder = [nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 40)]
    decoder = [nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784)]
    return Vae(encoder, decoder, functional.binary_cross_entropy_with_logits)


def conv28():
    encoder = [nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(), nn.Flatten()]
    encoder += [nn.Linear(3136, 256), nn.ReLU(), nn.Linear(256, 32)]
    decoder = [nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 3136), nn.ReLU(), nn.Unflatten(1, (64, 7, 7))]
    decoder += [nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1)]
    return Vae(encoder, decoder, functional.binary_cross_entropy_with_logits)


def conv64():
    widths = [3, 32, 64, 128, 256]
    encoder, decoder = [], [nn.Linear(128, 4096), nn.ReLU(), nn.Unflatten(1, (256, 4, 4))]
    for narrow, wide in zip(widths, widths[1:]):
        encoder += [nn.Conv2d(narrow, wide, 4, 2, 1), nn.ReLU()]
    for wide, narrow in zip(widths[:0:-1], widths[-2::-1]):
        decoder += [nn.ConvTranspose2d(wide, narrow, 4, 2, 1), nn.ReLU()]
    return Vae([*encoder, nn.Flatten(), nn.Linear(4096, 256)], decoder[:-1], functional.mse_loss)


class Residual(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(channels, hidden, 3, 1, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1))

    def forward(self, x):
        return x + self.body(x)


class Quantizer(nn.Module):
    """Nearest codes, moving averages of them, commitment 1/4, straight-through gradient."""

    def __init__(self, codes, width):
        super().__init__()
        self.register_buffer("codebook", torch.zeros(codes, width))
        self.register_buffer("count", torch.ones(codes), persistent=False)
        self.sum = None

    def forward(self, z):
        batch, width, height, columns = z.shape
        flat = z.permute(0, 2, 3, 1).reshape(-1, width)
        with torch.no_grad():
            if self.sum is None:
                self.sum = self.codebook.clone()
            codes = self.codebook.shape[0]
            index = torch.addmm((self.codebook * self.codebook).sum(1), flat, self.codebook.t(), alpha=-2).argmin(1)
            quantized = functional.embedding(index, self.codebook)
            chosen = functional.one_hot(index, codes).float()
            self.count.mul_(0.99).add_(chosen.sum(0), alpha=0.01)
            self.sum.mul_(0.99).add_(chosen.t() @ flat, alpha=0.01)
            total = self.count.sum()
            self.codebook.copy_(self.sum / ((self.count + 1e-5) / (total + codes * 1e-5) * total)[:, None])
        straight = flat + (quantized - flat).detach()
        return straight.view(batch, height, columns, width).permute(0, 3, 1, 2), 0.25 * functional.mse_loss(flat, quantized)


class Vq(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 64, 4, 2, 1), nn.ReLU(), nn.Conv2d(64, 128, 4, 2, 1), nn.ReLU(), nn.Conv2d(128, 128, 3, 1, 1),
            Residual(128, 32), Residual(128, 32), nn.ReLU(), nn.Conv2d(128, 64, 1),
        )
        self.quantizer = Quantizer(512, 64)
        self.decoder = nn.Sequential(
            nn.Conv2d(64, 128, 3, 1, 1), Residual(128, 32), Residual(128, 32), nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(64, 3, 4, 2, 1),
        )

    def forward(self, x, noise=None):
        quantized, commitment = self.quantizer(self.encoder(x))
        return functional.mse_loss(self.decoder(quantized), x) + commitment


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x, y):
        def split(rows):
            return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        a = functional.scaled_dot_product_attention(split(self.query(x)), split(self.key(y)), split(self.value(y)))
        return self.output(a.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """MAB of Lee et al. 2019, "Set Transformer", with a hidden layer of the same width."""

    def __init__(self, width, heads):
        super().__init__()
        self.attention = Attention(width, heads)
        self.ln0, self.ln1 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x, y):
        h = self.ln0(x + self.attention(x, y))
        return self.ln1(h + self.linear2(functional.gelu(self.linear1(h))))


class SetVae(nn.Module):
    def __init__(self, width=64, heads=4, inducing=16, latent=16, levels=2):
        super().__init__()
        self.latent, self.levels = latent, levels
        self.embed, self.output = nn.Linear(3, width), nn.Linear(width, 3)
        self.inducing = nn.ParameterList([nn.Parameter(torch.zeros(inducing, width)) for _ in range(2 * levels)])
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(4 * levels)])
        self.prior = nn.ModuleList([nn.Linear(width, 2 * latent) for _ in range(levels)])
        self.posterior = nn.ModuleList([nn.Linear(2 * width, 2 * latent) for _ in range(levels)])
        self.lift = nn.ModuleList([nn.Linear(latent, width) for _ in range(levels)])
        self.mean, self.deviation = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x, noise=None):
        batch, points = x.shape[:2]
        parts = None if noise is None else list(self.split(noise.flatten(), batch, points))

        def draw(*shape):
            return torch.randn(shape) if parts is None else parts.pop(0).view(shape)

        h, encoded, divergence = self.embed(x), [], 0.0
        for level in range(self.levels):
            p = self.blocks[4 * level](self.inducing[2 * level].expand(batch, -1, -1), h)
            h = self.blocks[4 * level + 1](h, p)
            encoded.append(p)
        g = self.mean + draw(batch, points, len(self.mean)) * self.deviation.exp().clamp(max=1)
        for level in range(self.levels):
            p = self.blocks[4 * level + 2](self.inducing[2 * level + 1].expand(batch, -1, -1), g)
            pm, pl = self.prior[level](p).chunk(2, -1)
            qm, ql = self.posterior[level](torch.cat([p, encoded[-1 - level]], -1)).chunk(2, -1)
            divergence = divergence + 0.5 * torch.sum(pl - ql + (ql.exp() + (qm - pm) ** 2) / pl.exp() - 1)
            z = qm + draw(*qm.shape) * torch.exp(0.5 * ql)
            g = self.blocks[4 * level + 3](g, p + self.lift[level](z))
        y = self.output(g)
        distance = (x * x).sum(-1)[:, :, None] + (y * y).sum(-1)[:, None] - 2 * x @ y.transpose(1, 2)
        return (distance.min(1).values.sum() + distance.min(2).values.sum() + 0.01 * divergence) / batch

    def split(self, noise, batch, points):
        of_level = batch * self.inducing[0].shape[0] * self.latent
        return noise.split([batch * points * len(self.mean)] + [of_level] * self.levels)


def read(path):
    tensors = worker.read(path).items()
    return {name: torch.frombuffer(values, dtype=torch.float32).reshape(shape).clone() for name, (shape, values) in tensors}


def main():
    workload, weights_path, inputs_path = sys.argv[1:]
    torch.set_num_threads(worker.threads())
    torch.manual_seed(0)
    weights, inputs = read(weights_path), read(inputs_path)
    x, noise = inputs["input"], inputs["noise"]
    if x.dim() == 4:  # channels last in the file, channels first here
        x = x.permute(0, 3, 1, 2).contiguous()

    def fresh():
        model = {"fc": fc, "conv28": conv28, "conv64": conv64, "vq": Vq, "set": SetVae}[workload]()
        model.load_state_dict(weights)
        return model, torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def train(model, optimizer, noise=None):
        optimizer.zero_grad()
        loss = model(x, noise)
        loss.backward()
        optimizer.step()
        return loss

    def losses():
        model, optimizer = fresh()
        return [train(model, optimizer, sample).item() for sample in noise]

    model, optimizer = fresh()
    worker.serve(lambda: train(model, optimizer), lambda: None, losses, f"PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
