"""A server for an export, in a process that does not import this project: python server.py EXPORT PORT.

LitServe answers POST /predict with a JSON body: {"image": a JPEG, PNG, ... file in base64}, or {"pixels": RGB 0..255,
(height, width, 3), as nested lists of the network's size}. The answer is {"classes": the five most probable,
"probabilities": theirs}. What is not such a request gets status 400 and the reason.

The SavedModel decodes files itself. An ONNX file does not: how an image is brought to its size is in its metadata.
"""

import base64
import binascii
import io
import json
import sys
from pathlib import Path

import litserve
import numpy as np
from fastapi import HTTPException
from PIL import Image

EXPORT, PORT = Path(sys.argv[1]), int(sys.argv[2])
KEY = "keras_cnns"


class SavedModel:
    """A SavedModel in TensorFlow."""

    def __init__(self):
        import tensorflow as tf

        self.tf, self.model = tf, tf.saved_model.load(str(EXPORT))
        self.about = json.loads((EXPORT / "assets.extra" / f"{KEY}.json").read_text())

    def of_file(self, content):
        try:
            answer = self.model.signatures["serve_bytes"](images=self.tf.constant([content]))
        except self.tf.errors.InvalidArgumentError as error:
            raise ValueError("the image cannot be decoded") from error
        return answer["probabilities"].numpy()[0]

    def of_pixels(self, pixels):
        return self.model.signatures["serving_default"](images=self.tf.constant(pixels[None]))["probabilities"][0]


class Onnx:
    """An ONNX file in onnxruntime."""

    def __init__(self):
        import onnxruntime

        self.session = onnxruntime.InferenceSession(EXPORT, providers=["CPUExecutionProvider"])
        self.about = json.loads(self.session.get_modelmeta().custom_metadata_map[KEY])

    def of_file(self, content):
        size, crop, interpolation = (self.about["image_size"][key] for key in ("size", "crop", "interpolation"))
        try:
            image = Image.open(io.BytesIO(content)).convert("RGB")
        except OSError as error:
            raise ValueError("the image cannot be decoded") from error
        scale = int(size / crop) / min(image.size)
        sides = [max(size, round(side * scale)) for side in image.size]
        image = image.resize(sides, Image.Resampling[interpolation.upper()])
        left, top = ((side - size) // 2 for side in sides)
        return self.of_pixels(np.asarray(image.crop((left, top, left + size, top + size)), "float32"))

    def of_pixels(self, pixels):
        (name,) = (each.name for each in self.session.get_inputs())
        return self.session.run(None, {name: pixels[None]})[0][0]


class Api(litserve.LitAPI):
    """What LitServe calls for each request."""

    def setup(self, device):
        self.network = SavedModel() if EXPORT.is_dir() else Onnx()

    def decode_request(self, request: dict):  # FastAPI refuses other bodies with status 422
        try:
            if set(request) == {"image"}:
                return self.network.of_file, base64.b64decode(request["image"], validate=True)
            if set(request) != {"pixels"}:
                raise ValueError('pass {"image": base64} or {"pixels": nested lists}')
            pixels = np.array(request["pixels"], "float32")
            if pixels.ndim != 3 or pixels.shape[2] != 3 or not np.isfinite(pixels).all():
                raise ValueError(f"pixels have the shape {pixels.shape}, and must be (height, width, 3) and finite")
            return self.network.of_pixels, pixels
        except (TypeError, ValueError, binascii.Error) as error:
            raise HTTPException(400, str(error)) from error

    def predict(self, work):
        function, argument = work
        try:
            return np.asarray(function(argument))
        except Exception as error:  # the runtime's own: pixels of another size, a broken image
            raise HTTPException(400, str(error).splitlines()[0][:200]) from error

    def encode_response(self, output):
        top = np.argsort(-output)[:5]
        return {
            "classes": [self.network.about["classes"][place] for place in top],
            "probabilities": output[top].tolist(),
        }


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", timeout=60)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning")
