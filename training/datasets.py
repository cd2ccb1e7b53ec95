"""Your own tf.data pipelines as the data of a run: `fit(recipe, data=from_datasets(...))`."""

import dataclasses

import tensorflow as tf

from training.data import CUSTOM, Data, Split, check_classes, check_splits, in_order, read_labels, record_of
from training.data_record import PARTS
from training.errors import UserError


def from_datasets(train, validation, test, class_names):
    """Return the data set for `training.run.fit(data=...)` that three tf.data pipelines make.

    Each pipeline gives pairs of an image and a label, unbatched, the same ones in the same order whenever it is read:
    order, crops, augmentation, batches and normalisation come from the recipe. An image is uint8 RGB (height, width, 3)
    of any size, or a string, the content of a JPEG, PNG, GIF, BMP or WebP file; a label is the index of its class.

    Args:
        train, validation, test: The pipelines. They are read once here, to count the images and check the labels.
        class_names: Names of the classes, in the order of the labels.

    Returns:
        The Data.

    Raises:
        UserError: A pipeline gives something else, or never ends.
        DataError: A pipeline has no images, a label is not the index of a class, or there is only one class.

    Example:
        >>> images = np.random.randint(0, 256, (40, 8, 8, 3), np.uint8)
        >>> pipeline = tf.data.Dataset.from_tensor_slices((images, np.arange(40) % 2))
        >>> data = from_datasets(pipeline.skip(20), pipeline.take(10), pipeline.skip(10).take(10), ["even", "odd"])
        >>> data.train.size
        20
    """
    class_names = tuple(class_names)
    check_classes(CUSTOM, class_names)
    splits = [split_of(name, pipeline) for name, pipeline in zip(PARTS, (train, validation, test), strict=True)]
    data = Data(class_names, *splits)
    check_splits(data)
    return data


def split_of(name, pipeline):
    """Return the Split that a pipeline makes."""
    check_pipeline(name, pipeline)
    labels = read_labels(pipeline.map(lambda image, label: label))

    def load(order, first=0, every=1):
        examples = in_order(pipeline, len(labels), order, first, every)
        return examples.map(lambda example, pair: (pair[0], tf.cast(pair[1], tf.int64), example))

    return Split(len(labels), load, lambda: labels)


def check_pipeline(name, pipeline):
    """Raise a UserError unless a pipeline ends and gives pairs of an image and a label."""
    fix = "Pass unbatched pairs of a uint8 image (height, width, 3), or the content of an image file, and an integer."
    if not isinstance(pipeline, tf.data.Dataset):
        raise UserError(f"{name}: a {type(pipeline).__name__} is not a tf.data.Dataset. {fix}")
    if pipeline.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise UserError(f"{name}: the pipeline never ends. Leave out repeat().")
    spec = pipeline.element_spec
    image, label = spec if isinstance(spec, tuple) and len(spec) == 2 else (None, None)
    is_file = image == tf.TensorSpec((), tf.string)
    is_pixels = isinstance(image, tf.TensorSpec) and image.dtype == tf.uint8 and image.shape.rank == 3
    is_label = isinstance(label, tf.TensorSpec) and label.dtype.is_integer and label.shape.rank == 0
    if not is_label or not (is_file or (is_pixels and image.shape[-1] in (None, 3))):
        raise UserError(f"{name}: the elements of the pipeline are {spec}. {fix}")


def as_data_of_run(data, recipe, trained_on):
    """Return a data set that was passed to `fit`, checked, with a record of its classes and sizes.

    Args:
        data: The data set.
        recipe: The recipe.
        trained_on: Digests of the images that the initial weights were trained on.

    Raises:
        UserError: It is not a data set, or smaller than a batch.
        DataError: A split has no images, or a label is not the index of a class.
    """
    if not isinstance(data, Data):
        raise UserError(f"data={data!r:.100}: pass what training.datasets.from_datasets returns.")
    check_splits(data, recipe.batch_size)
    record = data.record or record_of(CUSTOM, data.class_names, (data.train, data.validation, data.test))
    return dataclasses.replace(data, record=dataclasses.replace(record, trained_on=trained_on))
