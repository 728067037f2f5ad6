"""Mergeable statistics of noise, latents, images and trajectories, with intervals and floors."""

from taba_core.blas import use_one_blas_thread
from taba_core.slerp import slerp
from taba_core.stats.alignment import FeatureAlignment, kernel_alignment
from taba_core.stats.angles import most_probable_angles, most_probable_angles_direct
from taba_core.stats.attractors import accuracy, attraction, binomial_interval, equal_divisions
from taba_core.stats.base import Block, MomentStatistic, RowStatistic, SampleStatistic, State, Statistic
from taba_core.stats.comoments import CoMomentStatistic
from taba_core.stats.compressibility import PngBits, png_bits
from taba_core.stats.correlation import LagCorrelation, PatchCorrelation
from taba_core.stats.estimate import Estimate
from taba_core.stats.feature_blocks import FeatureBlocks
from taba_core.stats.floor import CorrelationFloor, correlation_floor, kl_floor
from taba_core.stats.frechet import FeatureMoments, FrechetDistance, InceptionScore, frechet_distance
from taba_core.stats.inversion_cost import InterpolationCurve, InversionCost
from taba_core.stats.kernel_distance import kernel_distance
from taba_core.stats.manifold import density_coverage, neighbour_measures, precision_recall
from taba_core.stats.mapping import SmallestDistance
from taba_core.stats.masked import RegionLagCorrelation, RegionSpectrum
from taba_core.stats.moments import EntryKL, GlobalKL, Moments
from taba_core.stats.nearest import METRICS, Nearest, nearest, nearest_direct
from taba_core.stats.pairs import PairStatistic, reduce_pairs
from taba_core.stats.pca import ChannelPCA, project_channels
from taba_core.stats.reconstruction import ReconstructionError
from taba_core.stats.reduce import from_arrays, reduce, reduce_blocks, reduce_lazily
from taba_core.stats.regions import (
    REGIONS,
    RegionError,
    area_average,
    plain_cells,
    plain_mask,
    transfer_mask,
)
from taba_core.stats.resample import estimates, poisson_weights
from taba_core.stats.similarity import StructuralSimilarity, structural_similarity
from taba_core.stats.step_error import StepError
from taba_core.stats.texture import DifferencePower, LocalVariance, PowerSpectrum, local_variance
from taba_core.stats.trajectory import PathDistance, path_distance_direct
from taba_core.stats.tree import CANONICAL_BLOCK, MergeTree, Reduced
from taba_core.stats.triangle import AngleHistogram, Triangle
from taba_core.stats.values import CosineSimilarity, Quantiles, TopExamples, ValueMean, ValueRange
from taba_core.stats.verdict import all_positive, every, positive
from taba_core.verdicts import Verdict

__all__ = [
    "CANONICAL_BLOCK",
    "METRICS",
    "REGIONS",
    "AngleHistogram",
    "Block",
    "ChannelPCA",
    "CoMomentStatistic",
    "CorrelationFloor",
    "CosineSimilarity",
    "DifferencePower",
    "EntryKL",
    "Estimate",
    "FeatureAlignment",
    "FeatureBlocks",
    "FeatureMoments",
    "FrechetDistance",
    "GlobalKL",
    "InceptionScore",
    "InterpolationCurve",
    "InversionCost",
    "LagCorrelation",
    "LocalVariance",
    "MergeTree",
    "MomentStatistic",
    "Moments",
    "Nearest",
    "PairStatistic",
    "PatchCorrelation",
    "PathDistance",
    "PngBits",
    "PowerSpectrum",
    "Quantiles",
    "ReconstructionError",
    "Reduced",
    "RegionError",
    "RegionLagCorrelation",
    "RegionSpectrum",
    "RowStatistic",
    "SampleStatistic",
    "SmallestDistance",
    "State",
    "Statistic",
    "StepError",
    "StructuralSimilarity",
    "TopExamples",
    "Triangle",
    "ValueMean",
    "ValueRange",
    "Verdict",
    "accuracy",
    "all_positive",
    "area_average",
    "attraction",
    "binomial_interval",
    "correlation_floor",
    "density_coverage",
    "equal_divisions",
    "estimates",
    "every",
    "frechet_distance",
    "from_arrays",
    "kernel_alignment",
    "kernel_distance",
    "kl_floor",
    "local_variance",
    "most_probable_angles",
    "most_probable_angles_direct",
    "nearest",
    "nearest_direct",
    "neighbour_measures",
    "path_distance_direct",
    "plain_cells",
    "plain_mask",
    "png_bits",
    "poisson_weights",
    "positive",
    "precision_recall",
    "project_channels",
    "reduce",
    "reduce_blocks",
    "reduce_lazily",
    "reduce_pairs",
    "slerp",
    "structural_similarity",
    "transfer_mask",
    "use_one_blas_thread",
]
