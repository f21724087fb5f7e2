#!/usr/bin/env python3
"""Times vaelib's training step next to PyTorch's and JAX's, in the same minutes on the same processor.

Each workload has one worker process a contestant (bench/peers/worker.py says how they talk). The contestants take turns, round after
round, so that what else the machine does meets all of them alike; all but the one whose turn it is are stopped. A speed is the ratio of
two times of one round, and the median over the rounds is reported. The peak is the most multiply-adds that were measured in any round.
All start from the same weights, images and noise: whose losses over the first ten steps differ is void.

PyTorch is timed twice: as it is shipped, and with its products at full speed on processors that are not Intel's (peers/mkl_full_speed.c).
vaelib is also timed with one thread, and with twice as many threads as there are processors. What is not installed is said and left out.
Only the standard library is needed here.
"""

import argparse
import array
import contextlib
import json
import math
import os
import pathlib
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))
import worker

TOLERANCE = 1e-4  # of each of the first ten losses, relative
FULL_SPEED = "PyTorch, MKL at full speed"


# ---------------------------------------------------------------------------------------------------------- the workloads
class Layer:
    """Parameters of a layer by PyTorch's names and shapes, and its multiplications for one sample."""

    def __init__(self, name, weight, outputs, products):
        self.name, self.weight, self.outputs, self.products = name, weight, outputs, products


def linear(name, inputs, outputs):
    return Layer(name, (outputs, inputs), outputs, inputs * outputs)


