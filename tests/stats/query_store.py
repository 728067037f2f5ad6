"""A tiny store with every kind of artifact: 40 samples of 3x16x16 in shards of 16, five steps, three classes."""

import numpy as np
import xarray as xr

import taba_core
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.layout import Extent
from taba_core.artifacts.reconstruction import Reconstruction
from taba_core.artifacts.regions import PlainRegions
from taba_core.artifacts.self_interpolation import SelfInterpolation
from taba_core.artifacts.step_predictions import StepPredictions
from taba_core.model_spec import ModelSpec
from taba_core.rng import normal, uniform
from taba_core.store import Store

SHAPE, STEPS, NUM_SAMPLES = (3, 16, 16), 5, 40


def arrays(ids):
    def draw(name, *lead):
        return normal(ids, (*lead, *SHAPE), seed=0, stream=name)

    noise, eps = draw("noise"), draw("eps", STEPS)
    image = np.clip(0.4 * np.cumsum(draw("image"), axis=3), -1, 1).astype(np.float32)
    plain = uniform(ids, SHAPE[1:], seed=0, stream="region") < 0.4
    return {
        "noise": noise,
        "image": image,
        "class_id": (np.asarray(ids) * 7 % 3).astype(np.int32),
        "x_t": np.stack([image + (noise - image) * t / STEPS for t in range(1, STEPS + 1)], axis=1),
        "eps_t": eps,
        "latent": (0.8 * noise + 0.4 * image).astype(np.float32),
        "reconstruction": image + 0.05 * draw("error"),
        "eps_hat": eps + 0.1 * draw("hat", STEPS),
        "region": plain.astype(np.uint8),
        "evaluations": np.full(len(noise), float(STEPS)),
        "residual": np.abs(noise).mean(axis=(2, 3)).repeat(2, axis=1)[:, :STEPS],
        "fallback": np.zeros((len(noise), STEPS), dtype=np.uint8),
        "distance": np.abs(noise).mean(axis=(2, 3)).astype(np.float64) * [0.0, 1.0, 0.5],
    }


def make_store(path, num_samples=NUM_SAMPLES):
    """The store at `path`, written shard by shard."""
    generation = Generation(
        model=ModelSpec(name="gaussian"),
        batch_size=16,
        num_inference_steps=STEPS,
        seed=0,
    )
    inversion = Inversion(source=generation, num_inference_steps=STEPS)
    artifacts = {
        generation: ("noise", "image", "class_id", "x_t", "eps_t"),
        inversion: ("latent", "evaluations", "residual", "fallback"),
        SelfInterpolation(source=inversion, num_weights=3): ("distance",),
        Reconstruction(source=inversion): ("reconstruction",),
        StepPredictions(source=generation): ("eps_hat",),
        PlainRegions(source=generation): ("region",),
    }
    coords = {"timestep": np.arange(STEPS) * 10, "alpha_bar": np.linspace(0.9, 0.1, STEPS)}
    store = Store.open(path, mode="a")
    for artifact, names in artifacts.items():
        per_step = artifact.kind in ("generation", "inversion", "step-predictions")
        group = store.ensure(artifact, names, Extent(num_samples, 16), SHAPE, coords if per_step else None)
        for shard in range(group.num_shards):
            values = arrays(range(*group.shard_range(shard)))
            group.record(group.write_shard(shard, {name: values[name] for name in names}))
    return store


def names_of_examples(path):
    """What the examples in the docstrings call their inputs."""
    tree = taba_core.open_store(path)
    ids = np.arange(NUM_SAMPLES)
    weight = uniform(ids, (4,), seed=0, stream="classes")
    real = normal(ids, (6,), seed=0, stream="real")
    dims = ("sample", "feature")
    return {
        "tree": tree,
        "generation": taba_core.find(tree, kind="generation"),
        "inversion": taba_core.find(tree, kind="inversion"),
        "reconstruction": taba_core.find(tree, kind="reconstruction"),
        "predictions": taba_core.find(tree, kind="step-predictions"),
        "regions": taba_core.find(tree, kind="regions"),
        "interpolation": taba_core.find(tree, kind="self-interpolation"),
        "features": xr.Dataset(
            {
                "of_photos": (dims, real),
                "of_samples": (dims, real + 0.5 * normal(ids, (6,), seed=0, stream="generated")),
                "probability": (("sample", "class"), weight / weight.sum(axis=1, keepdims=True)),
                "score": ("sample", uniform(ids, (), seed=0, stream="score")),
            },
            coords={"sample": ids},
        ),
    }
