"""What `python -m training benchmark` measures: this project and the libraries beside it, in turn and in one run."""

# {part: what is measured}; training.benchmarks.parts has the function of each.
PARTS = {
    "step": "a training step (forward, backward, optimizer) of a batch in memory",
    "layers": "the forms of convolutions and their gradients, the one that Conv2D uses and the others",
    "deformable": "DeformableConv2D, version 2, 3x3, with the convolutions of its offsets and mask",
    "input": "from JPEG files of 300x400 pixels to training batches of 32 images of 224 pixels",
    "predict": "a forward pass at 224 pixels; the export normalizes the pixels too",
    "export": "exports at 224 pixels, each in its own runtime, and those that Keras makes of its own networks",
    "start": "commands from start to end, and building networks",
    "run": "whole epochs of fit, with TensorBoard and saving, and the bare training step",
    "dashboards": "training steps with and without TensorBoard's callbacks, in pairs of blocks in one process",
}
