"""What the tests of the ops on a batch of samples share: shapes, layouts, and how exact a result has to be."""

import torch

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# For a thread, some lanes, a warp, a block, several blocks; of packets and not; no dimension but the first; empty.
SHAPES = [(5,), (7, 1), (70, 3), (9, 2, 3, 3), (5, 16, 7), (3, 1000), (2, 1025), (3, 3, 37, 37), (2, 4, 64, 64)]
SHAPES += [(1, 20000), (0, 3), (4, 0), (0,)]


def draw(shape, dtype=torch.float64, device="cpu", seed=0):
    """Random numbers of which a dtype keeps what it can."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)


def layouts(x):
    """Name -> a tensor [N, C, H, W] with the values of x in another layout."""
    wide = x.new_zeros(x.shape[0], 2 * x.shape[1], x.shape[2], 2 * x.shape[3])
    wide[:, ::2, :, ::2] = x
    flat = x.new_zeros(x.numel() + 1)
    flat[1:] = x.flatten()
    return {
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "permuted": x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        "batch_inside": x.transpose(0, 1).contiguous().transpose(0, 1),
        "sliced": wide[:, ::2, :, ::2],
        "misaligned": flat[1:].view_as(x),
        "expanded": x[:, :1].expand_as(x),
    }


LAYOUTS = ["channels_last", "permuted", "batch_inside", "sliced", "misaligned", "expanded"]
KEPT = ["channels_last", "permuted"]  # computed as they lie


def assert_as_exact(ours, torchs, truth, n=1):
    """err(ours) <= 2 err(torch) + one rounding; in float64, beside which there is no truth, a bound by the size n."""
    assert ours.shape == truth.shape
    assert ours.dtype == torchs.dtype

    def error(value):
        return (value.double().cpu() - truth).norm().item()

    eps, size = torch.finfo(ours.dtype).eps, truth.norm().item()
    bound = 4 * n**0.5 * eps * size if ours.dtype == torch.float64 else 2 * error(torchs) + eps * size
    assert error(ours) <= bound, (ours.dtype, truth.shape)
