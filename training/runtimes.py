"""The runtimes that a run is exported for, besides TensorFlow: their files, and what they need.

TensorFlow is not imported here, so that mistakes appear at once.
"""

import importlib.util
from pathlib import Path

from training.errors import UserError

# {format: (file, packages that it needs)}
RUNTIMES = {
    "onnx": ("model.onnx", ("tf2onnx", "onnx", "onnxruntime")),
    "litert": ("model.tflite", ("ai_edge_litert",)),
    "openvino": ("model.xml", ("tf2onnx", "onnx", "openvino")),
}
SUFFIXES = tuple(name[name.index(".") :] for name, _ in RUNTIMES.values())
QUANTIZED = ("float16", "int8")  # of LiteRT
# Without this variable tf2onnx copies the graph, with all weights, before each optimization: VGG16 takes above 24 GiB.
FEW_COPIES = {"TF2ONNX_CATCH_ERRORS": "FALSE"}
# OpenVINO computes float32 networks in bfloat16 on CPUs that have it, and probabilities differ in the third digit.
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


def check_format(kind, quantize=None):
    """Raise a UserError if a format cannot be written: it is not quantized, or packages are not installed."""
    if quantize and kind != "litert":
        raise UserError(f"--quantize {quantize} is for --format litert, not {kind}.")
    _, packages = RUNTIMES.get(kind, ("", ()))
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        names = " ".join(package.replace("_", "-") for package in missing)
        raise UserError(f"{kind} needs {', '.join(missing)}, not installed. Run `pip install {names}`.")


def format_of(path):
    """Return the format of an export: "savedmodel" for the folder of one, by its suffix for a file; None for others."""
    if Path(path, "saved_model.pb").is_file():
        return "savedmodel"
    return next((kind for kind, suffix in zip(RUNTIMES, SUFFIXES, strict=True) if str(path).endswith(suffix)), None)
