"""The grammar of layer names: levels joined by underscores, from the stage down to the operation.

`stage3_block1_conv2_conv` is the convolution of conv2 in block 1 of stage 3. The classifier is in the level `head`,
auxiliary classifiers are in `aux1`, `aux2` and so on; all other levels are the backbone. Variables add their own name
after a slash: `stage3_block1_conv2_conv/kernel`.
"""

import re


def split_levels(name):
    """Split the name of a layer into its levels.

    Args:
        name: Name of a layer, or path of a variable.

    Returns:
        A list of strings, from the stage to the operation.

    Example:
        >>> keras_cnns.split_levels("stage3_block1_conv2_conv")
        ['stage3', 'block1', 'conv2', 'conv']
    """
    return name.partition("/")[0].split("_")


def level_of(name):
    """Return the first level of a name: the stage or head that a layer or variable belongs to.

    Args:
        name: Name of a layer, or path of a variable.

    Example:
        >>> keras_cnns.level_of("stage3_block1_conv2_conv/kernel")
        'stage3'
    """
    return split_levels(name)[0]


def is_head(name):
    """Return True if a level, layer or variable belongs to the main or an auxiliary classifier, not to the backbone.

    Args:
        name: Name of a level or layer, or path of a variable.

    Example:
        >>> [keras_cnns.is_head(name) for name in ("stage3", "head_dense", "aux1_conv")]
        [False, True, True]
    """
    return level_of(name) == "head" or is_auxiliary(name)


def is_auxiliary(name):
    """Return True if a level, layer or variable belongs to an auxiliary classifier.

    Args:
        name: Name of a level or layer, or path of a variable.

    Example:
        >>> [keras_cnns.is_auxiliary(name) for name in ("head_dense", "aux1_conv/kernel")]
        [False, True]
    """
    return re.fullmatch(r"aux\d+", level_of(name)) is not None
