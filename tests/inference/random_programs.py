"""Random Pyro programs with small finite supports, and their exact expected losses and gradients.

A program is a list of blocks: nodes sampled once, or repeated in a sequential plate, a Markov chain or a plain loop.
Sites depend on earlier ones, in the guide and in the model separately. ``RandomProgram(seed)`` makes it,
``str(program)`` describes it, ``program.exact`` sums over all values of its discrete sites and integrates over the
noise of its normal ones by quadrature.
"""

import contextlib
import math
import random
from dataclasses import dataclass, field, fields

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.poutine.messenger import Messenger

from tests.inference.feeding import gradients

F64 = torch.float64
EVENTS = {  # the shape of the parameters of one element of a plate
    "categorical": (3,),
    "bernoulli": (),
    "one_hot": (3,),
    "binomial": (),
    "bernoullis": (2,),
    "categoricals": (2, 2),
    "one_hots": (2, 2),
    "normal": (),
}
NUM_VALUES = {"categorical": 3, "bernoulli": 2, "one_hot": 3, "binomial": 3}
NUM_VALUES |= {"bernoullis": 4, "categoricals": 4, "one_hots": 4, "normal": 16}
MAX_CONFIGURATIONS = 2500


@dataclass
class Plate:
    """A vectorised plate; ``full`` is its size, ``size`` that of the subsample."""

    dim: int
    size: int
    full: int


@dataclass
class Weight:
    """How much a site counts: masks and scales around it, and the mask on its distribution."""

    scale: str = "1"  # "1", "2.5", or "tensor"
    mask: str = ""  # "", "poutine", "outer", "inner", "false"


@dataclass
class Node:
    """A latent site, or an observation of the product of its parents."""

    name: str
    kind: str
    plates: tuple
    guide_parents: tuple = ()
    model_parents: tuple = ()
    guide_weight: Weight = field(default_factory=Weight)
    model_weight: Weight = field(default_factory=Weight)
    infer: dict = field(default_factory=dict)
    role: str = "both"  # "both", "guide" for an auxiliary site, "model" for an observation
    chained: bool = False  # whether it depends on its own value in the step before
    learned_prior: bool = False
    obs_mask: bool = False  # whether the model observes half of it


@dataclass
class Block:
    """Nodes repeated ``length`` times."""

    kind: str  # "once", "plate", "markov", "loop"
    length: int
    nodes: list


def _short(x):
    defaults = {"guide_weight": Weight(), "model_weight": Weight(), "infer": {}, "role": "both"}
    shown = [(f.name, getattr(x, f.name)) for f in fields(x)]
    return ", ".join(f"{k}={v!r}" for k, v in shown if v not in ((), False) and v != defaults.get(k))


def fixed(shape, seed):
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


