import torch

from pyro_ext.utils.processes import mean_over_processes


def test_one_process_agrees_with_itself():
    value = torch.tensor([1.0, 2.0])
    assert mean_over_processes(value) is value


def test_the_mean_is_new_and_that_of_all(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda value: value.add_(6.0))
    value = torch.tensor([2.0])
    assert mean_over_processes(value).item() == 2.0
    assert value.item() == 2.0
    value = torch.tensor([6.0])
    assert mean_over_processes(value).item() == 3.0
