"""Weight files: equal bytes for equal weights, damage detected anywhere, and files of other programs."""

import functools
import hashlib
import pickle

import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import keras_cnns
from keras_cnns import checkpoints
from tests import small_networks
from tests.small_networks import WITH_HEADS, images, network

build = functools.partial(keras_cnns.ResNetCIFAR, 8, width=0.25, input_shape=(8, 8, 3))
METADATA = {"classes": '["cat", "dog"]', "preprocessing": "lite", "epoch": "3"}


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """Return the bytes of the weight file of `model`."""
    path = tmp_path_factory.mktemp("whole") / "weights.safetensors"
    keras_cnns.save_weights(model, path, METADATA)
    return path.read_bytes()


def write(arrays, path, metadata=None):
    safetensors.numpy.save_file(arrays, path, metadata)


def drop(arrays, path):
    write({key: array for key, array in arrays.items() if key != "stem_bn/moving_mean"}, path)


def replace(array):
    """Write another value of the last variable of the model, after all others would have been loaded."""
    return lambda arrays, path: write(arrays | {"head_dense/bias": array}, path)


def transpose(arrays, path):  # the number of elements stays the same
    write(arrays | {"head_dense/kernel": np.ascontiguousarray(arrays["head_dense/kernel"].T)}, path)


def content(data):
    return lambda arrays, path: path.write_bytes(data)


# {fault: (how to make it from a good file, the error)}
SPOILED = {
    "missing": (
        drop,
        r"1 variables are missing, e.g. stem_bn/moving_mean\. Build the network that the file was written",
    ),
    "unexpected": (
        lambda a, p: write(a | {"stem_bn/new": np.ones(1)}, p),
        "1 are not in the model, e.g. stem_bn/new",
    ),
    "wrong shape": (
        replace(np.zeros(11, "float32")),
        r"head_dense/bias is \(11,\) in the file and \(10,\) in the model\. Pass the classes",
    ),
    "transposed": (transpose, r"head_dense/kernel is \(10, 16\) in the file and \(16, 10\) in the model"),
    "int64": (replace(np.zeros(10, "int64")), r"head_dense/bias is int64; weights are floating-point .* as float32"),
    "bool": (replace(np.zeros(10, bool)), "head_dense/bias is bool; weights are floating-point"),
    "uint8": (replace(np.zeros(10, "uint8")), "head_dense/bias is uint8; weights are floating-point"),
    "float8": (replace(np.zeros(10, ml_dtypes.float8_e4m3fn)), "head_dense/bias is float8_e4m3; weights are floating-"),
    "NaN": (replace(np.full(10, np.nan, "float32")), "head_dense/bias has values that are NaN or infinite in float32"),
    "infinite": (replace(np.full(10, -np.inf, "float32")), "head_dense/bias has values that are NaN or infinite"),
    "too large": (replace(np.full(10, 1e300)), "head_dense/bias has values that are NaN or infinite in float32"),
    "empty": (content(b""), r"not a whole safetensors file .* Write it again"),
    "no safetensors": (content(b"PK\x03\x04 something else"), "not a whole safetensors file"),
    "cut off": (lambda a, p: (write(a, p), p.write_bytes(p.read_bytes()[:-9])), r"not a whole safetensors .* Write it"),
    "no file": (lambda a, p: None, r"weights\.safetensors': there is no such file\. Pass the path of a safetensors"),
    "Keras's weights": (
        content(b"\x89HDF\r\n\x1a\n"),
        r"HDF5 file, the format of Keras weights.* with model\.load_weights\(path\)",
    ),
    "Keras's model": (
        content(b"PK\x03\x04 config.json model.weights.h5"),
        r"a whole Keras model\. .* keras\.models\.load_model\(path\), after import keras_cnns",
    ),
    "torch's weights": (
        content(b"PK\x03\x04 archive/data.pkl"),
        r"a pickle, the format of torch weights, .* training convert SOURCE",
    ),
    "a pickle": (
        content(pickle.dumps(np.zeros(10))),
        r"a pickle, .* which can contain code and is not read here",
    ),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_a_file_that_does_not_fit_changes_nothing(fault, model, tmp_path):
    spoil, message = SPOILED[fault]
    path = tmp_path / "weights.safetensors"
    before = model.get_weights()
    spoil({variable.path: np.asarray(variable) + 1 for variable in model.weights}, path)
    with pytest.raises(ValueError, match=message):
        keras_cnns.load_weights(model, path)
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)


@pytest.mark.parametrize("dtype", ["float16", "float64", ml_dtypes.bfloat16])
def test_floating_point_numbers_of_all_sizes_are_read(dtype, tmp_path):
    image = keras.Input((2,))
    model, path = keras.Model(image, keras.layers.Dense(3, name="dense")(image)), tmp_path / "weights.safetensors"
    values = np.array([1e38 if dtype != "float16" else 6e4, -1.5, 3e-5])
    write({"dense/kernel": np.ones((2, 3), dtype), "dense/bias": values.astype(dtype)}, path)
    keras_cnns.load_weights(model, path)
    np.testing.assert_array_equal(model.weights[1], values.astype(dtype).astype("float32"))


