"""nn.DataParallel's replicas without a GPU: torch's own `replicate`, with copies where it would broadcast."""

import sys
import threading

import torch
import torch.nn.parallel

# The package has a function of the same name.
MODULE = sys.modules["torch.nn.parallel.replicate"]


def _broadcast(tensors, devices, detach=False):
    """What a replica on the first device gets is the original's memory; parameters are results of their originals."""
    first = [t.detach() if detach else t.view_as(t) for t in tensors]
    others = [[t.detach().clone() if detach else t.clone() for t in tensors] for _ in devices[1:]]
    return [first, *others]


def data_parallel(monkeypatch, model, x, *, devices=2, **kwargs):
    """A forward of nn.DataParallel on so many devices, each replica in a thread of its own."""
    with monkeypatch.context() as patch:
        patch.setattr(MODULE, "_broadcast_coalesced_reshape", _broadcast)
        patch.setattr(MODULE, "_get_device_index", lambda device, optional: device)
        replicas = torch.nn.parallel.replicate(model, list(range(devices)), not torch.is_grad_enabled())
    grad, outputs = torch.is_grad_enabled(), [None] * devices

    def run(i, replica, x):
        with torch.set_grad_enabled(grad):
            try:
                outputs[i] = replica(x, **kwargs)
            except Exception as error:
                outputs[i] = error

    threads = [
        threading.Thread(target=run, args=(i, replica, chunk))
        for i, (replica, chunk) in enumerate(zip(replicas, x.chunk(devices), strict=True))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for output in outputs:
        if isinstance(output, Exception):
            raise output
    return torch.cat(outputs)
