"""Small data for every statistic, and one instance of each: the laws are tested over all of them."""

import numpy as np

from taba_core.rng import normal, uniform
from taba_core.stats import (
    AngleHistogram,
    ChannelPCA,
    EntryKL,
    GlobalKL,
    LagCorrelation,
    Moments,
    PatchCorrelation,
    PathDistance,
    ReconstructionError,
    RegionError,
    StepError,
    Triangle,
)

NUM_SAMPLES = 70  # five canonical blocks, the last of 6 samples
SHAPE = (2, 8, 8)
NUM_STEPS = 3

STATISTICS = {
    "patch correlation": PatchCorrelation("noise", patch_size=4, top_k=5),
    "object correlation": PatchCorrelation("latent", patch_size=None, top_k=3),
    "lag correlation": LagCorrelation("latent"),
    "moments": Moments("latent"),
    "global kl": GlobalKL(),
    "entry kl": EntryKL(),
    "entry kl to normal": EntryKL(p=None),
    "region error": RegionError(),
    "step error": StepError(),
    "path distance": PathDistance(),
    "triangle": Triangle(),
    "triangle in the bins of the reference": Triangle(bins="reference"),
    "angle histogram": AngleHistogram(),
    "reconstruction": ReconstructionError(),
    "channel pca": ChannelPCA("image"),
}


def arrays(num_samples=NUM_SAMPLES):
    ids = range(num_samples)

    def draw(name, *lead):
        return normal(ids, (*lead, *SHAPE), seed=0, stream=name)

    noise, image, eps_t = draw("noise"), 0.5 * draw("image"), draw("eps", NUM_STEPS)
    return {
        "noise": noise,
        "image": image,
        "latent": 0.9 * noise + 0.1 * image + 0.2 * draw("bend"),
        "reconstruction": image + 0.1 * draw("error"),
        "region": (uniform(ids, SHAPE[1:], seed=0, stream="region") < 0.3).astype(np.uint8),
        "x_t": np.stack([0.7 * image + 0.3 * noise, 0.3 * image + 0.8 * noise, noise], axis=1),
        "eps_t": eps_t,
        "eps_hat": eps_t + 0.2 * draw("hat", NUM_STEPS),
    }


def block(data, start, stop):
    return {"sample": np.arange(start, stop), **{name: x[start:stop] for name, x in data.items()}}


def assert_same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        assert a[name].tobytes() == b[name].tobytes(), name
