"""How good samples with classes are, in the features of a small classifier of the real ones."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Samples = tuple[Tensor, Tensor]  # images in [-1, 1], float32 [N, C, H, W]; classes int64 [N]
EPOCHS, BATCH, NEAREST = 6, 100, 3


class Classifier(nn.Module):
    """Two convolutions, 64 features, logits."""

    def __init__(self, channels: int, resolution: int, classes: int):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(channels, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(32 * (resolution // 4) ** 2, 64), nn.ReLU()),
        )
        self.logits = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, classes]."""
        return self.logits(self.features(x))


def of_classes(samples: Samples, train: Samples, held_out: Samples) -> dict[str, float]:
    """Accuracy (all classes, the worst one), Frechet distance, precision and recall; real data of training beside it.

    Accuracy: how many samples the classifier, trained on `train`, takes for their class. The others are distances in
    its features to `held_out`, of as many samples. Sources: M. Heusel et al., GANs Trained by a Two Time-Scale Update
    Rule, NeurIPS 2017; T. Kynkaanniemi et al., Improved Precision and Recall Metric, NeurIPS 2019, k = 3.
    """
    classifier = trained(*train)
    results = _of(classifier, samples, held_out)
    real = _of(classifier, tuple(t[: len(samples[0])] for t in train), held_out)
    accuracy = _of(classifier, held_out, held_out)
    for name, value in {**real, "accuracy": accuracy["accuracy"], "worst_class": accuracy["worst_class"]}.items():
        results[f"real_{name}"] = value
    return results


def trained(images: Tensor, classes: Tensor, seed: int = 0) -> Classifier:
    """A classifier of these images, the same for the same seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        classifier = Classifier(*images.shape[1:3], int(classes.max()) + 1)
        optimizer = torch.optim.Adam(classifier.parameters(), 2e-3)
        for _ in range(EPOCHS * max(1, 4000 // len(images))):
            for chosen in torch.randperm(len(images)).split(BATCH):
                moved = torch.roll(images[chosen], torch.randint(-2, 3, (2,)).tolist(), (2, 3))
                loss = F.cross_entropy(classifier(moved), classes[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return classifier.eval()


@torch.no_grad()
def _of(classifier: Classifier, samples: Samples, real: Samples) -> dict[str, float]:
    images, classes = samples
    right = (classifier(images).argmax(1) == classes).double()
    by_class = [right[classes == c].mean().item() for c in classes.unique()]
    ours, theirs = (classifier.features(x).double() for x in (images, real[0]))
    return {
        "accuracy": sum(by_class) / len(by_class),
        "worst_class": min(by_class),
        "frechet": frechet_distance(ours, theirs),
        "precision": _covered(ours, theirs),
        "recall": _covered(theirs, ours),
    }


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Between the normal distributions that fit features [N, F] and [M, F]."""
    s, t = torch.cov(a.T), torch.cov(b.T)
    roots = torch.linalg.eigvals(s @ t).real.clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + s.trace() + t.trace() - 2 * roots)


def _covered(features: Tensor, by: Tensor) -> float:
    """The share of features that are no further from one of `by` than its third nearest neighbour is."""
    radius = torch.cdist(by, by).kthvalue(NEAREST + 1, 1).values
    return float((torch.cdist(features, by) <= radius).any(1).double().mean())
