"""Every setting: its default and meaning (schema, sections, sources), and how it is read (loading, values, …)."""

from pipeline.config.base import Settings
from pipeline.config.loading import check_config, load_config, secrets_sent
from pipeline.config.nights import ChecksConfig, KeepConfig, MessagesConfig, NightsConfig, WaitForConfig
from pipeline.config.schema import (
    GRADED_METRICS,
    METRICS,
    SMALLER_IS_BETTER,
    SPLITS,
    Config,
)
from pipeline.config.sections import (
    CaptioningConfig,
    ClozeConfig,
    EvaluateConfig,
    IngestConfig,
    LanguageModelConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    PromoteConfig,
    ScheduleConfig,
    SplitShares,
    TaggingConfig,
    TokenizeConfig,
    TrackingConfig,
    TrainConfig,
    TranslationConfig,
)
from pipeline.config.sources import SplitName

__all__ = [
    "GRADED_METRICS",
    "METRICS",
    "SMALLER_IS_BETTER",
    "SPLITS",
    "CaptioningConfig",
    "ChecksConfig",
    "ClozeConfig",
    "Config",
    "EvaluateConfig",
    "IngestConfig",
    "KeepConfig",
    "LanguageModelConfig",
    "LossConfig",
    "MessagesConfig",
    "ModelConfig",
    "NightsConfig",
    "OptimizerConfig",
    "PromoteConfig",
    "ScheduleConfig",
    "Settings",
    "SplitName",
    "SplitShares",
    "TaggingConfig",
    "TokenizeConfig",
    "TrackingConfig",
    "TrainConfig",
    "TranslationConfig",
    "WaitForConfig",
    "check_config",
    "load_config",
    "secrets_sent",
]
