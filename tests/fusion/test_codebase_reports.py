"""What the report says of networks in known styles: every row, and nothing else."""

import pytest
from codebases import CODEBASES

import fastgan

UP = "upsample_conv: the large image is never formed"
DOWN = "conv_downsample: what is dropped is never formed"
NORM = "norm_act: normalization and activation in one pass"
BIAS = "bias_act: one pass"
MATRIX = "conv2d: a product of matrices"
FILTER = "upfirdn2d: a filter, in any memory format"
SPECTRAL = "one call for all layers of a network"
PLAIN = "as it is"

EXPECTED = {
    "dcgan generator": [
        ("1", "batch_norm -> relu", NORM, ""),
        ("3", "interpolate -> conv2d", UP, ""),
        ("5", "batch_norm -> leaky_relu", NORM, ""),
        ("7", "interpolate", FILTER, ""),
        ("10", "batch_norm -> selu", NORM, ""),
    ],
    "sngan generator": [
        ("block2.b1", "batch_norm -> relu", NORM, ""),
        ("block2", "interpolate -> conv2d", UP, ""),
        ("block2.b2", "batch_norm -> relu", NORM, ""),
        ("block2", "interpolate -> conv2d", UP, ""),
        ("block3.b1", "batch_norm -> relu", NORM, ""),
        ("block3", "interpolate", FILTER, ""),
        ("block3.b2", "batch_norm -> relu", NORM, ""),
        ("block3", "interpolate -> conv2d", UP, ""),
        ("b4", "batch_norm -> relu", NORM, ""),
    ],
    "biggan critic": [
        ("blocks.0.conv2", "conv2d -> avg_pool2d", DOWN, ""),
        ("blocks.0.downsample", "avg_pool2d", FILTER, ""),
        ("blocks.0.conv_sc", "conv2d", MATRIX, ""),
        *((f"blocks.1.{name}", "conv2d", MATRIX, "") for name in ("theta", "phi", "g", "o")),
        ("blocks.2.conv2", "conv2d -> avg_pool2d", DOWN, ""),
        ("blocks.2.conv_sc", "conv2d -> avg_pool2d", DOWN, ""),
        ("blocks.3.conv_sc", "conv2d", MATRIX, ""),
    ],
    "style generator": [
        ("", "leaky_relu -> mul", BIAS, ""),
        ("", "leaky_relu -> mul", BIAS, ""),
        ("layers.0", "instance_norm", PLAIN, "the chain that it begins is not completed"),
        ("layers.0", "leaky_relu -> mul -> clamp", BIAS, ""),
        ("rgb.0", "conv2d", MATRIX, ""),
        ("layers.1", "instance_norm", PLAIN, "the chain that it begins is not completed"),
        ("layers.1", "interpolate -> conv2d", UP, ""),
        ("layers.1", "leaky_relu -> mul -> clamp", BIAS, ""),
        ("", "interpolate", FILTER, ""),
        ("rgb.1", "conv2d", MATRIX, ""),
        ("layers.2", "instance_norm", PLAIN, "the chain that it begins is not completed"),
        ("layers.2", "interpolate -> conv2d", UP, ""),
        ("layers.2", "leaky_relu -> mul -> clamp", BIAS, ""),
        ("", "interpolate", FILTER, ""),
        ("rgb.2", "conv2d", MATRIX, ""),
    ],
    "audio critic": [("0", "conv1d -> avg_pool1d", DOWN, ""), ("3", "conv1d -> avg_pool1d", DOWN, "")],
    "cyclegan generator": [
        ("2", "instance_norm -> relu", NORM, ""),
        ("5", "instance_norm -> relu", NORM, ""),
        ("7.block.2", "instance_norm -> relu", NORM, ""),
        ("7.block.6", "instance_norm", PLAIN, "add is not with one value for each channel"),
        ("8", "interpolate -> conv2d", UP, ""),
        ("10", "instance_norm -> relu", NORM, ""),
    ],
}


def accelerated(name, ops="all"):
    net = CODEBASES[name].network()
    report = fastgan.accelerate(net, ops=ops)
    net(*CODEBASES[name].inputs())
    return report


def rows(report):
    return [
        tuple(row[key] for key in ("path", "found", "runs", "reason"))
        for row in report.to_dict()["networks"][0]["rows"]
    ]


@pytest.mark.parametrize("name", EXPECTED)
def test_rows(name):
    report = accelerated(name)
    assert [row for row in rows(report) if "spectral norm" not in row[1]] == EXPECTED[name]


def test_rows_of_spectral_norm():
    (*_, head) = [row for row in rows(accelerated("sngan critic")) if "spectral norm" in row[1]]
    assert head == ("l3.weight", "spectral norm [1, 6] (torch parametrization)", SPECTRAL, "")


def test_ops_that_were_not_asked_for():
    assert rows(accelerated("dcgan generator", ["upsample_conv"])) == [
        row for row in EXPECTED["dcgan generator"] if row[2] == UP
    ]


def test_what_does_not_pay(monkeypatch):
    """Networks as small as these, by the rule: what was recognized, and why it is left alone."""
    monkeypatch.undo()
    (row, *_) = rows(accelerated("wgan-gp critic"))
    reason = "fastest on a CPU for 32 pixels (of the smaller batch) and 12 pairs of channels, with gradients"
    assert row == ("0", "conv2d -> avg_pool2d", PLAIN, reason)


def test_table():
    report = accelerated("audio critic")
    assert str(report).splitlines() == [
        "fastgan.accelerate: Sequential",
        "  module  found                 runs now",
        f"  0       conv1d -> avg_pool1d  {DOWN}",
        f"  3       conv1d -> avg_pool1d  {DOWN}",
    ]
    assert report.to_dict()["ops"] == list(report.ops)
    assert report.to_dict()["networks"][0]["forwards"] == 1


def test_table_before_the_first_forward():
    report = fastgan.accelerate(CODEBASES["audio critic"].network())
    assert "its first forward will show which calls can be fused" in str(report)


def test_another_kind_of_forward():
    """Evaluation has other chains only where something else happens there."""
    net = CODEBASES["dcgan generator"].network()
    report = fastgan.accelerate(net)
    net(*CODEBASES["dcgan generator"].inputs())
    net.eval()(*CODEBASES["dcgan generator"].inputs())
    assert report.forwards == [2]
    assert rows(report) == EXPECTED["dcgan generator"]
