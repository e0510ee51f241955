"""Plans of pruning: every node in its place, every step after those it needs."""

import pytest
import torch

from pyro_ext.ops import _tree_plans
from pyro_ext.ops._tree_plans import tree_plan
from pyro_ext.phylo import canonicalize
from tests.contracts.device_guard import DEVICE, DeviceGuard
from tests.ops.trees import random_trees


@pytest.mark.parametrize("rooted", [False, True])
@pytest.mark.parametrize("num_taxa", [2, 3, 4, 7, 12, 40])
@pytest.mark.parametrize("most_rows", [None, 3])
def test_slots_hold_the_children(rooted, num_taxa, most_rows):
    trees = random_trees(4, num_taxa, rooted)
    plan = tree_plan(trees, most_rows)
    num_nodes, root = trees.shape[1], num_taxa if rooted else 0
    num_rows = 4 * (num_nodes - num_taxa)
    assert sorted(plan.rows.flatten().tolist()) == list(range(num_rows))
    node_of = {int(plan.rows[m, i]): (m, num_taxa + i) for m in range(4) for i in range(plan.rows.shape[1])}
    slot, done = 0, 0
    for step in plan.steps:
        assert step.start == done
        assert 0 < step.stop - step.start <= (most_rows or num_rows)
        assert step.stop <= step.first or step.first == step.last  # their children come later
        done = step.stop
        assert torch.equal(step.siblings, step.sources.view(-1, 2).flip(1).flatten())
        inner = [int(x) - num_taxa for x in step.sources[step.inner]]
        assert inner == list(range(step.first, step.last))
        for source in step.sources.tolist():
            tree, parent = node_of[slot // 2]
            node = source if source < num_taxa else node_of[source - num_taxa][1]
            assert trees[tree, node] == parent
            assert plan.edges[slot] == tree * (num_nodes - 1) + node - (node > root)
            slot += 1
    assert done == num_rows
    assert len(plan.edges) == slot == 2 * num_rows
    assert torch.equal(plan.sibling_edges, plan.edges.view(-1, 2).flip(1).flatten())
    if num_rows:
        sources = torch.cat([step.sources for step in plan.steps])
        assert torch.equal(plan.inner_edges, plan.edges[sources >= num_taxa])


@pytest.mark.parametrize("most_rows", [None, 3])
@pytest.mark.parametrize("rooted", [False, True])
def test_two_levels_take_turns(rooted, most_rows):
    """Going down, every step finds its rows where the steps before have put them, with room for two levels only."""
    plan = tree_plan(random_trees(5, 30, rooted), most_rows)
    room = [*range(5), *[None] * (2 * plan.widest - 5)]
    for step in plan.steps:
        assert room[step.place : step.place + step.stop - step.start] == list(range(step.start, step.stop))
        room[step.inner_place : step.inner_place + step.last - step.first] = range(step.first, step.last)
        assert len(room) == 2 * plan.widest


def test_a_caterpillar_has_a_level_for_each_node():
    n = 9
    parents = torch.tensor([[-1, *([2 * n - 3] * 2), *range(2 * n - 4, n - 1, -1), 0, *range(n, 2 * n - 3)]])
    assert [step.stop - step.start for step in tree_plan(parents).steps] == [1] * (n - 2)


def test_trees_that_are_not_canonical_are_refused():
    parents = torch.tensor([[-1, 8, 9, 11, 11, 10, 10, 0, 7, 7, 9, 8]])  # 11 lies below 8, 10 below 9
    with pytest.raises(ValueError, match="canonical"):
        tree_plan(parents)
    assert len(tree_plan(canonicalize(parents).parents).steps) == 3


def test_plans_are_remembered_by_content():
    trees = random_trees(3, 8)
    assert tree_plan(trees) is tree_plan(trees.clone())
    changed = trees.clone()
    changed[0] = random_trees(9, 8, seed=1)[-1]
    assert tree_plan(changed) is not tree_plan(trees)


def test_plans_made_in_inference_mode_may_be_used_outside():
    trees = random_trees(2, 11, seed=5)
    with torch.inference_mode():
        plan = tree_plan(trees)
    assert not plan.edges.is_inference()
    assert not plan.steps[0].sources.is_inference()


def test_trees_on_a_device_are_copied_once_until_they_change():
    with DeviceGuard() as guard:
        trees = random_trees(4, 8).to(DEVICE)
        plan = tree_plan(trees.unsqueeze(-2))
        assert tree_plan(trees.unsqueeze(-2)) is plan
        assert sum(guard.waits.values()) == 1
        tree_plan(trees[1:])
        tree_plan(trees[1:])
        assert sum(guard.waits.values()) == 2
        trees[0] = trees[1]
        assert tree_plan(trees) is not plan
        assert sum(guard.waits.values()) == 3
        with torch.inference_mode():
            assert tree_plan(trees.clone()).edges.device == DEVICE  # knows no version, so it is copied


def test_many_views_of_trees_are_not_all_remembered():
    with DeviceGuard():
        trees = random_trees(70, 5).to(DEVICE)
        for row in trees:
            tree_plan(row)
        assert len(_tree_plans._CONTENTS[trees]) == 70 - _tree_plans._MOST_CONTENTS
