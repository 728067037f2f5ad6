"""Bring your own model: a diffusers pipeline directory, and the card its configuration files amount to. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from taba_core.diffusion.spacing import GridStyle
from taba_core.errors import UsageError
from taba_core.models.cards import Card
from taba_core.models.codec_config import (
    check_codec,
    enlargement,
    latent_channels,
    scaling_factor,
    shift_factor,
)
from taba_core.models.config_fields import check_pipeline_fields
from taba_core.models.corrections import correction
from taba_core.models.flow_patches import FLUX_SIDE, check_patches, flow_fields, flux_channels
from taba_core.models.json_file import read_json
from taba_core.models.model_files import component_files
from taba_core.models.scheduler_config import (
    check_scheduler,
    read_process,
    read_sampler,
    scheduler_path,
    tokens_of,
)
from taba_core.models.weight_files import check_weight_file, safetensors_header

Conditional = Literal["none", "class", "text"]

# Seconds a parameter and state position takes on the paper's GPU; LDM and ADM-64 of Table 7 give 1.5e-15 to 1.9e-15.
_SECONDS_PER_PARAMETER_AND_POSITION = 2e-15
_SHARD_BYTES = 150e6
_KNOWN = "UNet2DModel, UNet2DConditionModel, DiTTransformer2DModel, SD3Transformer2DModel or FluxTransformer2DModel"
_TRANSFORMERS = {
    "SD3Transformer2DModel": "sd3",
    "FluxTransformer2DModel": "flux",
}  # of flows, conditioned by text
# How their pipelines lay the levels of a flow.
_FLOW_STYLES: dict[str, GridStyle] = {"sd3": "sd3-default", "flux": "shifted"}
# Families whose forward replacement noises to the level of the state; the paper's own other families are `matched`.
_EXACT_FORWARD = ("sd", "sdxl", "sd3", "flux")


@dataclass(frozen=True)
class Detected:
    """What a pipeline directory holds.

    Attributes:
      family: name in `families.FAMILIES`.
      conditional: what the denoiser is conditioned on.
      denoiser: folder of the denoiser ("unet" or "transformer").
      codec: folder of the autoencoder, None for pixel models.
      config: the denoiser's configuration.
    """

    family: str
    conditional: Conditional
    denoiser: str
    codec: str | None
    config: Mapping[str, Any]


def detect(directory: Path) -> Detected:
    """Which family of model a pipeline directory holds, from `model_index.json` and the components' `config.json`.

    Raises:
      UsageError: no pipeline directory, or a denoiser no family runs.
    """
    index = _components(directory)
    folder = next((name for name in ("unet", "transformer") if name in index), None)
    if folder is None:
        raise UsageError(
            f"{directory}/model_index.json lists no unet and no transformer; a model needs one ({_KNOWN})."
        )
    config = read_json(directory / folder / "config.json")
    codec = next((name for name in ("vqvae", "vae") if name in index), None)
    kind = str(config.get("_class_name"))
    if kind == "UNet2DModel":
        classes = config.get("num_class_embeds") is not None or config.get("class_embed_type") is not None
        family = "unet" if codec is None else "ldm"
        return Detected(family, "class" if classes else "none", folder, codec, config)
    if kind == "DiTTransformer2DModel" or (kind, config.get("norm_type")) == (
        "Transformer2DModel",
        "ada_norm_zero",
    ):
        return Detected("dit", "class", folder, codec, config)
    if kind == "UNet2DConditionModel":
        family = "if" if codec is None else "sdxl" if "text_encoder_2" in index else "sd"
        return Detected(family, "text", folder, codec, config)
    if kind in _TRANSFORMERS:
        if codec is None:
            raise UsageError(
                f"{directory}/model_index.json lists no vae, and a {kind} works on latents. Fetch the directory again."
            )
        return Detected(_TRANSFORMERS[kind], "text", folder, codec, config)
    raise UsageError(f"{directory}/{folder} is a {kind}; the families that run are {_KNOWN}.")


def card_from_directory(directory: Path) -> Card:
    """The card of a pipeline directory, see `fields_of_directory`.

    Raises:
      UsageError: no such directory or family, or a configuration that is no card; the message names the file.
    """
    try:
        return Card(**fields_of_directory(directory))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{directory}: {first['msg'].removeprefix('Value error, ')}") from None


def fields_of_directory(directory: Path, chosen: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Fields of the card of a pipeline directory: shape and family from its components, process and conventions
    from its scheduler, cost estimated from its size.

    Forward replacement is `matched`, as the paper runs these families (`exact` for Stable Diffusion and FLUX.1).

    Args:
      directory: in the hub's layout.
      chosen: fields of a user's card that extends the directory; choices of the sampler that they state are not
        read from the scheduler's file, which may have made choices that taba does not have. Stable Diffusion 3 and
        FLUX.1 run at several sizes: theirs may be chosen by `sample_shape`.

    Raises:
      UsageError: no such directory or family, or a configuration that taba does not run; the message names the
        file.
    """
    directory = directory.expanduser().resolve()
    found = detect(directory)
    check_pipeline_fields(directory, found.family)
    shape = _chosen_shape(found.family, chosen) or _sample_shape(directory / found.denoiser, found)
    process = read_process(scheduler_path(directory), tokens_of(shape))
    if found.family in _FLOW_STYLES and process.prediction != "velocity":
        raise UsageError(
            f"{scheduler_path(directory)}: a {found.config['_class_name']} is the network of a flow, and the scheduler "
            "is none; it must be FlowMatchEulerDiscreteScheduler. Fetch the directory again, or save it with that one."
        )
    sampler = read_sampler(
        scheduler_path(directory),
        latent=found.codec is not None,
        chosen=chosen,
        flow_style=_FLOW_STYLES.get(found.family, "diffusers-trailing"),
    )
    factor, scaling = _codec_facts(directory, found.codec, shape[0])
    parameters, half = stored_parameters(directory / found.denoiser)
    return {
        "name": directory.name,
        "title": directory.name,
        "family": found.family,
        "domain": "pixel" if found.codec is None else "latent",
        "image_size": shape[1] * factor,
        "sample_shape": shape,
        "value_range": (-1.0, 1.0) if found.codec is None else (-3.0, 3.0),
        "train_set": "unknown",
        "conditional": found.conditional,
        "backbone": "Transformer" if found.denoiser == "transformer" else "U-Net",
        "schedule": process.schedule.model_dump(exclude_none=True),
        "grid": sampler.grid,
        "reference": {
            "network_time": "target",
            "levels": "exact",
            "sampling_x0_rule": sampler.sampling_x0_rule,
            "inversion_x0_rule": sampler.inversion_x0_rule,
            "forward_level": "exact" if found.family in _EXACT_FORWARD else "matched",
        },
        "prediction": process.prediction,
        "scaling_factor": scaling,
        "num_parameters": parameters,
        "precision": "fp16" if half else "fp32",
        "cost": _cost(parameters, shape),
        "weights": {"source": "path", "location": str(directory)},
        "defaults": _defaults(shape),
        **_flow_facts(directory, found),
    }