def test_equal_weights_and_metadata_make_equal_files(model, tmp_path):
    """safetensors itself writes metadata in a random order."""
    metadata = {name: f'"{name}", \u00e9' for name in "abcdef"}
    files = [tmp_path / str(number) for number in range(8)]
    for number, file in enumerate(files):
        order = sorted(metadata, reverse=number % 2)
        keras_cnns.save_weights(model, file, {name: metadata[name] for name in order})
    assert len({file.read_bytes() for file in files}) == 1
    assert keras_cnns.load_weights(build(), files[0]) == metadata
    with safetensors.safe_open(files[0], framework="numpy") as file:
        assert file.metadata().items() > metadata.items()
        for variable in model.weights:
            np.testing.assert_array_equal(file.get_tensor(variable.path), variable)


def test_a_flipped_bit_is_found_wherever_it_is(whole, tmp_path):
    """In the metadata, the names and the arrays."""
    path = tmp_path / "weights.safetensors"
    arrays = 8 + int.from_bytes(whole[:8], "little")
    metadata = range(8, whole.index(b"}", whole.index(b"epoch")))
    places = [(place, bit) for place in metadata for bit in range(7)]
    places += [
        (place, 0) for place in (*range(0, arrays, 50), arrays - 1, arrays, (arrays + len(whole)) // 2, len(whole) - 1)
    ]
    for place, bit in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            keras_cnns.read_weights(path)
    path.write_bytes(whole)
    assert keras_cnns.read_weights(path)[1] == METADATA


def test_files_of_others_and_of_earlier_versions_are_read(model, tmp_path):
    """Files of other programs have no checksum; those of earlier versions have a checksum of the arrays alone."""
    arrays, path = {variable.path: np.asarray(variable) for variable in model.weights}, tmp_path / "weights.safetensors"
    write(arrays, path, {"epoch": "3"})
    assert keras_cnns.load_weights(model, path) == {"epoch": "3"}
    values = path.read_bytes()[8 + int.from_bytes(path.read_bytes()[:8], "little") :]
    write(arrays, path, {"epoch": "3", "sha256": hashlib.sha256(values).hexdigest()})
    assert keras_cnns.load_weights(model, path) == {"epoch": "3"}
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="its SHA-256 is not the one"):
        keras_cnns.load_weights(model, path)


@pytest.mark.parametrize("metadata", [{"epoch": 3}, {3: "epoch"}, {"class": "caf\udce9"}])
def test_metadata_are_strings(metadata, model, tmp_path):
    with pytest.raises(ValueError, match=r"metadata=.* keys and values must be strings"):
        keras_cnns.save_weights(model, tmp_path / "weights.safetensors", metadata)
    assert not (tmp_path / "weights.safetensors").exists()


@pytest.mark.parametrize("name", [checkpoints.CHECKSUM, "zeros"])
def test_metadata_are_not_mistaken_for_the_checksum(name, model, tmp_path):
    keras_cnns.save_weights(model, tmp_path / "file", {name: checkpoints.BLANK, "epoch": "3"})
    assert keras_cnns.read_weights(tmp_path / "file")[1].items() >= {("epoch", "3")}


def test_two_variables_with_the_same_path_are_not_saved(tmp_path):
    """Two models inside another model may have layers of the same name."""
    image = x = keras.Input((4,))
    for name in ("first", "second"):
        part = keras.Input((4,))
        x = keras.Model(part, keras.layers.Dense(4, name="dense")(part), name=name)(x)
    with pytest.raises(ValueError, match=r"two variables with the same path; give its layers different names"):
        keras_cnns.save_weights(keras.Model(image, x), tmp_path / "weights.safetensors")


def test_a_model_remembers_the_preprocessing_mode_of_its_weights(whole, tmp_path):
    path, pixels = tmp_path / "weights.safetensors", np.full((1, 8, 8, 3), 191.0)
    path.write_bytes(whole)
    model = build(weights=path)
    for other in (model, keras_cnns.features(model, strides=(1,)), keras_cnns.main_output(model)):
        np.testing.assert_array_equal(keras_cnns.preprocess_input(pixels, other), (pixels - 127) / 128)
    plain = keras_cnns.preprocess_input(pixels)
    np.testing.assert_array_equal(keras_cnns.preprocess_input(pixels, build()), plain)
    again = build()
    keras_cnns.save_weights(model, path)  # which takes it along
    keras_cnns.load_weights(again, path)
    np.testing.assert_array_equal(keras_cnns.preprocess_input(pixels, again), (pixels - 127) / 128)
    keras_cnns.save_weights(build(), path)
    keras_cnns.load_weights(model, path)
    np.testing.assert_array_equal(keras_cnns.preprocess_input(pixels, model), plain)


def test_the_main_output_of_a_network_with_heads_has_its_mode(tmp_path):
    image = keras.Input((4,))
    model = keras.Model(image, {name: keras.layers.Dense(2, name=name)(image) for name in ("main", "aux1")})
    keras_cnns.save_weights(model, tmp_path / "file", {"preprocessing": "tf"})
    keras_cnns.load_weights(model, tmp_path / "file")
    np.testing.assert_array_equal(
        keras_cnns.preprocess_input(np.full((1, 1, 3), 255), keras_cnns.main_output(model)), 1
    )


@pytest.mark.parametrize("name", WITH_HEADS)
def test_a_network_without_heads_skips_their_weights(name, tmp_path):
    model, path, x = network(name, aux_heads=True), tmp_path / "weights.safetensors", images(2, 64, 64, 3)
    keras_cnns.save_weights(model, path)
    np.testing.assert_allclose(small_networks.build(name, weights=path)(x), model(x)["main"], rtol=1e-6)
    keras_cnns.save_weights(network(name), path)
    with pytest.raises(ValueError, match=r"variables are missing, e.g. aux1_"):
        small_networks.build(name, weights=path, aux_heads=True)
