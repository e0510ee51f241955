"""What holds for every registered model. A new model is one line in ``SMALL``."""

import math
from dataclasses import dataclass, field
from typing import Any

import pyro
import pytest
import torch

from pyro_ext.cli.__main__ import main
from pyro_ext.datasets import AVAILABLE, AlignedSequences, LabelledGraph, Splits, TwoStreams, load
from pyro_ext.inference import FitSettings, TrainingPlan, fit, load_run, local_params
from pyro_ext.models import MODELS, builder, describe
from pyro_ext.plotting import save
from tests.models.phylo.six_taxa import write_files

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


@dataclass
class Small:
    """A model at a size that takes seconds.

    Args:
        options: arguments of ``build``.
        data: arguments of the loader of its data set.
        batch_size: so that an epoch has two steps.
        files: whether files of six sequences and their trees are needed in the present folder.
    """

    options: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 100
    files: bool = False


SMALL = {
    "categorical_vae": Small({"num_latents": 2, "hidden": (8, 6), "evaluation_samples": 2}, {"num_train": 160}, 80),
    "compressed_lenet": Small({"threshold_images": 20}, {"num_train": 160, "binarize": None}, 80),
    "disentangling": Small({"hidden": 8}, {"num_train": 160, "binarize": None}, 80),
    "drmm": Small({"num_labels": 20}, {"num_train": 80, "binarize": None}, 40),
    "gan": Small(
        {"width": 0.1, "batch_size": 750, "epochs": 2, "evaluation_samples": 20},
        {"num_labels": 20, "unlabelled": "all", "binarize": None},
        750,
    ),
    "gcn": Small({"hidden": (4,), "evaluation_samples": 2}, {"steps_per_epoch": 2}),
    "geco_vae": Small({"num_latents": 2, "hidden": (6,)}, {"num_train": 160, "binarize": None}, 80),
    "hard_attention": Small(
        {"window": 8, "hidden": (8,), "channels": 2, "evaluation_samples": 2},
        {"canvas": 16, "digit_size": 8, "num_train": 40, "num_valid": 20},
        20,
    ),
    "looks_linear": Small({"depth": 4, "width": 8}, {"num_train": 160, "binarize": None, "mixed": True}, 80),
    "neuron_matching": Small({"evaluation_samples": 4}, {"num_worms": 2}, 1),
    "phylo": Small(
        {"trees": ["six.nwk"], "num_particles": 2, "evaluation_samples": 10, "evaluation_repeats": 2},
        {"path": "six.fasta", "steps_per_epoch": 2},
        files=True,
    ),
    "point_matching": Small({"evaluation_samples": 20}, {"num_problems": 4}, 2),
    "sparse_lenet": Small({"epochs": 2}, {"num_train": 160, "binarize": None}, 80),
    "structured_output": Small({"units": 8, "samples": 1, "evaluation_samples": 4}, {"num_train": 160}, 80),
    "tumour_elimination": Small(
        {"num_flips": 3, "width": 8, "num_heads": 2, "evaluation_samples": 2},
        {"num_train": 8, "num_valid": 4, "cells": 4, "mutations": 4, "labels": "matrix"},
        4,
    ),
    "tumour_branching": Small(
        {"width": 8},
        {"num_train": 40, "num_valid": 16, "labels": "branching", "cells": 5, "mutations": 4, "false_negative": 0.0},
        20,
    ),
    "tumour_noise": Small({"width": 8}, {"num_train": 40, "num_valid": 16, "cells": 5, "mutations": 6}, 20),
    "semi_supervised_vae": Small({"warm_start": 1, "hidden": (8,), "classifier_hidden": (8,)}, {"num_labels": 20}, 740),
}


def test_every_model_is_here():
    assert SMALL.keys() == MODELS.keys()


@pytest.mark.filterwarnings(
    "ignore:the latent code has collapsed", "ignore:images cost", "ignore:the constraint is still"
)
@pytest.mark.filterwarnings(
    "ignore:only .* are classified correctly", "ignore:the digit is found", "ignore:predictions are right in"
)
@pytest.mark.filterwarnings("ignore:hardly any group", "ignore:the generator")
@pytest.mark.filterwarnings("ignore:conflicts are left in", "ignore:matrices denoised by the network")
@pytest.mark.parametrize("name", SMALL)
def test_check_model(name, tmp_path, monkeypatch, capsys):
    check_model(name, SMALL[name], tmp_path, monkeypatch)
    assert main(["fit", name, *(["--data", "six.fasta"] if SMALL[name].files else []), "--help"]) == 0
    shown = capsys.readouterr().out
    assert describe(name).summary.split()[0] in shown
    assert "<class" not in shown


