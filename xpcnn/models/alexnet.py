"""AlexNet: the network of 2012, in the form of 2014 that later libraries share."""

from __future__ import annotations

from typing import Any

from xpcnn import nn
from xpcnn.backend import host_generator
from xpcnn.models._images import imagenet_images
from xpcnn.models.catalog import register_model

__all__ = ["alexnet"]

_WIDTH = 64


@register_model("alexnet")
def alexnet(
    classes: int = 1000,
    in_channels: int = 3,
    small_images: bool = False,
    seed: Any = 0,
    *,
    dropout: float = 0.5,
    local_response_norm: bool = False,
    dtype: Any = "float32",
) -> nn.Sequential:
    """Return AlexNet, ending in logits; parameters have torchvision's names, shapes and order.

    This is the one-tower network of 2014, with 64-192-384-256-256 filters. The two towers of 2012 had
    96-256-384-384-256 filters between them, and three of their layers were connected within a tower only.

    Parameters
    ----------
    classes, in_channels : int
    small_images : bool
        For images of about 32×32: the first convolution is 3×3 with stride 1, the poolings are padded by 1,
        so that 28 and 32 pixels become 4, and the classifier reads 4×4 pixels instead of 6×6. Without it,
        224×224 is the published size; anything from 63×63 will do.
    seed : int or NumPy generator
        What the initial weights are drawn from: He's, while the paper's had standard deviation 0.01.
    dropout : float
        The fraction of the classifier's inputs, and of its first hidden layer, that is dropped in training.
    local_response_norm : bool
        Whether to normalise across channels behind the first two ReLUs, as in 2012: over 5 channels, with
        k = 2, α = 1e-4 (times the sum of squares) and β = 0.75. It adds no parameters.
    dtype : str

    References
    ----------
    Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural networks", 2012;
    Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.

    Examples
    --------
    >>> model = alexnet(classes=10, small_images=True)
    >>> list(model.parameters())[:3]
    ['features.0.weight', 'features.0.bias', 'features.3.weight']
    """
    options: dict[str, Any] = {"seed": host_generator(seed), "dtype": dtype}
    if small_images:
        conv1 = nn.Conv2d(in_channels, _WIDTH, 3, padding=1, **options)
        smallest, padding, regions = 1, 1, 4
    else:
        conv1 = nn.Conv2d(in_channels, _WIDTH, 11, stride=4, padding=2, **options)
        smallest, padding, regions = 63, 0, 6

    def norm(name: str) -> dict[str, nn.Layer]:
        # PyTorch's alpha, and so ours, is divided by the size. The names leave torchvision's numbers alone.
        return {name: nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)} if local_response_norm else {}

    features: dict[str, nn.Layer] = {
        "0": conv1,
        "1": nn.ReLU(),
        **norm("norm1"),
        "2": nn.MaxPool2d(3, 2, padding),
        "3": nn.Conv2d(_WIDTH, 3 * _WIDTH, 5, padding=2, **options),
        "4": nn.ReLU(),
        **norm("norm2"),
        "5": nn.MaxPool2d(3, 2, padding),
        "6": nn.Conv2d(3 * _WIDTH, 6 * _WIDTH, 3, padding=1, **options),
        "7": nn.ReLU(),
        "8": nn.Conv2d(6 * _WIDTH, 4 * _WIDTH, 3, padding=1, **options),
        "9": nn.ReLU(),
        "10": nn.Conv2d(4 * _WIDTH, 4 * _WIDTH, 3, padding=1, **options),
        "11": nn.ReLU(),
        "12": nn.MaxPool2d(3, 2, padding),
    }
    hidden = 64 * _WIDTH
    return nn.Sequential(
        {"": imagenet_images("alexnet", in_channels, smallest, small_images, dtype)},
        features=nn.Sequential(features),
        avgpool=nn.AdaptiveAvgPool2d(regions),
        flatten=nn.Flatten(),
        classifier=nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(4 * _WIDTH * regions * regions, hidden, **options),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden, **options),
            nn.ReLU(),
            nn.Linear(hidden, classes, **options),
        ),
    )
