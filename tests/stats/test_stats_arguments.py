"""Every query, given what it does not take: the right number, or an error that names the function and the argument."""

import inspect
import re

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose

from taba_core.errors import TabaError, UsageError, WorkError
from taba_core.rng import normal, uniform
from taba_core.stats import (
    PathDistance,
    ReconstructionError,
    RegionError,
    SmallestDistance,
    ValueMean,
    from_arrays,
    query,
    reduce,
    reduce_pairs,
)

IDS = np.arange(3, 21)  # 18 samples: a canonical block, and two samples of the next
SHAPE, STEPS = (3, 8, 8), 4
STATE, PATH, MASK = ("channel", "y", "x"), ("step", "channel", "y", "x"), ("y", "x")
DIMS = {
    **dict.fromkeys(("x_t", "eps_t", "eps_hat"), PATH),
    "region": MASK,
    **dict.fromkeys(("residual", "fallback"), ("step",)),
    "distance": ("weight",),
    **dict.fromkeys(("features", "real", "generated"), ("feature",)),
    "probability": ("class",),
    **dict.fromkeys(("values", "evaluations"), ()),
}
SIZES = dict(zip(PATH, (STEPS, *SHAPE), strict=True)) | {"weight": 5, "feature": 6, "class": 4}
# Queries of all entries of a sample, whatever their dimensions are.
ANY_DIMS = {
    "moments",
    "global_kl",
    "entry_kl",
    "triangle",
    "angle_histogram",
    "reconstruction_error",
    "top_examples",
    "value_range",
    "feature_moments",
    "frechet_distance",
    "feature_alignment",
    "cosine_similarity",
}
OF_FEATURES = {"feature_alignment", "cosine_similarity"}
OPTIONS = {
    "patch_correlation": {"patch_size": 4, "top_k": 5},
    "png_bits": {"min_pixels": 4},
    "feature_alignment": {"dims": 2},
    "quantiles": {"levels": (0.5,)},
}
FUNCTIONS = [name for name in query.__all__ if name not in ("Options", "evaluate")]


def arguments_of(name):
    if name == "top_examples":
        return ("image", "reconstruction")
    parameters = inspect.signature(getattr(query, name)).parameters.values()
    return tuple(p.name for p in parameters if "DataArray" in str(p.annotation))


def optional(name, argument):
    parameters = inspect.signature(getattr(query, name)).parameters
    return argument in parameters and parameters[argument].default is None


def clean(name):
    out = {}
    for argument in arguments_of(name):
        dims = ("feature",) if name in OF_FEATURES else DIMS.get(argument, STATE)
        shape = tuple(SIZES[dim] for dim in dims)
        values = normal(IDS, shape, seed=0, stream=argument)
        if argument == "region":
            values = (values > 0).astype(np.uint8)
        if argument == "fallback":
            values = (values > 1).astype(np.uint8)
        if argument == "probability":
            values = uniform(IDS, shape, seed=0, stream=argument)
            values = values / values.sum(axis=1, keepdims=True)
        coords = {"sample": IDS} | ({"step": np.arange(1, STEPS + 1)} if "step" in dims else {})
        out[argument] = xr.DataArray(values, dims=("sample", *dims), coords=coords)
    return out


def call(name, arrays):
    options = OPTIONS.get(name, {}) | {"num_replicates": 2}
    if name == "top_examples":
        return query.top_examples(ReconstructionError(), "mae", 3, options={"num_replicates": 2}, **arrays)
    return getattr(query, name)(**arrays, **options)


def numbers(found):
    return {k: v.values for k, v in found.compute().items() if not k.endswith(("_low", "_high"))}


def plain(name, argument, array):
    """The same numbers as a clean argument: by id, axes in order, float64; on one axis where all count."""
    array = array.sortby("sample") if "sample" in array.coords else array
    dims = ("feature",) if name in OF_FEATURES else DIMS.get(argument, STATE)
    known = [dim for dim in ("sample", *dims) if dim in array.dims]
    array = array.transpose(*known, ...)
    values = array.values if array.dtype == np.uint8 else array.values.astype(np.float64)
    if name in ANY_DIMS:
        return xr.DataArray(
            values.reshape(len(values), -1),
            dims=("sample", "entry"),
            coords={"sample": array["sample"].values},
        )
    return xr.DataArray(values, dims=("sample", *dims), coords={"sample": array["sample"].values})


