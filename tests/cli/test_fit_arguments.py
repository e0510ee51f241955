"""What the options of a fit are before anyone says otherwise."""

from pathlib import Path

import pytest

from pyro_ext.cli.fit_arguments import FirstLook, full_parser


def defaults(model, data):
    return full_parser(FirstLook(model, data, Path("run"), (), has_elbo=False)).get_defaults()


@pytest.mark.parametrize(("model", "data", "epochs"), [("categorical_vae", "digits", 20), ("drmm", "mnist", 40)])
def test_a_model_has_its_own_number_of_epochs(model, data, epochs):
    assert defaults(model, data)["trainer.max_epochs"] == epochs


def test_defaults_of_data_are_for_the_data_set_that_the_model_names():
    assert defaults("drmm", "digits")["data.binarize"] is None
    assert defaults("categorical_vae", "digits")["data.binarize"] == 7.5
    assert defaults("drmm", "mnist")["data.threshold"] == 0.5
