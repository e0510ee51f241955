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
from pyro_ext.models.toolkit.data import check_binary_images, data_plate, mean_metrics
from pyro_ext.models.toolkit.images import image_rows, sample_images
from pyro_ext.models.toolkit.networks import perceptron

__all__ = [
    "CLASSIFIERS",
    "Classifier",
    "ImageClassifier",
    "Relaxation",
    "check_binary_images",
    "classifier",
    "data_plate",
    "image_rows",
    "labelled_images",
    "lenet_5",
    "lenet_300_100",
    "linear_ramp",
    "mean_metrics",
    "perceptron",
    "read_weights",
    "sample_images",
    "vgg_like",
]
