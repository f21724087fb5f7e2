"""One training step of the workloads in JAX, jit-compiled for the CPU: forward, backward, Adam. Run by compare.py; see worker.py.

    python3 jax_step.py fc|conv28|conv64 WEIGHTS INPUTS

Images are channels last, which XLA is fastest with on CPUs, so PyTorch's weights are rearranged when they are read.
"""

import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
import jax
import jax.numpy as jnp
import numpy
import optax
from jax import lax

import worker

IMAGES = ("NHWC", "HWIO", "NHWC")


class Weights:
    """Hands out PyTorch's weights in JAX's layouts: (in, out) matrices, height x width x in x out filters."""

    def __init__(self, tensors):
        self.tensors = tensors

    def linear(self, name, channels_first_inputs=None, channels_first_outputs=None):
        weight, bias = self.tensors[name + ".weight"], self.tensors[name + ".bias"]
        if channels_first_inputs:
            weight = weight[:, self.channels_last(channels_first_inputs)]
        if channels_first_outputs:
            order = self.channels_last(channels_first_outputs)
            weight, bias = weight[order], bias[order]
        return {"weight": weight.T, "bias": bias}

    def conv(self, name):
        return {"weight": self.tensors[name + ".weight"].transpose(2, 3, 1, 0), "bias": self.tensors[name + ".bias"]}

    def conv_transpose(self, name):
        # PyTorch's is the adjoint of a convolution, JAX's a convolution of the stretched image: the filter is turned round.
        weight = self.tensors[name + ".weight"].transpose(2, 3, 0, 1)[::-1, ::-1]
        return {"weight": weight, "bias": self.tensors[name + ".bias"]}

    @staticmethod
    def channels_last(shape):
        """The channels-first index of each channels-last feature of (channels, height, width)."""
        return numpy.arange(numpy.prod(shape)).reshape(shape).transpose(1, 2, 0).ravel()


def linear(p, x):
    return x @ p["weight"] + p["bias"]


def conv(p, x):
    return lax.conv_general_dilated(x, p["weight"], (2, 2), "SAME", dimension_numbers=IMAGES) + p["bias"]


def conv_transpose(p, x):
    return lax.conv_transpose(x, p["weight"], (2, 2), "SAME", dimension_numbers=IMAGES) + p["bias"]


def bernoulli(logits, x):
    return jnp.sum(jnp.maximum(logits, 0) - logits * x + jnp.log1p(jnp.exp(-jnp.abs(logits))))


def squared_error(output, x):
    return jnp.sum((output - x) ** 2)


def vae_loss(encode, decode, reconstruction):
    def loss(p, x, noise):
        mean, log_variance = jnp.split(encode(p, x), 2, -1)
        output = decode(p, mean + noise * jnp.exp(0.5 * log_variance))
        kl_divergence = -0.5 * jnp.sum(1 + log_variance - mean * mean - jnp.exp(log_variance))
        return (reconstruction(output, x) + kl_divergence) / x.shape[0]

    return loss


def fc(weights):
    p = [weights.linear(name) for name in ("encoder.0", "encoder.2", "decoder.0", "decoder.2")]

    def encode(p, x):
        return linear(p[1], jax.nn.relu(linear(p[0], x)))

    def decode(p, z):
        return linear(p[3], jax.nn.relu(linear(p[2], z)))

    return p, vae_loss(encode, decode, bernoulli)


def conv28(weights):
    p = {
        "conv": [weights.conv("encoder.0"), weights.conv("encoder.2")],
        "encoder": [weights.linear("encoder.5", channels_first_inputs=(64, 7, 7)), weights.linear("encoder.7")],
        "decoder": [weights.linear("decoder.0"), weights.linear("decoder.2", channels_first_outputs=(64, 7, 7))],
        "conv_transpose": [weights.conv_transpose("decoder.5"), weights.conv_transpose("decoder.7")],
    }

    def encode(p, x):
        for layer in p["conv"]:
            x = jax.nn.relu(conv(layer, x))
        return linear(p["encoder"][1], jax.nn.relu(linear(p["encoder"][0], x.reshape(x.shape[0], -1))))

    def decode(p, z):
        for layer in p["decoder"]:
            z = jax.nn.relu(linear(layer, z))
        first, second = p["conv_transpose"]
        return conv_transpose(second, jax.nn.relu(conv_transpose(first, z.reshape(-1, 7, 7, 64))))

    return p, vae_loss(encode, decode, bernoulli)


def conv64(weights):
    p = {
        "conv": [weights.conv(f"encoder.{i}") for i in (0, 2, 4, 6)],
        "encoder": weights.linear("encoder.9", channels_first_inputs=(256, 4, 4)),
        "decoder": weights.linear("decoder.0", channels_first_outputs=(256, 4, 4)),
        "conv_transpose": [weights.conv_transpose(f"decoder.{i}") for i in (3, 5, 7, 9)],
    }

    def encode(p, x):
        for layer in p["conv"]:
            x = jax.nn.relu(conv(layer, x))
        return linear(p["encoder"], x.reshape(x.shape[0], -1))

    def decode(p, z):
        h = linear(p["decoder"], z).reshape(-1, 4, 4, 256)
        for layer in p["conv_transpose"]:
            h = conv_transpose(layer, jax.nn.relu(h))
        return h

    return p, vae_loss(encode, decode, squared_error)


def read(path):
    return {name: numpy.array(values, numpy.float32).reshape(shape) for name, (shape, values) in worker.read(path).items()}


def main():
    workload, weights_path, inputs_path = sys.argv[1:]
    inputs = read(inputs_path)
    x, noise = jnp.asarray(inputs["input"]), jnp.asarray(inputs["noise"])
    weights, loss = {"fc": fc, "conv28": conv28, "conv64": conv64}[workload](Weights(read(weights_path)))
    weights = jax.tree.map(jnp.asarray, weights)
    optimizer = optax.adam(1e-3)

    def train(p, state, x, noise):
        value, gradient = jax.value_and_grad(loss)(p, x, noise)
        update, state = optimizer.update(gradient, state)
        return optax.apply_updates(p, update), state, value

    @jax.jit
    def step(p, state, key, x):
        key, own = jax.random.split(key)
        p, state, value = train(p, state, x, jax.random.normal(own, noise.shape[1:]))
        return p, state, key, value

    carry = [weights, optimizer.init(weights), jax.random.PRNGKey(0), None]

    def advance():
        carry[:] = step(*carry[:3], x)

    def losses():
        given, p, state, values = jax.jit(train), weights, optimizer.init(weights), []
        for sample in noise:
            p, state, value = given(p, state, x, sample)
            values.append(float(value))
        return values

    worker.serve(advance, lambda: jax.block_until_ready(carry), losses, f"JAX {jax.__version__}")


if __name__ == "__main__":
    main()