def conv(name, inputs, outputs, extent):
    """4 x 4 filters at stride 2 over an image of extent x extent: taps outside of the image count, as in a product."""
    return Layer(name, (outputs, inputs, 4, 4), outputs, (extent // 2) ** 2 * 16 * inputs * outputs)


def same_conv(name, inputs, outputs, extent, kernel):
    """kernel x kernel filters at stride 1 that keep the extent."""
    return Layer(name, (outputs, inputs, kernel, kernel), outputs, extent**2 * kernel**2 * inputs * outputs)


def residual(name, channels, hidden, extent):
    return [same_conv(f"{name}.body.1", channels, hidden, extent, 3), same_conv(f"{name}.body.3", hidden, channels, extent, 1)]


def codebook(name, codes, width, vectors):
    """A table without bias; its products are the distances, which need no gradient: a third of a layer's."""
    return Layer(name, (codes, width), 0, vectors * codes * width / 3)


def norm(name, width):
    return Layer(name, (width,), width, 0)


def rows(name, *extents):
    """Parameters without a product."""
    return Layer(name, extents, 0, 0)


def attention_block(name, queries, keys, width=64):
    """Multi-head attention of `queries` to `keys` rows and what follows it; the products are those of one set."""
    def layer(part, count, products=0):
        return Layer(f"{name}.{part}", (width, width), width, count * width**2 + products)

    return [
        layer("attention.query", queries), layer("attention.key", keys, queries * keys * width),
        layer("attention.value", keys, queries * keys * width), layer("attention.output", queries),
        norm(f"{name}.ln0", width), norm(f"{name}.ln1", width), layer("linear1", queries), layer("linear2", queries),
    ]


def set_level(level):
    """Inducing points look at points and are looked at, on the way in and on the way out."""
    blocks = [
        attention_block(f"blocks.{4 * level + i}", *sizes) for i, sizes in enumerate([(16, 256), (256, 16)] * 2)
    ]
    heads = [(f"prior.{level}", 64, 32), (f"posterior.{level}", 128, 32), (f"lift.{level}", 16, 64)]
    return sum(blocks, []) + [rows(f"inducing.{2 * level + i}", 16, 64) for i in (0, 1)] + [
        Layer(name, (outputs, inputs), outputs, 16 * inputs * outputs) for name, inputs, outputs in heads
    ]


def conv_transpose(name, inputs, outputs, extent):
    return Layer(name, (inputs, outputs, 4, 4), outputs, extent**2 * 16 * inputs * outputs)


class Workload:
    def __init__(self, batch, shape, latent, layers):
        self.batch, self.shape, self.latent, self.layers = batch, shape, latent, layers

    def flops(self):
        """Of all products in a step: forward, gradient of weights, gradient of inputs except those of the first layer."""
        products = [layer.products for layer in self.layers]
        return 2 * self.batch * (3 * sum(products) - products[0])

    def write(self, weights_path, inputs_path):
        generator = random.Random(0)
        weights, inputs = {}, {}
        for layer in self.layers:
            bound = math.prod(layer.weight[1:]) ** -0.5
            tensors = {f"{layer.name}.weight": layer.weight, f"{layer.name}.bias": (layer.outputs,)}
            if not layer.outputs:
                tensors, bound = {layer.name: layer.weight}, 1
            for name, shape in tensors.items():
                weights[name] = (shape, array.array("f", (generator.uniform(-bound, bound) for _ in range(math.prod(shape)))))
        shape = (self.batch, *self.shape)
        inputs["input"] = (shape, array.array("f", (generator.random() for _ in range(math.prod(shape)))))
        shape = (10, self.batch, self.latent)
        inputs["noise"] = (shape, array.array("f", (generator.gauss(0, 1) for _ in range(math.prod(shape)))))
        worker.write(weights_path, weights)
        worker.write(inputs_path, inputs)


WORKLOADS = {
    "fc": Workload(128, (784,), 20, [
        linear("encoder.0", 784, 400), linear("encoder.2", 400, 40), linear("decoder.0", 20, 400), linear("decoder.2", 400, 784),
    ]),
    "conv28": Workload(128, (28, 28, 1), 16, [
        conv("encoder.0", 1, 32, 28), conv("encoder.2", 32, 64, 14), linear("encoder.5", 3136, 256), linear("encoder.7", 256, 32),
        linear("decoder.0", 16, 256), linear("decoder.2", 256, 3136),
        conv_transpose("decoder.5", 64, 32, 7), conv_transpose("decoder.7", 32, 1, 14),
    ]),
    "conv64": Workload(64, (64, 64, 3), 128, [
        conv("encoder.0", 3, 32, 64), conv("encoder.2", 32, 64, 32), conv("encoder.4", 64, 128, 16), conv("encoder.6", 128, 256, 8),
        linear("encoder.9", 4096, 256), linear("decoder.0", 128, 4096),
        conv_transpose("decoder.3", 256, 128, 4), conv_transpose("decoder.5", 128, 64, 8),
        conv_transpose("decoder.7", 64, 32, 16), conv_transpose("decoder.9", 32, 3, 32),
    ]),
    "vq": Workload(64, (32, 32, 3), 1, [
        conv("encoder.0", 3, 64, 32), conv("encoder.2", 64, 128, 16), same_conv("encoder.4", 128, 128, 8, 3),
        *residual("encoder.5", 128, 32, 8), *residual("encoder.6", 128, 32, 8), same_conv("encoder.8", 128, 64, 8, 1),
        codebook("quantizer.codebook", 512, 64, 64), same_conv("decoder.0", 64, 128, 8, 3),
        *residual("decoder.1", 128, 32, 8), *residual("decoder.2", 128, 32, 8),
        conv_transpose("decoder.4", 128, 64, 8), conv_transpose("decoder.6", 64, 3, 16),
    ]),
    "set": Workload(64, (256, 3), 256 * 64 + 2 * 16 * 16, [
        Layer("embed", (64, 3), 64, 256 * 3 * 64), *set_level(0), *set_level(1), rows("mean", 64), rows("deviation", 64),
        Layer("output", (3, 64), 3, 256 * (64 * 3 + 256 * 3)),  # and the distances
    ]),
}


# -------------------------------------------------------------------------------------------------------- the contestants
class Contestant:
    """One worker process; it is stopped between two commands, as some spin then. Its times are seconds a step, one for each round."""

    def __init__(self, name, command, preload=None):
        self.name, self.times, self.void = name, [], False
        environment = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "LD_PRELOAD")}
        if preload:
            environment["LD_PRELOAD"] = str(preload)
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, bufsize=1, env=environment
        )
        self.answer()  # "ready"

    def signal(self, name):
        if hasattr(signal, name):  # not on Windows
            self.process.send_signal(getattr(signal, name))

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            sys.exit(f"{self.name} ended with code {self.process.wait()}:\n{self.errors.read()[-2000:]}")
        self.signal("SIGSTOP")
        return line.strip()

    def ask(self, command):
        self.signal("SIGCONT")
        self.process.stdin.write(command + "\n")
        return self.answer()

    def run(self, seconds):
        self.times.append(float(self.ask(f"run {self.count(seconds)}")))

    def count(self, seconds):
        if not self.times:
            self.ask("run 3")
            self.step = float(self.ask("run 3"))
        return max(1, round(seconds / min([self.step, *self.times])))

    def close(self):
        self.signal("SIGCONT")
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def median(self):
        return statistics.median(self.times)