def check_model(name, small, tmp_path, monkeypatch):
    """Build on small data, take steps, evaluate, resume to the same digits, load, draw every plot, write every file."""
    monkeypatch.chdir(tmp_path)
    if small.files:
        write_files(tmp_path)
    data = load(describe(name).data, **small.data)

    def build() -> TrainingPlan:
        pyro.set_rng_seed(1)
        return builder(name)(data, **small.options)

    plan = build()
    assert isinstance(plan, TrainingPlan)
    assert all(player.objective.loss_label != "loss" for player in plan.players)
    whole = run(plan, data, small, epochs=2)
    assert whole.history[-1]["step"] == 4
    assert all(math.isfinite(value) for value in whole.metrics.values())
    assert any(name.startswith("train_") for name in whole.metrics)
    if plan.evaluate is not None:
        assert plan.headline in whole.metrics
    run(build(), data, small, epochs=1, out=tmp_path / "run")
    resumed = run(build(), data, small, epochs=2, out=tmp_path / "run", resume=True)
    assert resumed.metrics == whole.metrics
    loaded = load_run(tmp_path / "run", build())
    assert loaded.metrics == whole.metrics
    assert_same_parameters(loaded.plan, whole.plan)
    assert len(pyro.get_param_store()) == 0
    for plot, draw in plan.plots.items():
        with local_params():
            assert save(draw(), tmp_path / f"{plot}.png").stat().st_size > 1000
    for names in plan.curves.values():
        assert {*names} <= whole.metrics.keys()
    for file, write in plan.files.items():
        write(tmp_path / file)
        assert (tmp_path / file).stat().st_size > 0


def run(plan, data, small, epochs, **options):
    settings = FitSettings(max_epochs=epochs, batch_size=small.batch_size, seed=3)
    return fit(plan, data, settings, **QUIET, **options)


def assert_same_parameters(first, second):
    for one, other in zip(first.players, second.players, strict=True):
        expected = dict(other.objective.named_parameters())
        assert all(torch.equal(value, expected[name]) for name, value in one.objective.named_parameters())


@pytest.mark.parametrize("name", SMALL)
def test_a_model_says_where_it_comes_from(name):
    entry = describe(name)
    module = __import__(entry.module, fromlist=["build"])
    assert entry.data in AVAILABLE
    assert "arxiv.org" in (module.__doc__ or "") or "doi.org" in module.__doc__ or "openreview" in module.__doc__
    assert "Args:" in module.build.__doc__


LOADERS = {
    "alignment": {"path": "six.fasta"},
    "celegans": {},
    "cifar10": {},
    "digits": {"num_train": 30},
    "few_labels": {"num_labels": 20},
    "freyfaces": {},
    "karate_club": {"steps_per_epoch": 2},
    "mnist": {},
    "mnist_5k": {"num_valid": 100},
    "moving_digits": {"canvas": 16, "digit_size": 8, "num_train": 20, "num_valid": 10},
    "planetoid": {},
    "point_matching": {"num_problems": 3},
    "simulated_tumours": {"num_train": 8, "num_valid": 4},
    "simulated_worms": {"num_worms": 2},
    "sprites": {"num_train": 20, "num_valid": 5},
    "tumour": {},
}
"""Every loader with options for little data. A new loader is one line."""

FROM_FILES = {"celegans", "cifar10", "freyfaces", "mnist", "planetoid", "tumour"}
"""Loaders of files under PYRO_EXT_DATA, skipped where those are not at hand."""


def test_every_loader_is_here():
    assert LOADERS.keys() == AVAILABLE.keys()


@pytest.mark.parametrize("name", LOADERS)
def test_check_loader(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    if name in FROM_FILES:
        pytest.skip("its files are tested with PYRO_EXT_DATA in tests/datasets")
    data, again = (load(name, **LOADERS[name]) for _ in range(2))
    assert isinstance(data, Splits)
    for part in ("train", "valid", "test"):
        for dataset, repeated in zip(*map(streams, (getattr(data, part), getattr(again, part))), strict=True):
            batch, same = dataset.__getitems__([0]), repeated.__getitems__([0])
            assert isinstance(batch, tuple)
            for one, other in zip(batch, same, strict=True):
                assert one is other is None or torch.equal(one, other)
            if not isinstance(data, AlignedSequences | LabelledGraph):
                assert batch[-1].tolist() == [0]  # rows know their place
    with pytest.raises(ValueError, match=f"data set '{name}' has no option 'nothing'; it has "):
        load(name, nothing=1)


def streams(dataset):
    """The data sets that a part of a split consists of: none, itself, or both of its streams."""
    if dataset is None:
        return []
    return [dataset.first, dataset.second] if isinstance(dataset, TwoStreams) else [dataset]