def check_directory(card: Card, directory: Path) -> None:
    """Refuse a pipeline directory that asks for what taba does not do, or that contradicts the card.

    Reads configuration files only, so it can be asked before anything is planned or loaded.

    Raises:
      UsageError: fields that are not understood, latents or a process other than the card's.
    """
    check_pipeline_fields(directory, card.family)
    check_patches(card, directory)
    check_codec(card, directory)
    check_scheduler(card, directory)


def class_names_of(directory: Path, capacity: int, fallback: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Names of the classes of a class-conditional directory, by id.

    The `id2label` of model_index.json (first synonym of each) if it has one; else `fallback` if it names every
    class; else the numbers. `capacity` is how many ids the network has embeddings for; the ids beyond the named
    ones (the null class of guidance) are never drawn.

    Raises:
      UsageError: id2label names more classes than there are, or skips an id.
    """
    path = directory / "model_index.json"
    labels = read_json(path).get("id2label") if path.is_file() else None
    if labels is None:
        return fallback if len(fallback) == capacity else tuple(str(i) for i in range(capacity))
    if not isinstance(labels, dict) or {str(i) for i in range(len(labels))} != set(labels):
        raise UsageError(f"{path}: id2label must name the classes 0, 1, 2 ... without a gap.")
    if len(labels) > capacity:
        raise UsageError(f"{path}: id2label names {len(labels)} classes, the network knows {capacity}.")
    return tuple(str(labels[str(i)]).split(",")[0].strip() for i in range(len(labels)))


def check_shape(card: Card, folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a denoiser whose channels are not the card's.

    Raises:
      UsageError: in_channels, or out_channels that are neither as many nor twice as many (learned variance).
    """
    channels, inside = card.sample_shape[0], config["in_channels"]
    if not _fitting_output(config):
        raise _unfit_output(folder, config)
    if inside != channels:
        line = f"sample_shape: [{inside}, {card.sample_shape[1]}, {card.sample_shape[2]}]"
        raise UsageError(
            f"{folder}/config.json: in_channels={inside}, out_channels={config.get('out_channels')}; the card of "
            f"{card.name} has states of {channels} channels. {correction(card, folder.parent, line)}."
        )


def stored_parameters(folder: Path) -> tuple[int, bool]:
    """(number of parameters, whether all are stored in 16 bits) of a component, without reading the numbers.

    Of the files that are loaded, whatever lies beside them (see `component_files`): read from the headers of
    safetensors files, estimated from the size of pickles as float32. Raises UsageError for a damaged file.
    """
    files = _weight_files(folder)
    if not all(file.suffix == ".safetensors" for file in files):
        return max(sum(file.stat().st_size for file in files) // 4, 1), False
    count = sum(prod(tensor["shape"]) for file in files for tensor in safetensors_header(file).values())
    dtypes = stored_types(folder)
    return max(count, 1), bool(dtypes) and dtypes <= {"F16", "BF16"}


def stored_types(folder: Path) -> set[str]:
    """Types of a component's tensors as the format calls them (F32, F16, BF16); none of pickles."""
    files = [file for file in _weight_files(folder) if file.suffix == ".safetensors"]
    return {tensor["dtype"] for file in files for tensor in safetensors_header(file).values()}


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that are loaded, each looked at. Raises UsageError for a damaged one."""
    found = component_files(folder)
    files = found.files if found else ()
    for file in files:
        check_weight_file(file)
    return files


def _components(directory: Path) -> set[str]:
    """Folders that model_index.json lists; a component that a pipeline does without is listed as [null, null]."""
    index = read_json(directory / "model_index.json")
    return {name for name, entry in index.items() if isinstance(entry, list) and any(entry)}


def _chosen_shape(family: str, chosen: Mapping[str, Any] | None) -> tuple[int, int, int] | None:
    """The shape of a state that a user's card states, for families that run at several sizes."""
    shape = (chosen or {}).get("sample_shape")
    if family not in _FLOW_STYLES or not isinstance(shape, list | tuple) or len(shape) != 3:
        return None
    channels, height, width = shape
    return (channels, height, width) if all(isinstance(n, int) and n > 0 for n in shape) else None


def _sample_shape(folder: Path, found: Detected) -> tuple[int, int, int]:
    config = found.config
    if found.family == "flux":
        return (flux_channels(folder, config), FLUX_SIDE, FLUX_SIDE)
    size, channels = config.get("sample_size"), config.get("in_channels")
    sides = tuple(size) if isinstance(size, list) else (size, size)
    if not isinstance(channels, int) or len(sides) != 2 or not all(isinstance(s, int) for s in sides):
        raise UsageError(
            f"{folder}/config.json: in_channels={channels}, sample_size={size}; both must be stated, so that the "
            "shape of a state is known."
        )
    if not _fitting_output(config):
        raise _unfit_output(folder, config)
    return (channels, *sides)


def _flow_facts(directory: Path, found: Detected) -> dict[str, Any]:
    """Fields of the card that only the families of text and flow have."""
    if found.family not in _FLOW_STYLES or found.codec is None:
        return {}
    facts = flow_fields(found.family, found.config)
    facts["shift_factor"] = shift_factor(read_json(directory / found.codec / "config.json"))
    if stored_types(directory / found.denoiser) == {"BF16"}:
        facts["precision"] = "bf16"
    return facts


def _fitting_output(config: Mapping[str, Any]) -> bool:
    inside, outside = config["in_channels"], config.get("out_channels")
    return outside is None or outside in (inside, 2 * inside)


def _unfit_output(folder: Path, config: Mapping[str, Any]) -> UsageError:
    return UsageError(
        f"{folder}/config.json: {config['in_channels']} channels in, {config['out_channels']} out; a denoiser returns "
        "as many as it is given, or twice as many (learned variance). Use a model that is given nothing beside the "
        "state."
    )


def _codec_facts(directory: Path, codec: str | None, channels: int) -> tuple[int, float]:
    """(pixels of a side for each latent position, scaling factor) of the autoencoder."""
    if codec is None:
        return 1, 1.0
    path = directory / codec / "config.json"
    config = read_json(path)
    if latent_channels(config) != channels:
        raise UsageError(
            f"{path}: the autoencoder has latents of {latent_channels(config)} channels and the denoiser reads "
            f"{channels}: the components are not of one model. Fetch the directory again."
        )
    return enlargement(config), scaling_factor(config)


def _cost(parameters: int, shape: tuple[int, int, int]) -> dict[str, Any]:
    seconds = _SECONDS_PER_PARAMETER_AND_POSITION * parameters * shape[1] * shape[2]
    return {
        "step_seconds": seconds,
        "batch_size": 1,
        "measured_on": "estimated from its size, for a GH200",
    }


def _defaults(shape: tuple[int, int, int]) -> dict[str, int]:
    """Batches of a power of two, of which the states and predictions of 100 steps take about 150 MB."""
    bytes_per_sample = 4 * shape[0] * shape[1] * shape[2] * 2 * 100
    fitting = int(min(max(_SHARD_BYTES // bytes_per_sample, 1), 128))
    return {
        "num_samples": 256,
        "batch_size": 1 << (fitting.bit_length() - 1),
        "num_inference_steps": 50,
    }
