"""The statements of the lecture on convolutional networks as experiments: `python -m training study NAME`.

Each module of this folder but `frame` and `drawing` is a study. Its docstring says what the lecture says, where that
comes from and how it is measured. It has

- `CLAIMS`: the predictions, from the literature, made before anything was measured; tests/claims.py repeats them;
- `measure(lab)`: an iterable of `frame.Row`; what it trains, it trains by `lab.train`;
- `draw(rows)`: the figure, drawn from the rows alone;
- `READING`: what the figure shows, and what may explain it, for docs/lecture.md.
"""

# What the lecture says, in its order.
STATEMENTS = {
    "L1": "Deeper networks have larger receptive fields.",
    "L2": "Deeper networks have more capacity and more non-linearity.",
    "L3": "In deep networks gradients can vanish.",
    "L4": "In deep networks gradients can explode.",
    "L5": "Deeper networks are computationally more complex.",
    "L6": "Beyond some depth, accuracy degrades.",
    "L7": "An inception module looks at its input with filters of several sizes at once.",
    "L8": "A naive inception module is costly; 1x1 convolutions in front of the large filters solve that.",
    "L9": "A 1x1 convolution keeps the plane and mixes the channels, pixel by pixel.",
    "L10": "Auxiliary classifiers inject gradient into the lower layers.",
    "L11": "Auxiliary classifiers are used in training only.",
    "L12": "A plain network of 56 layers has a larger training error than one of 20, so it does not overfit.",
    "L13": "The reason for the degradation is the vanishing gradient.",
    "L14": "Shortcuts let the gradient skip layers.",
    "L15": "A residual network is a collection of 2^n paths.",
    "L16": "From stage to stage the number of channels doubles and the plane halves.",
    "L17": "A DenseNet keeps earlier maps by concatenation and passes them on to all later layers.",
    "L18": "Squeeze and excitation models relations between channels and emphasises the important ones.",
    "L19": "Scaling depth, width or resolution alone saturates; scaling them together does not.",
    "L20": "EfficientNets are accurate with few multiply-adds.",
    "L21": "Of AlexNet, VGG, GoogLeNet and ResNet, GoogLeNet is the most efficient.",
    "L22": "Trained classifiers such as VGG and ResNet are backbones of other networks.",
    "L23": "Their features serve other target tasks.",
    "L24": "A deformable convolution looks at irregular points, moved by a field of offsets.",
}

# {study: the statements that it measures}, in the order of the lecture.
STUDIES = {
    "receptive_fields": ("L1",),
    "gradients": ("L3", "L4", "L14"),
    "depth_cost": ("L5",),
    "degradation": ("L6", "L12", "L13"),
    "heads": ("L10", "L11"),
    "branches": ("L7",),
    "bottleneck": ("L8",),
    "pointwise": ("L9",),
    "lesions": ("L15",),
    "boxes": ("L16",),
    "reuse": ("L17",),
    "gates": ("L18",),
    "scaling": ("L19",),
    "frontier": ("L20",),
    "closing": ("L21",),
    "backbone": ("L22", "L23"),
    "offsets": ("L24",),
}
