"""The ONNX files of interchange_models against onnx.checker and onnxruntime: check_onnx.py FOLDER. Called by ./run interchange."""
import pathlib
import sys

import numpy
import onnx
import onnxruntime
from safetensors.numpy import load_file

TOLERANCE = 1e-5
# GroupNorm, and a layer of the test's own, of features that were flattened
OWN_ORDER = {("every_layer", name) for name in ("encoder.10.weight", "encoder.10.bias", "decoder.14.scale")}


def channels_first(array):
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


def check(folder, part, inputs, outputs):
    path = str(folder / f"{part}.onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)
    assert all(value.type.tensor_type.shape.dim[0].dim_param == "N" for value in [*model.graph.input, *model.graph.output])
    weights = load_file(folder / "model.safetensors")
    for tensor in model.graph.initializer:  # what has the name of a tensor in the file of weights is that tensor
        if tensor.name in weights:
            here, there = onnx.numpy_helper.to_array(tensor).ravel(), weights.pop(tensor.name).ravel()
            if (folder.name, tensor.name) in OWN_ORDER:
                here, there = numpy.sort(here), numpy.sort(there)
            assert (here == there).all(), tensor.name
    left = [name for name in weights if name.startswith(part) and not name.endswith("num_batches_tracked")]
    assert not left, f"not in the graph: {left}"

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    read = {name: channels_first(numpy.load(folder / f"{name}.npy")) for name in inputs + outputs}
    if "labels" in [value.name for value in session.get_inputs()]:
        read["labels"] = numpy.load(folder / "labels.npy").astype(numpy.int64)
        inputs = inputs + ["labels"]
    worst = 0
    for rows in (len(read[inputs[0]]), 1):  # any batch
        got = session.run(outputs, {name: read[name][:rows] for name in inputs})
        for name, array in zip(outputs, got):
            assert array.shape == read[name][:rows].shape, f"{name}: {array.shape}, expected {read[name][:rows].shape}"
            assert numpy.isfinite(array).all() and array.std() > 0
            worst = max(worst, numpy.abs(array - read[name][:rows]).max())
    assert worst <= TOLERANCE, f"differs by {worst}"
    return f"within {worst:.1e}, {len(model.graph.node)} operators"


passed = failed = 0
for folder in sorted(path for path in pathlib.Path(sys.argv[1]).iterdir() if path.is_dir()):
    for part, inputs, outputs in (("encoder", ["input"], ["mean", "log_variance"]), ("decoder", ["code"], ["output"])):
        try:
            print(f"{folder.name} {part}: {check(folder, part, inputs, outputs)}")
            passed += 1
        except Exception as error:
            print(f"{folder.name} {part}: FAILED: {type(error).__name__}: {error}")
            failed += 1
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0 or passed == 0)
