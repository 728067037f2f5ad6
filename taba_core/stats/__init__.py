"""Mergeable statistics of noise, latents, images and trajectories, with intervals and floors."""

from taba_core.blas import use_one_blas_thread
from taba_core.stats.angles import most_probable_angles, most_probable_angles_direct
from taba_core.stats.attractors import accuracy, attraction, binomial_interval, equal_divisions
from taba_core.stats.base import Block, MomentStatistic, RowStatistic, State, Statistic
from taba_core.stats.correlation import LagCorrelation, PatchCorrelation
from taba_core.stats.estimate import Estimate
from taba_core.stats.floor import CorrelationFloor, correlation_floor, kl_floor
from taba_core.stats.mapping import SmallestDistance
from taba_core.stats.moments import EntryKL, GlobalKL, Moments
from taba_core.stats.nearest import METRICS, Nearest, nearest, nearest_direct
from taba_core.stats.pairs import PairStatistic, reduce_pairs
from taba_core.stats.pca import ChannelPCA, project_channels
from taba_core.stats.reconstruction import ReconstructionError
from taba_core.stats.reduce import from_arrays, reduce, reduce_blocks
from taba_core.stats.regions import REGIONS, RegionError, area_average, plain_cells, plain_mask
from taba_core.stats.resample import estimates, poisson_weights
from taba_core.stats.step_error import StepError
from taba_core.stats.trajectory import PathDistance, path_distance_direct
from taba_core.stats.tree import CANONICAL_BLOCK, MergeTree, Reduced
from taba_core.stats.triangle import AngleHistogram, Triangle
from taba_core.stats.verdict import Verdict, all_positive, every, positive

__all__ = [
    "CANONICAL_BLOCK",
    "METRICS",
    "REGIONS",
    "AngleHistogram",
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
    "Nearest",
    "PairStatistic",
    "PatchCorrelation",
    "PathDistance",
    "ReconstructionError",
    "Reduced",
    "RegionError",
    "RowStatistic",
    "SmallestDistance",
    "State",
    "Statistic",
    "StepError",
    "Triangle",
    "Verdict",
    "accuracy",
    "all_positive",
    "area_average",
    "attraction",
    "binomial_interval",
    "correlation_floor",
    "equal_divisions",
    "estimates",
    "every",
    "from_arrays",
    "kl_floor",
    "most_probable_angles",
    "most_probable_angles_direct",
    "nearest",
    "nearest_direct",
    "path_distance_direct",
    "plain_cells",
    "plain_mask",
    "poisson_weights",
    "positive",
    "project_channels",
    "reduce",
    "reduce_blocks",
    "reduce_pairs",
    "use_one_blas_thread",
]
