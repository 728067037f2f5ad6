"""Mergeable statistics of noise, latents, images and trajectories, with intervals and floors."""

from taba_core.blas import use_one_blas_thread
from taba_core.stats.base import Block, MomentStatistic, RowStatistic, State, Statistic
from taba_core.stats.correlation import LagCorrelation, PatchCorrelation
from taba_core.stats.estimate import Estimate
from taba_core.stats.floor import CorrelationFloor, correlation_floor, kl_floor
from taba_core.stats.moments import EntryKL, GlobalKL, Moments
from taba_core.stats.pca import ChannelPCA, project_channels
from taba_core.stats.reconstruction import ReconstructionError
from taba_core.stats.reduce import from_arrays, reduce, reduce_blocks
from taba_core.stats.regions import REGIONS, RegionError, area_average, plain_cells, plain_mask
from taba_core.stats.resample import estimates, poisson_weights
from taba_core.stats.step_error import StepError
from taba_core.stats.trajectory import PathDistance, Triangle, path_distance_direct
from taba_core.stats.tree import CANONICAL_BLOCK, MergeTree, Reduced
from taba_core.stats.verdict import Verdict, all_positive, every, positive

__all__ = [
    "CANONICAL_BLOCK",
    "REGIONS",
    "Block",
    "ChannelPCA",
    "CorrelationFloor",
    "EntryKL",
    "Estimate",
    "GlobalKL",
    "LagCorrelation",
    "MergeTree",
    "MomentStatistic",
    "Moments",
    "PatchCorrelation",
    "PathDistance",
    "ReconstructionError",
    "Reduced",
    "RegionError",
    "RowStatistic",
    "State",
    "Statistic",
    "StepError",
    "Triangle",
    "Verdict",
    "all_positive",
    "area_average",
    "correlation_floor",
    "estimates",
    "every",
    "from_arrays",
    "kl_floor",
    "path_distance_direct",
    "plain_cells",
    "plain_mask",
    "poisson_weights",
    "positive",
    "project_channels",
    "reduce",
    "reduce_blocks",
    "use_one_blas_thread",
]
