"""Operations whose fast form has no second derivative: penalties through them, on every path, or a name and why."""

import threading
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from penalized import assert_same, gradients, hinge, plain
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from critics import Call
from fastgan.intercept import ProcessWide, twice
from fastgan.penalty import R1, R2, WGANGP, efficient_convolutions, path_length_penalty, penalized_loss

MASK = torch.tensor([[True] * 3 + [False] * 2, *[[True] * 5] * 3, [False] + [True] * 4])


def tokens(n=3, dtype=torch.float64, seed=0):
    """[n, 5, 8]."""
    return torch.randn(n, 5, 8, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def with_attention(attend):
    """A critic of [N, 5, 8]; `attend` takes queries, keys and values [N, 2, 5, 4]."""

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        h = x + attend(q, k, v).transpose(1, 2).flatten(2)
        return self.head(F.leaky_relu(h).mean(1))

    return lambda: Call(forward, qkv=nn.Linear(8, 24), head=nn.Linear(8, 1))


def with_module(make, call=lambda module, h: module(h)):
    """A critic of [N, 5, 8] around a module that keeps this shape."""
    return lambda: Call(
        lambda self, x: self.head(call(self.module, self.stem(x)).mean(1)),
        stem=nn.Linear(8, 8), module=make(), head=nn.Linear(8, 1),
    )  # fmt: skip


def sdpa(**options):
    return with_attention(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options))


def multihead(dropout=0.0, **options):
    return with_module(
        lambda: nn.MultiheadAttention(8, 2, dropout, batch_first=True),
        lambda module, h: module(h, h, h, **options)[0],
    )


def encoder(dropout=0.0, **options):
    return with_module(lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout, batch_first=True, **options))


ATTENTION = {
    "sdpa": sdpa(),
    "boolean mask": sdpa(attn_mask=MASK),
    "additive mask": sdpa(attn_mask=torch.linspace(-1, 1, 25, dtype=torch.float64).view(5, 5)),
    "causal": sdpa(is_causal=True),
    "scale": sdpa(scale=0.3),
    "dropout": sdpa(dropout_p=0.4),
    "gqa": with_attention(
        lambda q, k, v: F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True)
    ),
    "aten": with_attention(lambda q, k, v: torch.ops.aten.scaled_dot_product_attention(q, k, v)),
    "aten overload": with_attention(lambda q, k, v: torch.ops.aten.scaled_dot_product_attention.default(q, k, v)),
    "multihead": multihead(),
    "multihead without weights": multihead(need_weights=False),
    "multihead, causal": multihead(need_weights=False, is_causal=True, attn_mask=~torch.ones(5, 5).tril().bool()),
    "multihead, padding": multihead(need_weights=False, key_padding_mask=~MASK[[0, 1, 4]]),
    "multihead, dropout": multihead(need_weights=False, dropout=0.3),
    "encoder": encoder(),
    "encoder, norm first": encoder(norm_first=True, activation="gelu"),
    "encoder, dropout": encoder(dropout=0.2),
    "two encoders": with_module(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 2)
    ),
}  # fmt: skip


def same_start(build, training, dtype=torch.float64):
    torch.manual_seed(0)
    return build().to(dtype).train(training)


def fused_allowed():
    return torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()