class _Feed(Messenger):
    """Sets the values of sites, those of normal ones to location plus scale times the value given."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg):
        if msg["name"] in self.values and not msg["is_observed"]:
            value, fn = self.values[msg["name"]], msg["fn"]
            fn = getattr(fn, "base_dist", fn)  # below .mask
            msg["value"] = fn.loc + fn.scale * value if isinstance(fn, dist.Normal) else value


class RandomProgram:
    """A random model and guide of one parameter, a dictionary of tensors ``(copies,) + plate dims + event dims``."""

    def __init__(self, seed):
        self.seed = seed
        rng = random.Random(seed)
        while True:
            self._generate(rng)
            if self.num_configurations <= MAX_CONFIGURATIONS and self.nodes("guide"):
                break

    def __str__(self):
        lines = [f"RandomProgram({self.seed}): {self.num_configurations} configurations"]
        lines += [f"  plate {name}: {plate}" for name, plate in self.plates.items()]
        for block in self.blocks:
            lines.append(f"  {block.kind} x {block.length}")
            lines += [f"    {_short(node)}" for node in block.nodes]
        return "\n".join(lines)

    # generation

    def _generate(self, rng):
        arrangement = rng.choice(["none", "one", "one", "nested", "crossed", "successive"])
        names = {"none": (), "one": ("p",), "nested": ("p", "q"), "crossed": ("p", "q"), "successive": ("p", "q")}
        self.nesting = {"none": 0, "one": 1, "nested": 2, "crossed": 2, "successive": 1}[arrangement]
        self.plates = {}
        for i, name in enumerate(names[arrangement]):
            size = rng.choice([1, 2, 2, 2, 3]) if arrangement in ("one", "successive") else 2
            dim = -1 if arrangement == "successive" else -1 - i
            self.plates[name] = Plate(dim, size, size * rng.choice([1, 1, 1, 2]))
        places = {
            "none": [()],
            "one": [(), ("p",), ("p",)],
            "nested": [(), ("p",), ("p", "q")],
            "crossed": [(), ("p",), ("q",), ("p", "q")],
            "successive": [(), ("p",), ("q",)],
        }[arrangement]
        self._rng, self._places = rng, places
        self._reweighted = rng.random() < 0.5
        self._marked = rng.random() < 0.3
        self._only = rng.choice([None, None, None, ["bernoulli", "bernoullis"], ["bernoulli"]])
        self._independent = rng.random() < 0.25
        self._one_place = rng.choice(places) if rng.random() < 0.25 else None
        self.escapes = arrangement != "none" and rng.random() < 0.06
        self.blocks, outside = [], []
        for b in range(rng.choice([1, 1, 2])):
            kind = rng.choice(["once", "once", "once", "plate", "markov", "loop"])
            block = Block(kind, 1 if kind == "once" else rng.choice([2, 2, 3]), [])
            visible = list(outside)
            for s in range(rng.choice([1, 2, 2, 3]) if kind == "once" else rng.choice([1, 1, 2])):
                node = self._latent(f"{'abcdef'[2 * b + (s > 0)]}{s}", visible, kind)
                visible.append(node)
                block.nodes.append(node)
            for s in range(rng.choice([1, 1, 2])):
                block.nodes.append(self._observation(f"x{b}{s}", visible))
            if kind == "once":
                outside = visible
            self.blocks.append(block)

    def _weight(self, masks):
        rng = self._rng
        if not self._reweighted or rng.random() < 0.4:
            return Weight()
        return Weight(rng.choice(["1", "1", "2.5", "tensor"]), rng.choice(["", *masks]))

    def _latent(self, name, visible, block_kind):
        rng = self._rng
        kinds = self._only or ["categorical", "bernoulli", "one_hot", "binomial", "bernoullis", "categoricals"]
        kind = rng.choice([*kinds, "one_hots"] if self._only is None else kinds)
        if rng.random() < 0.12:
            kind = "normal"
        plates = self._one_place if self._one_place is not None else rng.choice(self._places)
        allowed = [n.name for n in visible if self.escapes or set(n.plates) <= set(plates)]
        guide_parents = [] if self._independent else [n for n in allowed if rng.random() < 0.6]
        in_model = {n.name for n in visible if n.role == "both"}
        model_parents = [n for n in allowed if n in in_model and rng.random() < 0.5]
        joint = kind in ("bernoullis", "categoricals", "one_hots")
        masks = ["poutine", "outer", "false"] + (["inner"] if joint else [])
        node = Node(name, kind, plates, tuple(guide_parents), tuple(model_parents))
        node.guide_weight, node.model_weight = self._weight(masks), self._weight(masks)
        if rng.random() < 0.3:
            node.model_weight = node.guide_weight
        if kind == "normal":
            return node
        node.chained = block_kind in ("markov", "loop") and rng.random() < 0.7
        node.learned_prior = rng.random() < 0.4
        if rng.random() < 0.1:
            node.role, node.infer = "guide", {"is_auxiliary": True}
        elif rng.random() < 0.1 and not joint and len(plates) and not node.chained:
            node.obs_mask = True
        if self._marked and rng.random() < 0.6:
            marks = [{"estimator": e} for e in ("exact", "reinforce", "leave_one_out", "unordered_set")]
            marks += [{"estimator": "leave_one_out", "num_samples": 3}, {"num_samples": 1}]
            if not joint:
                marks += [{"enumerate": "parallel"}, {"enumerate": "sequential"}]
            node.infer = {**node.infer, **rng.choice(marks)}
        return node

    def _observation(self, name, visible):
        rng = self._rng
        plates = rng.choice(self._places)
        allowed = [n.name for n in visible if n.role == "both" and (self.escapes or set(n.plates) <= set(plates))]
        parents = tuple(n for n in allowed if rng.random() < 0.8)
        node = Node(name, "observation", plates, model_parents=parents, role="model")
        node.model_weight = self._weight(["poutine", "outer", "false"])
        return node

    # structure

    def nodes(self, role):
        """Return the nodes of "model" or "guide", those of loops once for every step, with the names of their sites."""
        return [
            (self.site_name(block, node, i), node)
            for block in self.blocks
            for i in range(block.length)
            for node in block.nodes
            if node.role in ("both", role)
        ]

    @staticmethod
    def site_name(block, node, step):
        return node.name if block.kind == "once" else f"{node.name}_{step}"

    def shape(self, plates):
        sizes = {self.plates[p].dim: self.plates[p].size for p in plates}
        return tuple(sizes.get(dim, 1) for dim in range(-self.nesting, 0))

    def escaping(self):
        """Return whether a site depends on one inside a plate that it is not in."""
        plates = {node.name: set(node.plates) for block in self.blocks for node in block.nodes}
        return any(
            not plates[parent] <= set(node.plates)
            for block in self.blocks
            for node in block.nodes
            for parent in (*node.guide_parents, *node.model_parents)
        )

    @property
    def num_configurations(self):
        """The number of joint values of all sites of the guide."""
        shapes = [(NUM_VALUES[node.kind], math.prod(self.shape(node.plates))) for _, node in self.nodes("guide")]
        return math.prod(n**elements for n, elements in shapes)

    @property
    def shapes(self):
        """The shapes of the parameters."""
        shapes = {}
        for role in ("guide", "model"):
            for name, node in self.nodes(role):
                if node.role == "model":
                    shapes[f"loc_{name}"] = self.shape(node.plates)
                elif role == "guide":
                    full = self.shape(node.plates) + EVENTS[node.kind]
                    shapes[f"q_{name}"] = full
                    shapes |= {f"slope_{name}_{parent}": full for parent in node.guide_parents}
                    shapes |= {f"slope_{name}_chain": full} if node.chained else {}
                elif node.learned_prior:
                    shapes[f"p_{name}"] = self.shape(()) + EVENTS[node.kind]
        return shapes

    def parameters(self, copies):
        """Return leaves of shape ``(copies,) + shape`` that all hold the same fixed values."""
        return {
            name: fixed(shape, 7 * self.seed + i).mul(0.8).expand(copies, *shape).clone().requires_grad_()
            for i, (name, shape) in enumerate(self.shapes.items())
        }

    # execution

    def guide(self, t, plain=False):
        self._run(t, "guide", plain)

    def model(self, t):
        self._run(t, "model", False)

    def _run(self, t, role, plain):
        plates = {}
        for name, p in self.plates.items():
            index = {} if p.full == p.size else {"subsample": torch.arange(p.size) * 2}
            plates[name] = pyro.plate(name, p.full, dim=p.dim, **index)
        codes = {}
        for b, block in enumerate(self.blocks):
            steps = {
                "once": range(1),
                "plate": pyro.plate(f"steps{b}", block.length) if block.kind == "plate" else None,
                "markov": pyro.markov(range(block.length)),
                "loop": range(block.length),
            }[block.kind]
            before = {}
            for i in steps:
                here = dict(codes)
                for node in block.nodes:
                    if node.role in ("both", role):
                        name = self.site_name(block, node, i)
                        with contextlib.ExitStack() as stack:
                            for plate in node.plates:
                                stack.enter_context(plates[plate])
                            value = self._sample(stack, t, role, name, node, here, before.get(node.name), plain)
                        if value is not None:
                            here[node.name] = self._code(node, value)
                before = here
            if block.kind == "once":
                codes = here

    def _parent(self, node, codes, name):
        """Return the code of a parent, summed over the plates that the node is not in."""
        code = codes[name]
        own = next(n for block in self.blocks for n in block.nodes if n.name == name)
        for plate in set(own.plates) - set(node.plates):
            code = code.sum(self.plates[plate].dim, keepdim=True)
        return code

    @staticmethod
    def _code(node, value):
        """Return a number for every value of a site."""
        if node.kind in ("one_hot", "categoricals", "bernoullis", "one_hots"):
            if node.kind == "one_hots":
                value = value[..., 1]
            weights = torch.arange(value.shape[-1], dtype=F64) + 0.5 * (node.kind != "one_hot")
            return (value.to(F64) * weights).sum(-1)
        return value.to(F64)

    def _sample(self, stack, t, role, name, node, codes, before, plain):
        weight = node.guide_weight if role == "guide" else node.model_weight
        shape, seed = self.shape(node.plates), sum(map(ord, name))
        if not plain:
            if weight.scale != "1":
                scale = float(weight.scale) if weight.scale == "2.5" else 0.5 + fixed(shape, seed).sigmoid()
                stack.enter_context(poutine.scale(scale=scale))
            if weight.mask == "poutine":
                stack.enter_context(poutine.mask(mask=fixed(shape, seed + 1) > -0.3))
        if node.role == "model":
            loc = t[f"loc_{name}"]
            for i, parent in enumerate(node.model_parents):
                code = self._parent(node, codes, parent)
                loc = loc + (0.7 - 0.4 * i) * code + (loc * code if i % 2 else 0.3 * code**2)
            fn = dist.Normal(loc, 1.2)
            pyro.sample(name, self._masked(fn, node, weight, seed), obs=fixed(shape, seed))
            return None
        event = EVENTS[node.kind]
        spread = (..., *[None] * len(event))
        if role == "guide":
            logits = t[f"q_{name}"]
            for parent in node.guide_parents:
                logits = logits + t[f"slope_{name}_{parent}"] * self._parent(node, codes, parent)[spread]
            if node.chained and before is not None:
                logits = logits + t[f"slope_{name}_chain"] * before[spread]
        else:
            logits = t[f"p_{name}"] if node.learned_prior else fixed(self.shape(()) + event, seed)
            for i, parent in enumerate(node.model_parents):
                direction = fixed(event, seed + i) * 0.6
                logits = logits + direction * self._parent(node, codes, parent)[spread]
            if node.chained and before is not None:
                logits = logits + fixed(event, seed + 9) * before[spread]
        fn = self._distribution(node, logits, 0.6 if role == "guide" else 1.0)
        if not plain:
            fn = self._masked(fn, node, weight, seed)
        if not node.obs_mask:
            return pyro.sample(name, fn, infer=dict(node.infer) if role == "guide" else {})
        seen = (torch.arange(shape[-1]) % 2 == 0).expand(shape)
        if role == "guide":
            unseen = contextlib.nullcontext() if plain else poutine.mask(mask=~seen)
            with unseen:
                return pyro.sample(f"{name}_unobserved", fn, infer=dict(node.infer))
        value = torch.ones(shape) if node.kind == "bernoulli" else torch.ones(shape, dtype=torch.long)
        if node.kind == "binomial":
            value = torch.ones(shape, dtype=F64)
        if node.kind == "one_hot":
            value = torch.eye(3, dtype=F64)[value]
        return pyro.sample(name, fn, obs=value, obs_mask=seen)

    @staticmethod
    def _distribution(node, logits, scale):
        return {
            "categorical": lambda: dist.Categorical(logits=logits),
            "bernoulli": lambda: dist.Bernoulli(logits=logits),
            "one_hot": lambda: dist.OneHotCategorical(logits=logits),
            "binomial": lambda: dist.Binomial(2, logits=logits),
            "bernoullis": lambda: dist.Bernoulli(logits=logits).to_event(1),
            "categoricals": lambda: dist.Categorical(logits=logits).to_event(1),
            "one_hots": lambda: dist.OneHotCategorical(logits=logits).to_event(1),
            "normal": lambda: dist.Normal(logits, scale),
        }[node.kind]()

    def _masked(self, fn, node, weight, seed):
        if weight.mask == "outer":
            return fn.mask(fixed(self.shape(node.plates), seed + 2) > -0.3)
        if weight.mask == "false":
            return fn.mask(False)
        if weight.mask == "inner":
            return fn.base_dist.mask(torch.tensor([True, False])).to_event(1)
        return fn

    # exact results

    def _tables(self):
        """Return, for each site of the guide, its joint values over the plates and their log quadrature weights."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(NUM_VALUES["normal"])
        one = {
            "categorical": torch.arange(3),
            "bernoulli": torch.tensor([0.0, 1.0], dtype=F64),
            "one_hot": torch.eye(3, dtype=F64),
            "binomial": torch.arange(3, dtype=F64),
            "bernoullis": torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=F64),
            "categoricals": torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]),
            "one_hots": torch.eye(2, dtype=F64)[torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])],
            "normal": torch.tensor(nodes, dtype=F64),
        }
        log_weights = torch.tensor(weights / weights.sum(), dtype=F64).log()
        tables = {}
        for name, node in self.nodes("guide"):
            shape, support = self.shape(node.plates), one[node.kind]
            index = torch.cartesian_prod(*[torch.arange(len(support))] * math.prod(shape)).reshape(-1, math.prod(shape))
            values = support[index].reshape(len(index), *shape, *support.shape[1:])
            log_weight = log_weights[index].sum(-1) if node.kind == "normal" else torch.zeros(len(index), dtype=F64)
            tables[f"{name}_unobserved" if node.obs_mask else name] = values, log_weight
        return tables

    def _terms(self):
        """Run the program once with all configurations side by side.

        Returns:
            The leaves, the log-probability of each configuration, its terms by (role, name), and the plates of each
            term.
        """
        values, log_weight, stride, total = {}, 0.0, 1, self.num_configurations
        for name, (table, weight) in self._tables().items():
            index = torch.arange(total) // stride % len(table)
            values[name], log_weight, stride = table[index], log_weight + weight[index], stride * len(table)
        leaves = self.parameters(1)
        shared = {name: leaf.expand(total, *leaf.shape[1:]) for name, leaf in leaves.items()}
        configurations = pyro.plate("configurations", total, dim=-1 - self.nesting)
        feed, run = _Feed(values), lambda program, *args: poutine.trace(configurations(program)).get_trace(*args)
        plain = run(feed(self.guide), shared, True)
        guide = run(feed(self.guide), shared)
        model = poutine.trace(poutine.replay(configurations(self.model), trace=guide)).get_trace(shared)
        log_prob = log_weight
        for site in self._sites(plain):
            if not isinstance(site["fn"], dist.Normal):
                log_prob = log_prob + site["unscaled_log_prob"].reshape(total, -1).sum(1)
        terms = {}
        for role, trace, sign in (("model", model, 1), ("guide", guide, -1)):
            for site in self._sites(trace):
                plates = frozenset(f.name for f in site["cond_indep_stack"] if f.vectorized) - {"configurations"}
                shape = (total, *[1] * self.nesting)
                value = sign * site["log_prob"].expand(torch.broadcast_shapes(site["log_prob"].shape, shape))
                terms[role, site["name"]] = value, plates, site["is_observed"]
        return leaves, log_prob, terms

    @staticmethod
    def _sites(trace):
        trace.compute_log_prob()
        kept = []
        for site in trace.nodes.values():
            if site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample":
                if not site["infer"].get("_deterministic"):
                    kept.append(site)
        return kept

    def exact(self, num_particles=1):
        """Return expected loss, standard deviation of the loss of one draw, and gradient, of the (multi-sample) bound.

        Several particles sum over all tuples of configurations; the bound is taken inside the plates around all
        latent sites and all observed ones that depend on them.
        """
        leaves, log_prob, terms = self._terms()
        if num_particles == 1:
            bound = sum(value.reshape(len(value), -1).sum(1) for value, _, _ in terms.values())
        else:
            log_prob, bound = self._bounds(log_prob, terms, num_particles)
        prob = log_prob.exp()
        loss = -(prob * bound).sum()
        deviation = (prob * (bound + loss) ** 2).sum().sqrt()
        gradient = torch.cat([g.flatten() for g in gradients(loss, list(leaves.values()))])
        return loss.item(), deviation.item(), gradient

    def _bounds(self, log_prob, terms, num_particles):
        dependent = {name for name, node in self.nodes("model") if node.model_parents or node.chained}
        inside = [
            plates
            for (_, name), (_, plates, observed) in terms.items()
            if not observed or name.removesuffix("_observed") in dependent
        ]
        common = frozenset.intersection(*inside)
        scale = math.prod(self.plates[p].full / self.plates[p].size for p in common)
        kept = {self.plates[p].dim for p in common}
        summed = [d for d in range(-self.nesting, 0) if d not in kept]
        log_weight, outside = 0.0, 0.0
        for value, plates, _ in terms.values():
            if plates >= common:
                log_weight = log_weight + (value.sum(summed, keepdim=True) if summed else value) / scale
            else:
                outside = outside + value.reshape(len(value), -1).sum(1)
        log_weight = log_weight.reshape(len(log_weight), -1)
        tuples = torch.cartesian_prod(*[torch.arange(len(log_prob))] * num_particles).reshape(-1, num_particles)
        bound = (log_weight[tuples].logsumexp(1) - math.log(num_particles)).sum(-1) * scale
        if isinstance(outside, torch.Tensor):
            bound = bound + outside[tuples].mean(1)
        return log_prob[tuples].sum(-1), bound

    def estimate(self, elbo, copies, seed=0):
        """Return the mean loss of ``copies`` independent estimates and their ``(copies, P)`` gradients."""
        pyro.set_rng_seed(seed)
        leaves = self.parameters(copies)
        replicates = pyro.plate("replicates", copies, dim=-1 - self.nesting)
        loss = elbo.differentiable_loss(replicates(self.model), replicates(self.guide), leaves)
        if not loss.requires_grad:  # nothing that counts depends on a parameter
            return loss.item() / copies, torch.zeros(copies, sum(leaf[0].numel() for leaf in leaves.values()))
        samples = torch.cat([g.reshape(copies, -1) for g in gradients(loss, list(leaves.values()))], 1)
        return loss.item() / copies, samples
