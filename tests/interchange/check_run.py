"""A run of the program vae, and what `vae export` made of it, by TensorBoard, onnx.checker and onnxruntime: check_run.py RUN. Called by
./run interchange."""
import pathlib
import sys

import numpy
import onnx
import onnxruntime
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader

SCALARS = {"train_loss", "train_recon", "train_kl", "val_loss", "val_recon", "val_kl", "current_beta", "learning_rate"}


def check_tensorboard(run):
    folder = run / "logs"
    records = sum(1 for file in folder.iterdir() for _ in RawEventFileLoader(str(file)).Load())  # a wrong CRC ends this by an error
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    missing = SCALARS - set(tags["scalars"])
    assert not missing, f"missing: {sorted(missing)}"
    assert set(tags["histograms"]) >= {"latent_mean", "latent_logvar"} and set(tags["images"]) >= {"reconstructions", "generated_samples"}, tags
    table = numpy.genfromtxt(run / "metrics.csv", delimiter=",", names=True)
    for name in SCALARS:
        numpy.testing.assert_allclose([event.value for event in events.Scalars(name)], table[name], rtol=1e-6, err_msg=name)
    for tag in tags["histograms"]:
        histogram = events.Histograms(tag)[-1].histogram_value
        assert sum(histogram.bucket) == histogram.num > 0, tag
    return f"{records} records without a wrong checksum, {len(tags['scalars'])} scalars, histograms and images"


def check_export(run):
    sessions = []
    for part in ("encoder", "decoder"):
        onnx.checker.check_model(onnx.load(run / f"{part}.onnx"), full_check=True)
        sessions.append(onnxruntime.InferenceSession(str(run / f"{part}.onnx"), providers=["CPUExecutionProvider"]))
    encoder, decoder = sessions
    images = decoder.run(["output"], {"code": numpy.random.default_rng(0).normal(size=(5, decoder.get_inputs()[0].shape[1])).astype("f4")})[0]
    assert images.shape[1:] == tuple(encoder.get_inputs()[0].shape[1:]) and (images >= 0).all() and (images <= 1).all()
    mean, log_variance = encoder.run(["mean", "log_variance"], {"input": images})
    assert mean.shape == log_variance.shape == (5, decoder.get_inputs()[0].shape[1]) and numpy.isfinite([mean, log_variance]).all()
    return f"images of {images.shape[1:]}"


passed = failed = 0
for check in (check_tensorboard, check_export):
    try:
        print(f"{check.__name__}: {check(pathlib.Path(sys.argv[1]))}")
        passed += 1
    except Exception as error:
        print(f"{check.__name__}: FAILED: {type(error).__name__}: {error}")
        failed += 1
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
