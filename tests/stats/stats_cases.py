"""Small data for every statistic, and one instance of each: the laws are tested over all of them."""

import pickle

import numpy as np

from taba_core.rng import normal, uniform
from taba_core.stats import (
    AngleHistogram,
    ChannelPCA,
    CosineSimilarity,
    DifferencePower,
    EntryKL,
    FeatureAlignment,
    FeatureMoments,
    FrechetDistance,
    GlobalKL,
    InceptionScore,
    InterpolationCurve,
    InversionCost,
    LagCorrelation,
    LocalVariance,
    Moments,
    PatchCorrelation,
    PathDistance,
    PngBits,
    PowerSpectrum,
    Quantiles,
    ReconstructionError,
    RegionError,
    RegionLagCorrelation,
    RegionSpectrum,
    StepError,
    StructuralSimilarity,
    TopExamples,
    Triangle,
    ValueMean,
    ValueRange,
)


class Backwards:
    """A mapper that makes its calls from the last to the first, each on copies as another process would have."""

    workers = 3

    def __init__(self):
        self.num_calls = 0

    def map(self, function, arguments):
        for place in reversed(range(len(arguments))):
            self.num_calls += 1
            made, given = pickle.loads(pickle.dumps((function, arguments[place])))
            yield place, pickle.loads(pickle.dumps(made(*given)))


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
    "lag correlation by region": RegionLagCorrelation(),
    "spectrum by region": RegionSpectrum(),
    "inversion cost": InversionCost(),
    "interpolation curve": InterpolationCurve(),
    "step error": StepError(),
    "path distance": PathDistance(),
    "triangle": Triangle(),
    "triangle in the bins of the reference": Triangle(bins="reference"),
    "angle histogram": AngleHistogram(),
    "reconstruction": ReconstructionError(),
    "channel pca": ChannelPCA("image"),
    "local variance": LocalVariance("latent"),
    "power spectrum": PowerSpectrum("image"),
    "difference power": DifferencePower("image", "reconstruction"),
    "structural similarity": StructuralSimilarity(),
    "png bits": PngBits("decoded", min_pixels=8),
    "png bits of the reference": PngBits("rgb", reference=True),
    "feature moments": FeatureMoments(),
    "frechet distance": FrechetDistance(),
    "feature alignment": FeatureAlignment(dims=3),
    "inception score": InceptionScore(),
    "cosine": CosineSimilarity(),
    "value mean": ValueMean("score"),
    "quantiles": Quantiles("score"),
    "value range": ValueRange("image"),
    "top examples": TopExamples(ReconstructionError(), "mae", k=5),
}


def arrays(num_samples=NUM_SAMPLES):
    ids = range(num_samples)

    def draw(name, *lead):
        return normal(ids, (*lead, *SHAPE), seed=0, stream=name)

    def features(name):
        return normal(ids, (5,), seed=0, stream=name)

    levels = uniform(ids, (3, *SHAPE[1:]), seed=0, stream="decoded")
    weights = uniform(ids, (4,), seed=0, stream="classes")
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
        "decoded": (levels * 256).astype(np.uint8),
        "rgb": (2 * levels - 1).astype(np.float32),
        "features_real": features("real"),
        "features": features("real") + 0.5 * features("fake"),
        "probability": weights / weights.sum(axis=1, keepdims=True),
        "score": uniform(ids, (), seed=0, stream="score"),
        "evaluations": 40 + np.floor(20 * uniform(ids, (), seed=0, stream="evaluations")),
        "residual": uniform(ids, (NUM_STEPS,), seed=0, stream="residual") - 0.1,
        "fallback": (uniform(ids, (NUM_STEPS,), seed=0, stream="fallback") < 0.1).astype(np.uint8),
        "distance": uniform(ids, (5,), seed=0, stream="distance"),
    }


def block(data, start, stop):
    return {"sample": np.arange(start, stop), **{name: x[start:stop] for name, x in data.items()}}


def assert_same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        assert a[name].tobytes() == b[name].tobytes(), name
