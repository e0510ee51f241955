"""Models: each module holds a model and a guide as PyroModules and ``build(data, **options) -> TrainingPlan``."""

from pyro_ext.models.registry import MODELS, ModelEntry, builder, describe

__all__ = ["MODELS", "ModelEntry", "builder", "describe"]