def installed(python, module):
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", code], stderr=subprocess.DEVNULL).returncode == 0


def full_speed_library(build):
    """The compiled shim, or None where it has no meaning or there is no C compiler."""
    library = build / "mkl_full_speed.so"
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    command = ["cc", "-O2", "-shared", "-fPIC", str(HERE / "peers" / "mkl_full_speed.c"), "-o", str(library)]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return library


def line_up(stack, workload, weights, inputs, options, have):
    """The contestants of a workload, vaelib first. They end with the stack."""
    contestants = []

    def enter(name, *command, preload=None):
        contestants.append(Contestant(name, [str(word) for word in command], preload))
        stack.callback(contestants[-1].close)

    def peer(script):
        return options.python, HERE / "peers" / script, workload, weights, inputs

    if not options.peers_only:
        own = options.build / "bin" / "bench_train_step", "--worker", workload, "--weights", weights, "--inputs", inputs
        processors = worker.threads()
        enter("vaelib", *own)
        if processors > 1:
            enter("vaelib, 1 thread", *own, "--threads", 1)
        enter(f"vaelib, {2 * processors} threads", *own, "--threads", 2 * processors)
    if "torch" in have:
        enter("PyTorch as shipped", *peer("torch_step.py"))
        library = full_speed_library(options.build)
        if library:
            enter(FULL_SPEED, *peer("torch_step.py"), preload=library)
    if "jax" in have and workload not in ("vq", "set"):  # not written in JAX
        enter("JAX jit", *peer("jax_step.py"))
    return contestants


# ---------------------------------------------------------------------------------------------------------- the comparison
def compare_losses(contestants):
    """The losses of the first ten steps of each, the first peer's being right. Marks as void who differs from them."""
    losses = {c.name: [float(loss) for loss in c.ask("loss").split()] for c in contestants}
    right = losses[next((c.name for c in contestants if not c.name.startswith("vaelib")), contestants[0].name)]
    for contestant in contestants:
        # A loss that is not a number differs from everything.
        same = (abs(loss - other) <= TOLERANCE * abs(other) for loss, other in zip(losses[contestant.name], right))
        contestant.void = len(losses[contestant.name]) != len(right) or not all(same)
    return losses


