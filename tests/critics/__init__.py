"""A zoo of small critics, in the styles that people write them in: what gradient penalties are tested on.

Import it as `from critics import ZOO`. Each entry's critic takes images [N, *shape] and `args(N)`, runs in float32 and
float64, in the mode that it was built in (do not call `train()` or `eval()`), and may draw from torch's generator.
"""

from critics import either, refused, spellings
from critics.architectures import sngan_grouped, sngan_hooks, sngan_parametrizations
from critics.zoo import CLASSES, ZOO, Call, Entry, conv, labels, stem_and_head

__all__ = [
    "CLASSES",
    "ZOO",
    "Call",
    "Entry",
    "conv",
    "either",
    "labels",
    "refused",
    "sngan_grouped",
    "sngan_hooks",
    "sngan_parametrizations",
    "spellings",
    "stem_and_head",
]
