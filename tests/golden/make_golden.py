#!/usr/bin/env python3
"""Numbers that PyTorch computes, for the tests to compare with. Needs torch and safetensors.

  make_golden.py            writes layers.safetensors, sequences.safetensors, optimizers.safetensors, vae_initial.safetensors,
                            vae_run.safetensors beside this script
  make_golden.py FOLDER     reads trained.safetensors and trained_outputs.safetensors, which the tests write to
                            $VAELIB_GOLDEN_FOLDER, and compares what PyTorch makes of these weights

Images are stored channels last, as the library has them; parameters as torch.nn has them.
"""
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from torch import distributions, nn
from torch.nn import functional

HERE = pathlib.Path(__file__).parent
ROWS = 3


def last(x):
    """Channels last."""
    return x.movedim(1, -1).contiguous() if x.dim() > 2 else x.contiguous()


def singles(tensors):
    return {name: t.detach().to(torch.float32).contiguous() for name, t in tensors.items()}


# ---------------------------------------------------------------------------------------------------------------- layers
def layer(out, name, module, shape, evaluation=False, scale=1.0):
    """Output and gradients of sum(y * g) / rows, in double."""
    module = module.double()
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    for key, buffer in module.named_buffers():
        if key == "running_mean":
            buffer.normal_()
        if key == "running_var":
            buffer.uniform_(0.5, 2)
    for key, value in module.state_dict().items():
        out[f"{name}.{key}"] = value.clone()
    module.train(not evaluation)
    x = (scale * torch.randn(ROWS, *shape, dtype=torch.float64)).requires_grad_()
    y = module(x)
    g = torch.randn_like(y)
    ((y * g).sum() / ROWS).backward()
    out.update({f"{name}.x": last(x), f"{name}.y": last(y), f"{name}.g": last(g), f"{name}.dx": last(x.grad)})
    for key, p in module.named_parameters():
        out[f"{name}.d{key}"] = p.grad
    if not evaluation:
        for key, buffer in module.named_buffers():
            out[f"{name}.after.{key}"] = buffer.clone()


