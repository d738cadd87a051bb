"""Images, and moves of their pixels that remain to be made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MovedImages"]


class MovedImages(NamedTuple):
    """Images, and how each is to be flipped and moved by whole pixels."""

    images: NDArray[Any]
    """(N, C, H, W), uint8, as they were."""
    moves: NDArray[Any]
    """(N, 4), int32: (top, down, left, right). Row i of a moved image is row top + down · i of the image,
    column j its column left + right · j; the background is 0."""
