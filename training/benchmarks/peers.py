"""The same work in other libraries, which are imported in the process of a variant only.

torch computes eagerly with its default settings, networks in channels_last. requirements-benchmark.txt lists the
libraries.
"""

from training.benchmarks.ours import random_images, seconds_of_batches
from training.runtimes import FLOAT32


def torch_network(model, classes, heads=False):
    """Return the network of torchvision or timm that is a network of this project.

    Args:
        model: Its name here.
        classes: Number of classes.
        heads: Whether GoogLeNet and InceptionV1 have their auxiliary heads. Both are torchvision's googlenet, which has
            batch normalization.
    """
    import timm
    from torchvision import models

    if model in ("GoogLeNet", "InceptionV1"):
        return models.googlenet(num_classes=classes, aux_logits=heads, init_weights=False)
    if model == "DenseNetCIFAR":
        return densenet40(classes)
    if model.startswith("SE"):
        return timm.create_model({"SEResNet18": "legacy_seresnet18"}.get(model, model.lower()), num_classes=classes)
    return getattr(models, {"EfficientNetB0": "efficientnet_b0"}.get(model, model.lower()))(num_classes=classes)


def densenet40(classes):
    """Return the DenseNet of Huang et al. for CIFAR with L = 40 and k = 12; torchvision's is for ImageNet."""
    import torch
    from torch import nn

    class DenseLayer(nn.Sequential):
        def forward(self, x):
            return torch.cat([x, super().forward(x)], 1)

    def unit(channels, filters, size):
        convolution = nn.Conv2d(channels, filters, size, padding=size // 2, bias=False)
        return nn.BatchNorm2d(channels), nn.ReLU(inplace=True), convolution

    channels = 16
    modules = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
    for block in range(3):
        if block:
            modules += [*unit(channels, channels, 1), nn.AvgPool2d(2)]
        for _ in range(12):
            modules.append(DenseLayer(*unit(channels, 12, 3)))
            channels += 12
    modules += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*modules, nn.Linear(channels, classes))


def torch_images(batch_size, image_size):
    """Return images (batch_size, 3, image_size, image_size), 0..1, in channels_last."""
    import torch

    images = torch.from_numpy(random_images(batch_size, image_size) / 255).permute(0, 3, 1, 2)
    return images.contiguous(memory_format=torch.channels_last)


def torch_training_step(model, image_size, batch_size, optimizer, heads=False):
    """Return a training step of a network in torch: "adam", or "sgd" with momentum; heads have the weight 0.3."""
    import torch
    from torch.nn.functional import cross_entropy

    network = torch_network(model, 10, heads).train().to(memory_format=torch.channels_last)
    images, labels = torch_images(batch_size, image_size), torch.arange(batch_size) % 10
    update = {
        "adam": lambda weights: torch.optim.Adam(weights, lr=1e-3, eps=1e-7),
        "sgd": lambda weights: torch.optim.SGD(weights, lr=0.01, momentum=0.9),
    }[optimizer](network.parameters())

    def step():
        update.zero_grad()
        main, *others = outputs if isinstance(outputs := network(images), tuple) else (outputs,)
        loss = cross_entropy(main, labels) + sum(0.3 * cross_entropy(other, labels) for other in others)
        loss.backward()
        update.step()
        return loss.item()

    return step


def torch_deformable(size, channels, batch_size, backward):
    """Return the layer of `training.benchmarks.ours.deformable` with torchvision's deform_conv2d."""
    import torch
    from torch import nn
    from torchvision.ops import deform_conv2d

    maps = torch.randn(batch_size, channels, size, size, requires_grad=backward)
    kernel = nn.Conv2d(channels, channels, 3, padding=1)
    offsets, mask = nn.Conv2d(channels, 18, 3, padding=1), nn.Conv2d(channels, 9, 3, padding=1)
    nn.init.normal_(offsets.weight, 0, (9 * channels) ** -0.5), nn.init.zeros_(mask.weight)
    inputs = [maps, *(weight for layer in (kernel, offsets, mask) for weight in layer.parameters())]

    def step():
        with torch.set_grad_enabled(backward):
            modulation = 2 * torch.sigmoid(mask(maps))
            result = deform_conv2d(maps, offsets(maps), kernel.weight, kernel.bias, padding=1, mask=modulation)
            return torch.autograd.grad(result.sum(), inputs) if backward else result

    return step


def torch_input_batches(transform, files, batches, batch_size=32, image_size=224, workers=2):
    """Return a step of so many batches of torchvision's v2 transforms in a DataLoader with worker processes.

    Args:
        transform: evaluation, crop, randaugment or trivialaugment; the last two come after a crop and a flip.
        files: JPEG files, which are repeated.
        batches: Batches per step.
        batch_size: Images per batch.
        image_size: Height and width of the images in pixels.
        workers: Number of worker processes.
    """
    from torch.utils.data import DataLoader
    from torchvision.transforms import v2

    crop = [v2.RandomResizedCrop(image_size, antialias=True), v2.RandomHorizontalFlip()]
    chosen = {
        "evaluation": [v2.Resize(image_size, antialias=True), v2.CenterCrop(image_size)],
        "crop": crop,
        "randaugment": [*crop, v2.RandAugment()],
        "trivialaugment": [*crop, v2.TrivialAugmentWide()],
    }[transform]
    loader = DataLoader(Photographs(files, v2.Compose(chosen)), batch_size, num_workers=workers)
    return lambda: seconds_of_batches(loader, batches)


class Photographs:
    """A data set for DataLoader: image files, repeated a million times, through a transform."""

    def __init__(self, files, transform):
        self.files, self.transform = files, transform

    def __len__(self):
        return 1_000_000

    def __getitem__(self, number):
        from torchvision.io import ImageReadMode, decode_image

        image = decode_image(self.files[number % len(self.files)], ImageReadMode.RGB)
        return self.transform(image), number % 10


def torch_inference(model, batch_size):
    """Return a forward pass at 224 pixels in torch."""
    import torch

    network = torch_network(model, 1000).eval().to(memory_format=torch.channels_last)
    images = torch_images(batch_size, 224)

    def step():
        with torch.inference_mode():
            return network(images)

    return step


def onnxruntime_inference(model, batch_size):
    """Return a forward pass at 224 pixels of the network of torch in onnxruntime."""
    import onnxruntime
    import torch

    images = torch_images(batch_size, 224).contiguous()
    program = torch.onnx.export(torch_network(model, 1000).eval(), (images,), dynamo=True)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, inputs)


def openvino_inference(model, batch_size):
    """Return a forward pass at 224 pixels of the network of torch in OpenVINO."""
    import openvino

    images = torch_images(batch_size, 224).contiguous()
    network = openvino.convert_model(torch_network(model, 1000).eval(), example_input=images)
    network.reshape(list(images.shape))
    compiled, pixels = openvino.compile_model(network, "CPU", FLOAT32), images.numpy()
    return lambda: compiled(pixels)
