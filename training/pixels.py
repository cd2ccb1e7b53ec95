"""From encoded images to pixels: decoding, and resizing as evaluation does."""

import tensorflow as tf

import keras_cnns


def decode(image):
    """Decode a JPEG, PNG, GIF, BMP or still WebP image.

    Grey is repeated in three channels, transparency is dropped, 16 bits are reduced to 8, and of a GIF the first frame
    is used.

    Args:
        image: Encoded bytes, a string tensor (); a tensor of pixels is returned as it is.

    Returns:
        RGB 0..255, (height, width, 3), uint8.

    Raises:
        tf.errors.InvalidArgumentError: The image cannot be decoded.
    """
    if image.dtype != tf.string:
        return image
    image = tf.io.decode_image(image, channels=3, expand_animations=False)
    return tf.ensure_shape(image, (None, None, 3))


# ScaleAndTranslate's names of interpolations, and how far they reach, in pixels.
KERNELS = {"bilinear": ("triangle", 1), "bicubic": ("keyscubic", 2)}


def resize(image, size, crop=1.0, interpolation="bilinear"):
    """Scale an image and cut out its center: (height, width, 3) -> (size, size, 3), float32.

    The aspect ratio is kept, and the image antialiased where it shrinks.

    Args:
        image: (height, width, 3), integers or floating point.
        size: Side of the result in pixels.
        crop: Side of the result, in units of the shorter side of the scaled image.
        interpolation: "bilinear" or "bicubic".
    """
    target = tf.maximum(scaled_sides(image, keras_cnns.ImageSize(size, crop).shorter_side), size)
    return resize_window(image, target, (target - size) // 2, size, interpolation)


def scaled_sides(image, shorter):
    """Return height and width, int64 (2,), of an image (height, width, 3) with its shorter side scaled to `shorter`."""
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    return tf.cast(tf.round(sides * (tf.cast(shorter, tf.float32) / tf.reduce_min(sides))), tf.int64)


def resize_window(image, target, corner, size, interpolation="bilinear"):
    """Scale an image and cut a square out of the result; only the square is computed.

    The whole result of scaling a long, thin image could have a hundred thousand times as many pixels as the square.

    Args:
        image: (height, width, 3), integers or floating point.
        target: Height and width of the whole result in pixels, int64 (2,).
        corner: Top and left of the square in the result in pixels, int64 (2,).
        size: Side of the square in pixels.
        interpolation: See `resize`.

    Returns:
        (size, size, 3), float32 RGB 0..255, antialiased where the image shrinks.
    """
    sides = tf.cast(tf.shape(image)[:2], tf.float64)
    scale, corner = tf.cast(target, tf.float64) / sides, tf.cast(corner, tf.float64)
    reach = KERNELS[interpolation][1] * tf.maximum(1 / scale, 1) + 1  # of the kernel, in pixels of the image
    begin = tf.cast(tf.maximum(corner / scale - reach, 0), tf.int32)
    end = tf.cast(tf.minimum((corner + size) / scale + reach, sides), tf.int32)
    translation = tf.cast(tf.cast(begin, tf.float64) * scale - corner, tf.float32)
    window = image[begin[0] : end[0], begin[1] : end[1]]
    return scale_and_translate(window, tf.cast(scale, tf.float32), translation, size, interpolation)


def scale_and_translate(image, scale, translation, size, interpolation="bilinear"):
    """Scale an image, move it, and cut a square out of its top left corner.

    Args:
        image: (height, width, 3), integers or floating point.
        scale: Factors of height and width, float32 (2,).
        translation: Pixels of the result by which it is moved down and right, float32 (2,).
        size: Side of the square in pixels.
        interpolation: See `resize`.

    Returns:
        (size, size, 3), float32 RGB 0..255, antialiased where the image shrinks.
    """
    kernel, _ = KERNELS[interpolation]

    def along_first_axis(image, scale, translation):
        # A row of pixels as one pixel of many channels, over which TensorFlow's loops are several times as fast.
        resized = tf.raw_ops.ScaleAndTranslate(
            images=tf.reshape(image, (1, tf.shape(image)[0], 1, -1)),
            size=[size, 1],
            scale=[scale, 1.0],
            translation=[translation, 0.0],
            kernel_type=kernel,
            antialias=True,
        )
        return tf.reshape(resized, (size, -1, 3))

    resized = along_first_axis(image, scale[0], translation[0])
    resized = along_first_axis(tf.transpose(resized, (1, 0, 2)), scale[1], translation[1])
    resized = tf.ensure_shape(tf.transpose(resized, (1, 0, 2)), (size, size, 3))
    return tf.clip_by_value(resized, 0, 255) if interpolation == "bicubic" else resized  # it overshoots at edges
