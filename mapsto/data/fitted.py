"""Images of one data set in the shape of another's, so that a learner meets what it was not trained on."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mapsto.data.labelled import Labelled
from mapsto.errors import DataError

_LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as Pillow's "L"
_CHUNK = 4096  # images at a time


def fitted(data: Labelled, shape: tuple[int, ...]) -> Labelled:
    """The data set with images of another shape.

    Colours become grey by their luminance, grey becomes three equal channels, and another size is made by a bicubic
    filter that averages where it shrinks (Pillow's BICUBIC), without keeping the aspect ratio. Intensities are kept:
    the data sets of mapsto have bright ink on black, and pictures of your own with dark ink want inverting first.

    Args:
        data: images `[n, channels, height, width]`, of 1 or 3 channels, uint8 or float.
        shape: channels, height and width wanted.

    Returns:
        The same labels and names; x of the same kind of numbers, `[n, *shape]`.

    Raises:
        DataError: one of the two is no shape of grey or colour images.
    """
    own = tuple(data.x.shape[1:])
    if own == tuple(shape):
        return data
    if not (len(own) == len(shape) == 3 and {own[0], shape[0]} <= {1, 3}):
        raise DataError(f"inputs of shape {own} can't be brought to {tuple(shape)}: both must be grey or colour images")
    return data._replace(x=torch.cat([_fit(part, shape) for part in data.x.split(_CHUNK)]))


def _fit(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    channels, *size = shape
    made = x.float()
    if x.shape[1] == 3 and channels == 1:
        made = (made * made.new_tensor(_LUMINANCE)[:, None, None]).sum(1, keepdim=True)
    if list(x.shape[2:]) != size:
        made = interpolate(made, size=size, mode="bicubic", antialias=True)
    if not x.is_floating_point():
        made = made.round_().clamp_(0, 255)
    return made.to(x.dtype).expand(-1, channels, -1, -1).contiguous()
