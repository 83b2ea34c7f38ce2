"""Cases of spectral norm: the weights and sigmas are one tensor; u and v carry no gradient."""

from math import prod

import torch
import torch.nn.functional as F

from contract.channels import scale_of
from contract.compare import Case
from contract.draw import Draw
from fastgan import functional


def _shapes(d: Draw) -> list[list[int]]:
    return [d.each(d.integer(2, 4), [1, 2, 3, 5, 8]) for _ in range(d.integer(1, 3))]


def spectral_norm(d: Draw, dtype: torch.dtype) -> Case:
    """Weights whose u and v have nearly converged: else the iteration is what makes roundings larger."""
    order, iterations = d.settled("order", d.one_of, ["u_first", "v_first"]), d.integer(1, 2)
    training = d.settled("training", d.chance, 0.7)
    inputs, us, vs, shapes = {}, [], [], []
    for i, shape in enumerate(d.settled("shape", _shapes, d)):
        laid = d.laid(shape, dtype, scale_of(d, dtype))
        inputs[f"weight_{i}"] = laid
        w = laid.view(laid.base).double().flatten(1)
        u, v = F.normalize(d.normal([shape[0]]), dim=0), F.normalize(d.normal([prod(shape[1:])]), dim=0)
        for _ in range(20):
            u = F.normalize(w @ v, dim=0)
            v = F.normalize(w.T @ u, dim=0)
        us.append(u.to(dtype)), vs.append(v.to(dtype)), shapes.append(list(shape))

    def ours(**weights):
        options = {"n_power_iterations": iterations, "training": training, "order": order}
        device = weights["weight_0"].device
        out = functional.spectral_norm(
            list(weights.values()), [u.to(device) for u in us], [v.to(device) for v in vs], **options
        )
        return torch.cat([*(w.flatten() for w in out.weights), out.sigmas.to(dtype)]), *out.us, *out.vs

    def plain(noise, **weights):
        normalized, sigmas, new_us, new_vs = [], [], [], []
        for weight, u, v in zip(weights.values(), us, vs, strict=True):
            w, u, v = weight.flatten(1), u.to(weight.dtype), v.to(weight.dtype)
            with torch.no_grad():
                for step in range(2 * iterations if training else 0):
                    if (step % 2 == 0) == (order == "u_first"):
                        u = F.normalize(w @ v, dim=0, eps=1e-12)
                    else:
                        v = F.normalize(w.T @ u, dim=0, eps=1e-12)
            # The backward gets u and v as they are kept.
            sigma, kept = torch.dot(u, w @ v), torch.dot(noise(u), w @ noise(v))
            sigma = sigma.detach() + kept - kept.detach()
            normalized.append((weight / sigma).flatten()), sigmas.append(sigma[None])
            new_us.append(u), new_vs.append(v)
        return torch.cat([*normalized, *sigmas]), *new_us, *new_vs

    facts = f"{shapes} {order} {iterations} training={training}"
    return Case("spectral_norm", ours, plain, inputs, dtype, facts=facts)