def layers():
    torch.manual_seed(1)
    out = {}
    layer(out, "linear", nn.Linear(7, 5), (7,))
    layer(out, "conv", nn.Conv2d(3, 5, 3, 2, 1), (3, 7, 6))
    layer(out, "transposed", nn.ConvTranspose2d(3, 5, 3, 2, 1, 1), (3, 4, 3))
    layer(out, "batch_norm", nn.BatchNorm2d(5), (5, 3, 2))
    layer(out, "batch_norm_flat", nn.BatchNorm1d(5), (5,))
    layer(out, "batch_norm_evaluation", nn.BatchNorm2d(5), (5, 3, 2), evaluation=True)
    layer(out, "layer_norm", nn.LayerNorm(7), (7,))
    for name, module in {"relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(), "gelu": nn.GELU(), "silu": nn.SiLU(),
                         "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(), "softplus": nn.Softplus()}.items():
        layer(out, name, module, (11,), scale=3.0)

    table = nn.Embedding(4, 3).double()
    y = table(torch.tensor([2, 0, 2]))
    g = torch.randn_like(y)
    ((y * g).sum() / ROWS).backward()
    out.update({"embedding.weight": table.weight, "embedding.y": y, "embedding.g": g, "embedding.dweight": table.weight.grad})

    # two sets one after another: 3 queries look at 4 keys, 2 at 5; likelihoods of rows of 7
    q, k, v = (torch.randn(n, w, dtype=torch.float64, requires_grad=True) for n, w in ((5, 3), (9, 3), (9, 2)))
    attend = functional.scaled_dot_product_attention
    y = torch.cat([attend(q[:3], k[:4], v[:4]), attend(q[3:], k[4:], v[4:])])
    g = torch.randn_like(y)
    ((y * g).sum() / 5).backward()
    out.update({"attention.q": q, "attention.k": k, "attention.v": v, "attention.y": y, "attention.g": g,
                "attention.dq": q.grad, "attention.dk": k.grad, "attention.dv": v.grad})

    x = (3 * torch.randn(ROWS, 7, dtype=torch.float64)).requires_grad_()
    target = torch.rand(ROWS, 7, dtype=torch.float64)
    loss = functional.binary_cross_entropy_with_logits(x, target, reduction="sum") / ROWS
    loss.backward()
    out.update({"bernoulli.x": x, "bernoulli.target": target, "bernoulli.loss": loss, "bernoulli.dx": x.grad})
    x = torch.randn(ROWS, 7, dtype=torch.float64, requires_grad=True)
    variance = torch.full_like(x, 0.3**2)
    loss = functional.gaussian_nll_loss(x, target, variance, full=True, reduction="sum") / ROWS
    loss.backward()
    out.update({"gaussian.x": x, "gaussian.target": target, "gaussian.loss": loss, "gaussian.dx": x.grad})
    layer(out, "layer_norm_image", nn.LayerNorm([5, 3, 2]), (5, 3, 2))

    layer(out, "group_norm", nn.GroupNorm(3, 6), (6, 4, 5))
    layer(out, "group_norm_flat", nn.GroupNorm(2, 8), (8,))
    layer(out, "max_pool", nn.MaxPool2d(2), (5, 7, 6))
    layer(out, "max_pool_overlapping", nn.MaxPool2d(3, 2, 1), (5, 7, 6))
    layer(out, "avg_pool", nn.AvgPool2d(2), (5, 7, 6))
    layer(out, "avg_pool_overlapping", nn.AvgPool2d(3, 2, 1), (5, 7, 6))
    layer(out, "upsample", nn.Upsample(scale_factor=2), (5, 3, 4))
    layer(out, "upsample_bilinear", nn.Upsample(scale_factor=3, mode="bilinear"), (5, 3, 4))
    layer(out, "elu", nn.ELU(0.7), (11,), scale=3.0)
    layer(out, "glu", nn.GLU(dim=1), (12,), scale=3.0)
    layer(out, "glu_image", nn.GLU(dim=1), (6, 3, 2), scale=3.0)
    ties = nn.MaxPool2d(3, 2, 1)  # of whole numbers, so that the largest of a window is there more than once
    x = torch.randint(3, (ROWS, 4, 7, 6)).double().requires_grad_()
    y = ties(x)
    g = torch.randn_like(y)
    ((y * g).sum() / ROWS).backward()
    out.update({"max_pool_ties.x": last(x), "max_pool_ties.y": last(y), "max_pool_ties.g": last(g), "max_pool_ties.dx": last(x.grad)})

    def likelihood(name, x, target, distribution):
        x.requires_grad_()
        loss = -distribution(x).log_prob(target).sum() / ROWS
        loss.backward()
        out.update({f"{name}.x": x, f"{name}.target": target, f"{name}.loss": loss, f"{name}.dx": x.grad,
                    f"{name}.mean": distribution(x).mean})

    x, target = torch.randn(ROWS, 7, dtype=torch.float64), torch.randn(ROWS, 7, dtype=torch.float64)
    likelihood("laplace", x, target, lambda x: distributions.Laplace(x, torch.tensor(0.3, dtype=torch.float64)))
    # Logits so near 0 that PyTorch takes its series (|lambda - 1/2| < 0.001), which has fewer terms, are left out.
    x = torch.cat([torch.linspace(-30, 30, 14, dtype=torch.float64), torch.tensor([-2, -0.3, -0.2, -0.05, 0.02, 0.3, 1.5], dtype=torch.float64)])
    target = torch.rand(ROWS, 7, dtype=torch.float64)
    likelihood("continuous_bernoulli", x.reshape(ROWS, 7), target, lambda x: distributions.ContinuousBernoulli(logits=x))
    return singles(out)


# ------------------------------------------------------------------------- layers that predict one code after another
class MaskedConv2d(nn.Conv2d):
    """Rows above pass, of the own row what is left of the pixel, and for type B the pixel too."""

    def __init__(self, kind, channels, out, kernel):
        super().__init__(channels, out, kernel, padding=kernel // 2)
        self.mask = torch.ones(kernel, kernel, dtype=torch.float64)
        self.mask[kernel // 2, kernel // 2 + (kind == "B"):] = 0
        self.mask[kernel // 2 + 1:] = 0

    def forward(self, x):
        return functional.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.projection = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        q, k, v = (f(x).unflatten(1, (self.heads, -1)).movedim(1, 0) for f in (self.query, self.key, self.value))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.projection(y.movedim(0, 1).flatten(1))


class TransformerBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.linear2(functional.gelu(self.linear1(self.norm2(x))))


class OfSequences(nn.Sequential):
    """Of two sequences one after another, of 4 and of 19 rows."""

    def forward(self, x):
        return torch.cat([super(OfSequences, self).forward(part) for part in (x[:4], x[4:])])


def sequences():
    torch.manual_seed(3)
    out = {}
    layer(out, "masked_a", MaskedConv2d("A", 3, 5, 5), (3, 7, 6))
    layer(out, "masked_b", MaskedConv2d("B", 4, 5, 3), (4, 7, 6))

    block = OfSequences(TransformerBlock(12, 3)).double()
    for p in block.parameters():
        nn.init.normal_(p, std=0.3)
    x = torch.randn(23, 12, dtype=torch.float64, requires_grad=True)
    y = block(x)
    g = torch.randn_like(y)
    ((y * g).sum() / 23).backward()
    out.update({"block.x": x, "block.y": y, "block.g": g, "block.dx": x.grad})
    for key, p in block.named_parameters():
        out["block." + key[2:]], out["block.d" + key[2:]] = p, p.grad

    logits = (5 * torch.randn(ROWS, 6, 7, dtype=torch.float64)).requires_grad_()
    codes = torch.randint(7, (ROWS, 6))
    loss = functional.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="sum") / ROWS
    loss.backward()
    out.update({"categorical.x": logits, "categorical.codes": codes, "categorical.loss": loss, "categorical.dx": logits.grad})
    return singles(out)


# ------------------------------------------------------------------------------------------------------------ optimizers
def optimizers():
    torch.manual_seed(2)
    steps, count = 20, 37
    first = torch.randn(count)
    gradients = torch.randn(steps, count) * torch.logspace(-4, 1, count)
    out = {"first": first, "gradients": gradients}
    for name, make in {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
        "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
        "adam": lambda p: torch.optim.Adam(p, lr=0.01),
        "adam_decay": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.1),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
        "clipped": lambda p: torch.optim.SGD(p, lr=0.05),
    }.items():
        w = first.clone().double().requires_grad_()
        optimizer = make([w])
        for gradient in gradients:
            w.grad = gradient.clone().double()
            if name == "clipped":
                nn.utils.clip_grad_norm_([w], 5.0)
            optimizer.step()
        out[name] = w

    losses = [5, 4, 4, 4, 3.9999, 3, 3.1, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2.5, 2.5, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    for name, settings in {"plateau": {"factor": 0.5, "patience": 2}, "plateau_slow": {"factor": 0.5, "patience": 1, "threshold": 0.3, "cooldown": 3},
                           "plateau_floor": {"factor": 0.25, "patience": 0, "min_lr": 0.1}}.items():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **settings)
        rates = []
        for loss in losses:
            plateau.step(loss)
            rates.append(optimizer.param_groups[0]["lr"])
        out[name] = torch.tensor(rates)
    out["plateau_losses"] = torch.tensor(losses)
    return singles(out)


# ------------------------------------------------------------------------------------------------------------ quantizers
class Quantized(nn.Module):
    """Linear, 12 codes of 4 numbers, Linear; codes learn by moving averages of decay 0.9 or by gradient."""

    def __init__(self, learned, rotation):
        super().__init__()
        self.learned, self.rotation = learned, rotation
        self.encoder, self.decoder = nn.Sequential(nn.Linear(6, 4)), nn.Sequential(nn.Linear(4, 6))
        codebook = torch.randn(12, 4) * 0.5
        if learned:
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
            self.count, self.sum = torch.ones(12), codebook.clone()

    def forward(self, x):
        z = self.encoder(x)
        codes = torch.cdist(z.double(), self.codebook.double()).argmin(1)
        q = self.codebook[codes]
        commitment = functional.mse_loss(z, q.detach())
        loss = 0.25 * commitment + (functional.mse_loss(q, z.detach()) if self.learned else 0)
        if self.rotation:  # Fifty et al. 2024, section 4.2
            unit, target = functional.normalize(z.detach()), functional.normalize(q.detach())
            half = functional.normalize(unit + target)
            turned = z - 2 * (z * half).sum(1, keepdim=True) * half + 2 * (z * unit).sum(1, keepdim=True) * target
            out = q.detach().norm(dim=1, keepdim=True) / z.detach().norm(dim=1, keepdim=True) * turned
        else:
            out = z + (q - z).detach()
        reconstruction = functional.mse_loss(self.decoder(out), x)
        if not self.learned:
            with torch.no_grad():
                chosen = functional.one_hot(codes, 12).float()
                self.count = 0.9 * self.count + 0.1 * chosen.sum(0)
                self.sum = 0.9 * self.sum + 0.1 * chosen.t() @ z
                total = self.count.sum()
                smoothed = (self.count + 1e-5) / (total + 12e-5) * total
                used = chosen.sum(0) > 0
                self.codebook[used] = (self.sum / smoothed[:, None])[used]
        return reconstruction, loss, codes


def quantizers():
    out = {}
    for name, learned, rotation in (("moving", False, False), ("rotated", False, True), ("learned", True, False)):
        torch.manual_seed(4)
        model = Quantized(learned, rotation)
        x = torch.randn(32, 6)
        if not out:
            out["x"] = x
            for key, value in model.state_dict().items():
                out[("quantizer." if key == "codebook" else "") + key] = value.clone()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        losses = []
        for _ in range(10):
            reconstruction, loss, codes = model(x)
            optimizer.zero_grad()
            (reconstruction + loss).backward()
            optimizer.step()
            losses.append([reconstruction.item() + loss.item(), reconstruction.item(), loss.item()])
        out[f"{name}.losses"], out[f"{name}.codebook"], out[f"{name}.codes"] = torch.tensor(losses), model.codebook.detach(), codes.float()
        out[f"{name}.weight"] = model.encoder[0].weight.detach()
    return singles(out)


# --------------------------------------------------------------------------------------------------------------- the VAE
class Vae(nn.Module):
    """8 x 6 images of 2 channels; every layer whose file layout differs from the library's memory."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(2, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(48, 12),
                                     nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 6))
        self.decoder = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 60), nn.BatchNorm1d(60), nn.ReLU(),
                                     nn.Unflatten(1, (5, 4, 3)), nn.ConvTranspose2d(5, 3, 4, 2, 1), nn.BatchNorm2d(3), nn.ReLU(),
                                     nn.ConvTranspose2d(3, 2, 3, 1, 1))

    def posterior(self, x):
        mu, raw = self.encoder(x).chunk(2, dim=1)
        return mu, 20 * torch.tanh(raw / 20)

    def losses(self, x, noise):
        mu, logvar = self.posterior(x)
        logits = self.decoder(mu + torch.exp(logvar / 2) * noise)
        reconstruction = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
        kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum() / len(x)
        return reconstruction, kl

    def reconstruct(self, x):
        self.eval()
        with torch.no_grad():
            return torch.sigmoid(self.decoder(self.posterior(x)[0]))


def vae():
    # Of a bias in front of a BatchNorm the gradient is zero but for rounding, and Adam makes whole steps of rounding. That
    # changes nothing until a ReLU between the two turns off: from then on, programs that round otherwise part (by 8e-4 in
    # the KL divergence from seed 8, in single precision; in double they agree to 4e-6 from seeds 3 and 8 too). From this
    # one all agree within ten steps.
    torch.manual_seed(6)
    steps, rows, beta = 10, 16, 0.5
    model = Vae()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):  # nothing stands at its default
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
            module.num_batches_tracked.fill_(7)
    save_file(model.state_dict(), HERE / "vae_initial.safetensors")
    x = torch.rand(rows, 2, 8, 6)
    noise = torch.randn(steps, rows, 3)
    out = {"x": last(x), "noise": noise, "reconstructed": last(model.reconstruct(x)), "mu": model.posterior(x)[0]}
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for step in range(steps):
        reconstruction, kl = model.losses(x, noise[step])
        optimizer.zero_grad()
        (reconstruction + beta * kl).backward()
        optimizer.step()
        losses.append([reconstruction.item() + beta * kl.item(), reconstruction.item(), kl.item()])
    out["losses"] = torch.tensor(losses)
    for name, tensor in model.state_dict().items():
        out["trained." + name] = tensor
    save_file(singles(out), HERE / "vae_run.safetensors")


def check(folder):
    model = Vae()
    model.load_state_dict(load_file(folder / "trained.safetensors"), strict=True)
    outputs = load_file(folder / "trained_outputs.safetensors")["reconstructed"]
    x = load_file(HERE / "vae_run.safetensors")["x"].movedim(-1, 1)
    difference = (last(model.reconstruct(x)) - outputs).abs().max().item()
    print(f"largest difference of the outputs: {difference:.2e}")
    return 0 if difference < 1e-5 else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(check(pathlib.Path(sys.argv[1])))
    save_file(layers(), HERE / "layers.safetensors")
    save_file(sequences(), HERE / "sequences.safetensors")
    save_file(optimizers(), HERE / "optimizers.safetensors")
    save_file(quantizers(), HERE / "quantizers.safetensors")
    vae()
