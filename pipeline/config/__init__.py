"""Every setting: its default and meaning (schema, sections, sources), and how it is read (loading, values, …)."""

from pipeline.config.base import Settings
from pipeline.config.loading import check_config, load_config, secrets_sent
from pipeline.config.losses import LossConfig
from pipeline.config.nights import ChecksConfig, KeepConfig, MessagesConfig, NightsConfig, WaitForConfig
from pipeline.config.schema import SPLITS, Config, config_model
from pipeline.config.sections import (
    EvaluateConfig,
    IngestConfig,
    ModelConfig,
    OptimizerConfig,
    PromoteConfig,
    ScheduleConfig,
    SplitShares,
    TokenizeConfig,
    TrainConfig,
)
from pipeline.config.sources import SplitName
from pipeline.config.tasks import smaller_is_better, task_spec, task_specs
from pipeline.config.tasks.captioning import CaptioningConfig
from pipeline.config.tasks.cloze import ClozeConfig
from pipeline.config.tasks.language_model import LanguageModelConfig
from pipeline.config.tasks.tagging import TaggingConfig
from pipeline.config.tasks.translation import TranslationConfig
from pipeline.config.tracking import TrackingConfig

__all__ = [
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
    "config_model",
    "load_config",
    "secrets_sent",
    "smaller_is_better",
    "task_spec",
    "task_specs",
]
