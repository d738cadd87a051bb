"""Pictures of runs, models and data.

Each function returns a matplotlib ``Figure``, and writes it to a PNG, SVG or PDF file if one is named.
matplotlib (``pip install 'xpcnn[plot]'``) is imported when the first is drawn.
"""

from xpcnn.viz.activations import Activation, activations
from xpcnn.viz.curves import plot_curves
from xpcnn.viz.filters import plot_filters, plot_sobel, sobel
from xpcnn.viz.layers import plot_activations, plot_feature_maps, plot_initial_values
from xpcnn.viz.samples import confusion_matrix, plot_augmentations, plot_confusion, plot_mistakes

__all__ = [
    "Activation",
    "activations",
    "confusion_matrix",
    "plot_activations",
    "plot_augmentations",
    "plot_confusion",
    "plot_curves",
    "plot_feature_maps",
    "plot_filters",
    "plot_initial_values",
    "plot_mistakes",
    "plot_sobel",
    "sobel",
]
