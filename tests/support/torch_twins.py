"""Which PyTorch module is the twin of which published model."""

from tests.support.model_cases import WIDTHS
from tests.support.torch_inception import GoogLeNet, LeNet5
from tests.support.torch_models import (
    VGG,
    AlexNet,
    DeepConvNet,
    ResNet,
    SimpleConvNet,
    TinyConvNet,
    basic,
    bottleneck,
)

RESNETS = {
    "resnet18": (basic, (2, 2, 2, 2)),
    "resnet34": (basic, (3, 4, 6, 3)),
    "resnet50": (bottleneck, (3, 4, 6, 3)),
    "resnet101": (bottleneck, (3, 4, 23, 3)),
    "resnet152": (bottleneck, (3, 8, 36, 3)),
}
CIFAR_RESNETS = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
VGGS = tuple(f"vgg{depth}{suffix}" for depth in (11, 13, 16, 19) for suffix in ("", "_bn"))
TWINS = ("deep_convnet", "lenet5", "alexnet", *VGGS, "googlenet", *RESNETS, *CIFAR_RESNETS)
"""Those that take any number of classes and channels, and have small_images."""


def twin(name, *, classes=1000, in_channels=3, small_images=False, narrow=False, dropout=0.5, **options):
    """The PyTorch module of a published model; narrowed as `model_cases.tiny` narrows, and without dropout of
    its own choosing."""
    size = (classes, in_channels, small_images)
    if name == "simple_convnet":
        kind = {"filters": 3, "filter_size": 3, "hidden": 5, "stride": 1, "padding": 0, **options}
        return SimpleConvNet(kind.pop("input_shape"), **kind, classes=classes)
    if name == "tiny_convnet":
        return TinyConvNet(options["input_shape"], 3, classes, options.get("bias", False))
    if name == "deep_convnet":
        filters = options.get("filters", (16, 32, 64))
        return DeepConvNet(classes, in_channels, dropout, options.get("batch_norm", False), filters)
    if name == "lenet5":
        return LeNet5(options.get("variant", "tanh"), classes, in_channels)
    if name in CIFAR_RESNETS:
        return ResNet(basic, ((int(name[6:]) - 2) // 6,) * 3, classes, in_channels, True, 16, cifar=True)
    family = "vgg" if name in VGGS else "resnet" if name in RESNETS else name
    width = WIDTHS[family] if narrow else 64
    if name in RESNETS:
        return ResNet(*RESNETS[name], *size, width)
    if name in VGGS:
        return VGG(int(name[3:5]), name.endswith("_bn"), *size, width, dropout)
    if name == "alexnet":
        return AlexNet(*size, width, dropout, options.get("local_response_norm", False))
    return GoogLeNet(*size, width, options.get("aux", False), dropout, dropout)