def outcome(name, arrays, arguments):
    """Whether the numbers came, and were right; else the error was one that names function and argument."""
    try:
        found = numbers(call(name, arrays))
    except TabaError as error:
        text = str(error)
        assert isinstance(error, (UsageError, WorkError))
        assert isinstance(error, WorkError) or text.startswith(f"{name}: "), text
        assert any(re.search(rf"\b{argument}\b", text.removeprefix(name)) for argument in arguments), text
        assert not re.search("broadcast|operand|Traceback|cannot reshape|not aligned", text), text
        return "refused"
    wanted = numbers(call(name, {key: plain(name, key, array) for key, array in arrays.items()}))
    for key, value in wanted.items():
        assert_allclose(found[key], value, rtol=1e-5, atol=1e-7, err_msg=f"{name}: {key}")
    return "right"


def last_dim(array):
    return array.dims[-1]


def with_nan(array):
    array = array.astype(np.float64).copy()
    array.values.reshape(len(IDS), -1)[4, 0] = np.nan
    return array


def shuffled(array):
    return array.isel(sample=np.random.Generator(np.random.PCG64(0)).permutation(len(IDS)))


# Fault -> the argument with it; None where it cannot have it.
FAULTS = {
    "permuted dimensions": lambda a: a.transpose(*a.dims[::-1]),
    "a dropped dimension": lambda a: a.isel({last_dim(a): 0}),
    "no sample": lambda a: a.isel(sample=0),
    "an extra dimension": lambda a: a.expand_dims(extra=2).transpose(*a.dims, "extra"),
    "a renamed dimension": lambda a: a.rename({last_dim(a): "z"}),
    "fewer samples": lambda a: a.isel(sample=slice(0, 10)),
    "other ids": lambda a: a.assign_coords(sample=IDS + 1),
    "shuffled samples": shuffled,
    "repeated samples": lambda a: a.isel(sample=[0, 0, *range(2, len(IDS))]),
    "ids of another type": lambda a: a.assign_coords(sample=IDS + 0.5),
    "no ids": lambda a: a.drop_vars("sample"),
    "integers": lambda a: (100 * a).astype(np.int64),
    "complex numbers": lambda a: a.astype(np.complex128),
    "texts": lambda a: a.astype(str),
    "a value that is no number": with_nan,
    "no samples": lambda a: a.isel(sample=[]),
    "an empty dimension": lambda a: a.isel({last_dim(a): []}) if a.ndim > 1 else None,
    "a shorter dimension": lambda a: a.isel({last_dim(a): slice(0, 3)}) if a.ndim > 1 else None,
    "steps backwards": lambda a: a.isel(step=slice(None, None, -1)) if "step" in a.dims else None,
    "other steps": lambda a: a.assign_coords(step=a.step + 1) if "step" in a.dims else None,
    "a dataset": lambda a: a.to_dataset(name="something"),
    "a node of a tree": lambda a: xr.DataTree(a.to_dataset(name="something")),
    "a NumPy array": lambda a: a.values,
    "a list": lambda a: a.values.tolist(),
    "a number": lambda a: 1.0,
    "nothing": lambda a: None,
}
# What must never give a number, whatever the query.
NEVER = {
    "no sample",
    "repeated samples",
    "ids of another type",
    "complex numbers",
    "texts",
    "a value that is no number",
    "no samples",
    "an empty dimension",
    "steps backwards",
    "a dataset",
    "a node of a tree",
    "a NumPy array",
    "a list",
    "a number",
    "nothing",
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_clean_arguments_give_numbers(name):
    assert outcome(name, clean(name), ()) == "right"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_fault_in_an_argument_is_named_or_changes_no_number(name, fault):
    several = len(arguments_of(name)) > 1
    for argument in arguments_of(name):
        arrays = clean(name)
        arrays[argument] = faulty = FAULTS[fault](arrays[argument])
        if faulty is None and (fault != "nothing" or optional(name, argument)):
            continue
        answer = outcome(name, arrays, (argument,))
        if fault in NEVER:
            assert answer == "refused"
        if fault == "permuted dimensions":
            assert answer == "right"
        if several and fault in ("fewer samples", "other ids", "shuffled samples", "no ids", "other steps"):
            # Steps are compared with those of another argument that has them.
            with_steps = [a for a in arguments_of(name) if "step" in clean(name)[a].dims]
            assert answer == "refused" or (fault == "other steps" and len(with_steps) == 1)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if len(arguments_of(n)) > 1])
def test_swapped_arguments_are_seen_where_their_dimensions_differ(name):
    arrays = clean(name)
    for a in arrays:
        for b in arrays:
            if arrays[a].dims != arrays[b].dims:
                swapped = arrays | {a: arrays[b], b: arrays[a]}
                assert outcome(name, swapped, (a, b)) == "refused"