def paired(faster, slower):
    ratios = [slow / fast for fast, slow in zip(faster.times, slower.times)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def take_turns(contestants, options):
    """Times all, round after round; each round has another first. The FMA peak of each round, if vaelib takes part."""
    peaks = []
    for number in range(options.rounds):
        turn = number % len(contestants)
        for contestant in contestants[turn:] + contestants[:turn]:
            contestant.run(options.seconds)
        if not options.peers_only:
            peaks.append(float(contestants[0].ask("peak")))
    return peaks


def measure(workload, options, have):
    weights, inputs = (str(options.build / f"bench_{workload}_{what}.safetensors") for what in ("weights", "inputs"))
    WORKLOADS[workload].write(weights, inputs)
    with contextlib.ExitStack() as stack:
        contestants = line_up(stack, workload, weights, inputs, options, have)
        losses = compare_losses(contestants)
        peaks = take_turns(contestants, options)
        own = None if options.peers_only else contestants[0]
        torches = [c for c in contestants if c.name.startswith("PyTorch")]
        return {
            "flops": WORKLOADS[workload].flops(),
            "fma_peak_gflops": max(peaks) if peaks else None,
            "blas_core": own.ask("core") if own else None,
            "about": {c.name: c.ask("about") for c in contestants},
            "void": [c.name for c in contestants if c.void],
            "losses": losses,
            "seconds": {c.name: c.times for c in contestants},
            "ratios": {c.name: paired(own, c) for c in contestants[1:]} if own else {},
            "faster_pytorch": min(torches, key=Contestant.median).name if torches else None,
        }


def processor():
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def report(workload, result):
    print(f"\n{workload}: {result['flops'] / 1e9:.3f} GFLOP a step", end="")
    if result["fma_peak_gflops"]:
        print(f", FMA peak {result['fma_peak_gflops']:.0f} GFLOP/s, BLAS core {result['blas_core']}", end="")
    print(f"\n  {'':28}{'ms a step':>10}{'fastest':>9}{'GFLOP/s':>9}{'of peak':>9}{'10th loss':>12}{'vaelib is':>24}")
    for name, times in result["seconds"].items():
        rate = result["flops"] / statistics.median(times) / 1e9
        share = f"{rate / result['fma_peak_gflops']:.1%}" if result["fma_peak_gflops"] else ""
        ratio = result["ratios"].get(name)
        words = f"{ratio['median']:.2f}x ({ratio['min']:.2f}-{ratio['max']:.2f})" if ratio else ""
        if name in result["void"]:
            words = "void: other loss"
        print(f"  {name:28}{statistics.median(times) * 1e3:10.3f}{min(times) * 1e3:9.3f}{rate:9.1f}{share:>9}"
              f"{result['losses'][name][-1]:12.5f}{words:>24}")
    if result["faster_pytorch"] in result["ratios"]:
        ratio = result["ratios"][result["faster_pytorch"]]["median"]
        print(f"  {ratio:.2f} times as fast as the faster PyTorch ({result['faster_pytorch']})")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", type=pathlib.Path, default=HERE.parent / "build", help="where bin/bench_train_step lies")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has PyTorch and JAX")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=9, help="at least 7 for a figure that is to be quoted")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each contestant in each round")
    parser.add_argument("--threads", type=int, help="processors to use (default: all that this process may)")
    parser.add_argument("--peers-only", action="store_true", help="leave vaelib out")
    parser.add_argument("--output", type=pathlib.Path, help="a JSON file of every time measured")
    return parser.parse_args()


def main():
    options = arguments()
    options.build.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended by a signal."))  # so that no stopped worker is left behind
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # comes to a group with stopped processes when the shell that started it ends
    sys.stdout.reconfigure(line_buffering=True)
    if options.threads and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])  # the workers inherit it
    have = [module for module in ("torch", "jax") if installed(options.python, module)]
    if "jax" in have and not installed(options.python, "optax"):
        have.remove("jax")
    absent = [name for name, module in (("PyTorch", "torch"), ("JAX with optax", "jax")) if module not in have]
    if absent:
        print(f"Not installed for {options.python}, so left out: {', '.join(absent)}. Another interpreter: --python")
    print(f"{processor()}, {worker.threads()} threads, {options.rounds} rounds of {options.seconds:g} s each")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5:
        print(f"The machine is busy (load {load:.1f}): threads that wait for each other suffer most, so compare on an idle one.")

    results = {}
    for workload in options.workloads:
        results[workload] = measure(workload, options, have)
        report(workload, results[workload])
    print("\n" + ", ".join(dict.fromkeys(v for r in results.values() for v in r["about"].values())))
    if options.output:
        document = {"processor": processor(), "threads": worker.threads(), "load_before": load, "workloads": results}
        options.output.write_text(json.dumps(document, indent=1) + "\n")
    if any(result["void"] for result in results.values()):
        sys.exit("A run whose losses over ten steps differ from the peer's is void.")


if __name__ == "__main__":
    main()