@pytest.mark.parametrize("route", ["shared", "alone", "double_backward", "by hand"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("name", ATTENTION)
def test_penalties_through_attention(name, training, route):
    critic, other = (same_start(ATTENTION[name], training) for _ in range(2))
    real, fake = tokens(), tokens(seed=1)
    penalties = [WGANGP(eps=torch.full((3,), 0.25))] if route == "alone" else [R1(2.0), R2(3.0)]
    before = fused_allowed()
    torch.manual_seed(1)
    if route == "by hand":
        with efficient_convolutions():
            plain(critic, real, fake, hinge, penalties)[0].backward()
    else:
        engine = "double_backward" if route == "double_backward" else "auto"
        out = penalized_loss(critic, real, fake, hinge, penalties, engine=engine)
        assert "attention runs in its math form" in out.reason
        out.loss.backward()
    assert fused_allowed() == before
    torch.manual_seed(1)
    with sdpa_kernel(SDPBackend.MATH):
        plain(other, real, fake, hinge, penalties)[0].backward()
    assert_same(gradients([critic]), gradients([other]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_attention_in_lower_precision(dtype):
    critic, other = (same_start(ATTENTION["sdpa"], True, torch.float32) for _ in range(2))
    real, fake = tokens(dtype=torch.float32), tokens(dtype=torch.float32, seed=1)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        penalized_loss(critic, real, fake, hinge, [R1()]).loss.backward()
    with sdpa_kernel(SDPBackend.MATH):
        plain(other, real, fake, hinge, [R1()])[0].backward()
    assert_same(gradients([critic]), gradients([other]), 0.1 if dtype is torch.bfloat16 else None)


@pytest.mark.parametrize("name", ["sdpa", "multihead without weights", "encoder"])
def test_path_length_through_attention(name):
    class Images(nn.Module):
        def __init__(self):
            super().__init__()
            self.critic = ATTENTION[name]()
            self.last = nn.Linear(1, 12)

        def forward(self, z):
            return self.last(self.critic(z.unflatten(1, (5, 8)))).unflatten(1, (3, 2, 2))

    generator, other = (same_start(Images, True) for _ in range(2))
    z, noise = tokens().flatten(1), torch.randn(3, 3, 2, 2, dtype=torch.float64)
    path_length_penalty(generator, z, 0.1, noise=noise)[0].backward()
    with sdpa_kernel(SDPBackend.MATH):
        path_length_penalty(other, z, 0.1, noise=noise)[0].backward()
    assert_same(gradients([generator]), gradients([other]))


class Seen(TorchDispatchMode):
    """The attention kernels that ran."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "flash" in str(function):
            self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_what_is_differentiated_once_stays_fused():
    critic = same_start(ATTENTION["sdpa"], True)
    for penalties, fused in (([R1()], 1), ([R1(), R2()], 0), ([WGANGP()], 2), ([], 2)):
        with Seen() as seen:
            penalized_loss(critic, tokens(), tokens(seed=1), hinge, penalties)
        assert sum("backward" not in name for name in seen.names) == fused


def test_the_choice_of_kernels_survives_an_error():
    def fails(q, k, v):
        F.scaled_dot_product_attention(q, k, v)
        raise ArithmeticError

    before = fused_allowed()
    with pytest.raises(ArithmeticError):
        penalized_loss(same_start(with_attention(fails), True), tokens(), None, None, [R1()])
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        penalized_loss(same_start(ATTENTION["sdpa"], True), tokens(), None, None, [R1()]).loss.backward()
        assert fused_allowed() == (True, False)
    assert fused_allowed() == before


def test_attention_in_a_checkpoint():
    """It is computed again in the backward, where it is not known that the forward ran in another form."""
    critic = same_start(
        with_attention(lambda q, k, v: checkpoint(F.scaled_dot_product_attention, q, k, v, use_reentrant=False)), True
    )
    with pytest.raises(RuntimeError, match=r"a checkpoint .* within torch.nn.attention.sdpa_kernel\(SDPBackend.MATH\)"):
        penalized_loss(critic, tokens(), None, None, [R1()])
    other = same_start(ATTENTION["sdpa"], True)
    with sdpa_kernel(SDPBackend.MATH):
        penalized_loss(critic, tokens(), None, None, [R1()]).loss.backward()
    penalized_loss(other, tokens(), None, None, [R1()]).loss.backward()
    assert_same(gradients([critic]), gradients([other]))


# --- other operations ---


def distances(p):
    return lambda module, h: torch.cdist(h, module.weight.expand(len(h), -1, -1), p=p)


def distances_by_hand(p):
    def call(module, h):
        difference = (h.unsqueeze(2) - module.weight).abs()
        return difference.amax(3) if p == float("inf") else difference.pow(p).sum(3).pow(1 / p)

    return call


def pairs(module, h):
    return F.pdist(h.flatten(1), p=1.0).sum() * module.weight.mean() + h


def pairs_by_hand(module, h):
    x = h.flatten(1)
    return (x[:, None] - x[None]).abs().sum() / 2 * module.weight.mean() + h


REWRITTEN = {
    "hardsigmoid": (nn.Hardsigmoid, lambda m, h: m(h), lambda m, h: F.hardtanh(h + 3, 0, 6) / 6),
    "hardsigmoid in place": (
        lambda: nn.Hardsigmoid(inplace=True), lambda m, h: m(2 * h), lambda m, h: F.hardtanh(2 * h + 3, 0, 6) / 6,
    ),
    "pdist": (lambda: nn.Linear(8, 8), pairs, pairs_by_hand),
}  # fmt: skip
for _p in (1.0, 2.0, 3.0, float("inf")):
    REWRITTEN[f"cdist {_p}"] = (lambda: nn.Linear(8, 8), distances(_p), distances_by_hand(_p))


@pytest.mark.parametrize("engine", ["auto", "double_backward"])
@pytest.mark.parametrize("name", REWRITTEN)
def test_penalties_through_what_is_rewritten(name, engine):
    make, call, by_hand = REWRITTEN[name]
    critic, other = (same_start(with_module(make, f), True) for f in (call, by_hand))
    real, fake = tokens(), tokens(seed=1)
    out = penalized_loss(critic, real, fake, hinge, [R1(), R2()], engine=engine)
    out.loss.backward()
    assert f"{name.split()[0]} runs in several operations" in out.reason
    plain(other, real, fake, hinge, [R1(), R2()])[0].backward()
    assert_same(gradients([critic]), gradients([other]))


@pytest.mark.parametrize("p", [0.5, 1.0, 1.5, 2.0, 4.0, float("inf")])
def test_distances_are_torchs(p):
    a, b = tokens().requires_grad_(), tokens(seed=1)[:, :3].clone().requires_grad_()
    for ours, torchs in ((twice._cdist(a, b, p), torch.cdist(a, b, p)), (twice._pdist(a[0], p), F.pdist(a[0], p))):
        torch.testing.assert_close(ours, torchs)
        weights = torch.rand_like(ours)
        for mine, theirs in zip(
            torch.autograd.grad(ours, (a, b), weights, allow_unused=True, retain_graph=True),
            torch.autograd.grad(torchs, (a, b), weights, allow_unused=True, retain_graph=True),
            strict=True,
        ):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                torch.testing.assert_close(mine, theirs)


def test_a_distance_of_zero_has_finite_derivatives():
    x = tokens().requires_grad_()
    (g,) = torch.autograd.grad(twice._cdist(x, x, 2.0).sum(), x, create_graph=True)
    (gg,) = torch.autograd.grad(g.square().sum(), x)
    assert g.isfinite().all()
    assert gg.isfinite().all()


def bag(self, x):
    index = torch.arange(8).expand(len(x), -1)
    return F.embedding_bag(index, self.stem.weight, per_sample_weights=self.stem(x).mean(1), mode="sum").sum(1)


def margin(self, x):
    return F.multi_margin_loss(self.stem(x).flatten(1), torch.zeros(len(x), dtype=torch.long), reduction="none")


def margins(self, x):
    target = torch.full((len(x), 40), -1)
    target[:, 0] = 1
    return F.multilabel_margin_loss(self.stem(x).flatten(1), target, reduction="none")


def alignment(self, x):
    n = torch.full((len(x),), 5)
    targets = torch.ones(len(x), 3, dtype=torch.long)
    return F.ctc_loss(self.stem(x).log_softmax(2).transpose(0, 1), targets, n, n - 2, reduction="none")


WITHOUT_A_FORM = {
    "_embedding_bag_per_sample_weights_backward": bag,
    "multi_margin_loss_backward": margin,
    "multilabel_margin_loss_backward": margins,
    "_ctc_loss_backward": alignment,
    "_scaled_dot_product_flash_attention_for_cpu_backward": lambda self, x: (
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*[self.stem(x).unsqueeze(1)] * 3)[0].sum((1, 2, 3))
    ),
}


@pytest.mark.parametrize("engine", ["auto", "double_backward"])
@pytest.mark.parametrize("name", WITHOUT_A_FORM)
def test_an_operation_without_a_form_is_named(name, engine):
    critic = same_start(lambda: Call(WITHOUT_A_FORM[name], stem=nn.Linear(8, 8)), True)
    with pytest.raises(RuntimeError, match=rf"torch cannot differentiate the critic twice.*{name}.*Write this layer"):
        penalized_loss(critic, tokens(), tokens(seed=1), hinge, [R1()], engine=engine)


MODULES = {
    **{name: getattr(nn, name) for name in nn.modules.activation.__all__ if name != "MultiheadAttention"},
    **{name: partial(getattr(nn, name), dim=-1) for name in ("Softmax", "Softmin", "LogSoftmax")},
    "Threshold": lambda: nn.Threshold(0.1, 0.2),
    "LSTM": lambda: nn.LSTM(8, 8, batch_first=True),
    "LSTM, projected": lambda: nn.LSTM(8, 9, batch_first=True, proj_size=8),
    "GRU": lambda: nn.GRU(8, 8, batch_first=True),
    "RNN": lambda: nn.RNN(8, 8, batch_first=True),
    "LayerNorm": lambda: nn.LayerNorm(8),
    "RMSNorm": lambda: nn.RMSNorm(8),
    "GroupNorm": lambda: nn.GroupNorm(5, 5),
    "BatchNorm1d": lambda: nn.BatchNorm1d(5),
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(5, affine=True),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(2),
    "CosineSimilarity": lambda: nn.CosineSimilarity(2),
    "Bilinear": lambda: nn.Bilinear(8, 8, 8),
    "LPPool1d": lambda: nn.LPPool1d(2, 2),
}
ARGUMENTS = {"CosineSimilarity": 2, "Bilinear": 2}


def of_every_shape(name):
    def call(module, h):
        y = module(*[h] * ARGUMENTS.get(name, 1))
        y = y[0] if isinstance(y, tuple) else y
        return y.flatten(1)[:, :8].unsqueeze(1)

    return call


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("name", MODULES)
def test_every_activation_and_many_a_layer(name, training):
    """Each either has its second derivative, or one was given to it."""
    critic = same_start(
        lambda: Call(
            lambda self, x: self.head(of_every_shape(name)(self.module, self.stem(x)).mean(1)),
            stem=nn.Linear(8, 8), module=MODULES[name](), head=nn.LazyLinear(1),
        ), training,
    )  # fmt: skip
    with torch.no_grad():
        critic(tokens())
    penalized_loss(critic, tokens(), tokens(seed=1), hinge, [R1(), WGANGP()]).loss.backward()
    assert critic.stem.weight.grad.isfinite().all()


# --- on a GPU ---


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh", "rnn_relu", "grid_sample", "grid_sampler"])
def test_without_cudnn(monkeypatch, name):
    """cuDNN's recurrent layers and its grid_sample have no second derivative."""

    def function(x):
        return torch.backends.cudnn.enabled

    function.__name__ = name
    assert twice.form(function, (tokens(),), {}) is None
    monkeypatch.setattr(twice, "_on_cuda", lambda args, kwargs: True)
    form = twice.form(function, (tokens(),), {})
    assert form.reason.startswith(f"{name} runs without cuDNN")
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = True
    try:
        assert form.run(function, (tokens(),), {}) is False
        assert torch.backends.cudnn.enabled
    finally:
        torch.backends.cudnn.enabled = before


def test_a_setting_of_the_process_is_set_back_by_the_last_thread():
    setting = ["before"]
    context = ProcessWide(lambda: setting[-1], setting.append, "within")
    inside, leave = threading.Barrier(3), [threading.Event() for _ in range(2)]

    def call(i):
        inside.wait(10)
        leave[i].wait(10)

    threads = [threading.Thread(target=context.run, args=(partial(call, i),)) for i in range(2)]
    for thread in threads:
        thread.start()
    inside.wait(10)
    for i, left in ((0, ["before", "within"]), (1, ["before", "within", "before"])):
        leave[i].set()
        threads[i].join()
        assert setting == left


@pytest.mark.parametrize("where", ["before it is set", "once it is set", "in the call"])
def test_a_setting_of_the_process_survives_an_interrupt(where):
    setting = ["before"]

    def write(value):
        if value == "within" and where == "before it is set":
            raise KeyboardInterrupt
        setting.append(value)
        if value == "within" and where == "once it is set":
            raise KeyboardInterrupt

    def call():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ProcessWide(lambda: setting[-1], write, "within").run(call)
    assert setting[-1] == "before"