def test_steps_backwards_in_all_arguments_are_refused():
    arrays = {k: FAULTS["steps backwards"](a) if k != "region" else a for k, a in clean("step_error").items()}
    with pytest.raises(UsageError, match=r"step of eps_t runs from 4 to 1 .*eps_t\.sortby\(\"step\"\)"):
        call("step_error", arrays)


def test_the_message_says_what_was_wanted_what_came_and_what_to_do():
    noise, latent, x_t, image = clean("path_distance").values()
    with pytest.raises(UsageError) as refused:
        query.path_distance(x_t, noise, latent, image)
    assert str(refused.value) == (
        "path_distance: noise has the dimensions (sample: 18, step: 4, channel: 3, y: 8, x: 8) and entries of type "
        "float32; it takes a state or an image with dimensions (sample, channel, y, x). x_t has these dimensions: are "
        "the arguments in another order? Pass them by name, as in noise=..., x_t=.... Select one entry of step, as in "
        "noise.isel(step=0)."
    )


def test_dimensions_of_two_arrays_of_any_names_are_matched_by_name():
    values = normal(IDS, (4, 4), seed=0, stream="a")
    a = xr.DataArray(values, dims=("sample", "u", "v"))
    found = query.reconstruction_error(a, a.transpose("sample", "v", "u"), num_replicates=2)
    assert float(found.mae) == 0.0  # by position it would be the distance of every matrix to its transpose


def test_decoded_images_have_the_dimensions_of_pictures():
    arrays = clean("png_bits")
    decoded = arrays["image"].rename(channel="rgb", y="pixel_y", x="pixel_x")
    for key, value in numbers(call("png_bits", arrays)).items():
        assert_allclose(numbers(call("png_bits", arrays | {"image": decoded}))[key], value)


def test_evaluate_names_what_it_lacks_and_what_it_does_not_know():
    x = clean("moments")["x"]
    with pytest.raises(UsageError, match=r"^value_mean: .* score is missing\. Pass score=\.\.\.\.$"):
        query.evaluate(ValueMean("score"), {})
    with pytest.raises(UsageError, match=r"y is not one of them"):
        query.evaluate(ReconstructionError("a", "b"), {"a": x, "b": x, "y": x})
    with pytest.raises(UsageError, match="unknown option 'levels': did you mean level"):
        query.moments(x, levels=0.9)


# ---------------------------------------------------------------- arrays without names, through `reduce`

NUMPY_FAULTS = {
    "an axis too few": (lambda a: a[..., 0], "has shape"),
    "an axis too many": (lambda a: a[..., None], "has shape"),
    "a shorter axis": (lambda a: a[..., :3], "they are compared entry by entry"),
    "an empty axis": (lambda a: a[..., :0], "is empty after the sample|compared entry by entry"),
    "integers": (lambda a: a.astype(np.int64), "entries of type int64"),
    "complex numbers": (lambda a: a.astype(complex), "entries of type complex128"),
}


@pytest.mark.parametrize("fault", NUMPY_FAULTS)
@pytest.mark.parametrize("statistic", [RegionError(), PathDistance()], ids=lambda s: type(s).__name__)
def test_arrays_without_names_are_checked_by_their_shapes_and_types(statistic, fault):
    shapes = {"noise": SHAPE, "latent": SHAPE, "image": SHAPE, "x_t": (STEPS, *SHAPE), "region": SHAPE[1:]}
    change, text = NUMPY_FAULTS[fault]
    for name in statistic.variables:
        if name == "region" and fault == "integers":
            continue
        data = {key: normal(IDS, shape, seed=0, stream=key) for key, shape in shapes.items()}
        data["region"] = data["region"] > 0
        data[name] = change(data[name])
        with pytest.raises(UsageError, match=rf"^{type(statistic).__name__}: .*\b{name}\b.*({text})"):
            reduce(from_arrays(data), len(IDS), {"s": statistic}, scheduler="sync")


def test_pairs_are_checked_like_samples():
    data = {"noise": np.zeros((4, 3)), "image": np.zeros((4, 2))}
    with pytest.raises(UsageError, match=r"SmallestDistance: image has shape \(2,\) .* noise has \(3,\)"):
        reduce_pairs(from_arrays(data), 4, {"s": SmallestDistance()}, scheduler="sync")


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"score": [1.0, 2.0]}, r"score is of type list.*numpy\.asarray\(score\)"),
        ({"score": None}, "score is of type NoneType"),
        ({"score": np.array(1.0)}, "score is a single number"),
        ({"score": xr.DataArray(np.zeros((3, 4)), dims=("y", "sample"))}, "the first must be sample"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, r"different numbers of samples \(a 3, b 4\)"),
    ],
)
def test_from_arrays_takes_arrays_of_the_same_samples(arrays, text):
    with pytest.raises(UsageError, match=text):
        from_arrays(arrays)
