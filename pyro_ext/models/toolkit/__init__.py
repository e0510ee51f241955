"""What several models share: the data plate, evaluation over a loader, image plots, annealing, networks."""

from pyro_ext.models.toolkit.annealing import Relaxation, linear_ramp
from pyro_ext.models.toolkit.classification import ImageClassifier, labelled_images
from pyro_ext.models.toolkit.classifiers import (
    CLASSIFIERS,
    Classifier,
    classifier,
    lenet_5,
    lenet_300_100,
    read_weights,
    vgg_like,
)
from pyro_ext.models.toolkit.data import check_image_data, check_images, data_plate, mean_metrics
from pyro_ext.models.toolkit.images import image_rows, sample_images
from pyro_ext.models.toolkit.moments import RunningMoments
from pyro_ext.models.toolkit.networks import base_rate_logits, perceptron
from pyro_ext.models.toolkit.schedules import ConstantThenLinear
from pyro_ext.models.toolkit.streams import labelled_streams

__all__ = [
    "CLASSIFIERS",
    "Classifier",
    "ConstantThenLinear",
    "ImageClassifier",
    "Relaxation",
    "RunningMoments",
    "base_rate_logits",
    "check_image_data",
    "check_images",
    "classifier",
    "data_plate",
    "image_rows",
    "labelled_images",
    "labelled_streams",
    "lenet_5",
    "lenet_300_100",
    "linear_ramp",
    "mean_metrics",
    "perceptron",
    "read_weights",
    "sample_images",
    "vgg_like",
]
