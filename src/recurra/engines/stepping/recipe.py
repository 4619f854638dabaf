"""A function of states, one vector and weights as a kernel: how a module takes one time step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from recurra.compiler.codegen.single import Single, write_single
from recurra.compiler.frontend.graph import listing, topological, unmarked
from recurra.compiler.frontend.trace import Untraceable, trace
from recurra.compiler.frontend.values import parts
from recurra.compiler.planning.regroup import regroup
from recurra.compiler.planning.schedule import expand_products, schedule
from recurra.compiler.targets import cache, host
from recurra.engines.traced import SCALAR
from recurra.problem import cast, compute_dtype


class Recipe:
    """A function of states, x and weights as a kernel, for any weights of the same shapes.

    Raises Untraceable if it cannot be compiled.
    """

    def __init__(self, function: Callable, states: Mapping[str, Tensor], x: Tensor, weights: Mapping[str, Tensor]):
        self.real = compute_dtype(x.dtype)
        self.states = {name: state.dtype for name, state in states.items()}
        computed = {name: cast(weight, self.real) for name, weight in weights.items()}
        examples = {name: cast(state, self.real) for name, state in states.items()}
        # Weights may change from one time step to the next: what is computed from them is computed in the kernel.
        traced = trace(function, examples, {"x": cast(x, self.real)}, computed, weights, trains=False)
        outputs = {k: n for name, value in traced.states.items() for k, n in parts(f"next.{name}", value).items()}
        outputs = unmarked(traced.graph, outputs | parts("y", traced.y))
        outputs = regroup(traced.graph, expand_products(traced.graph, outputs, set()))
        used = [node.attr for node in topological(outputs.values()) if node.op == "input"]
        scalar = SCALAR[self.real]
        kinds = {name: SCALAR.get(state.dtype, scalar) for name, state in states.items()}
        stored = {f"state.{name}": kind for name, kind in kinds.items()}
        leaves = {name: stored.get(name, scalar) for name in used if name.startswith(("state.", "input."))}
        self.weights = [name for name in weights if f"weight.{name}" in used]
        leaves |= {f"weight.{name}": SCALAR[weights[name].dtype] for name in self.weights}
        data = {f"weight.{name}": t for name, t in traced.prepared({}, x.device).items()}
        # Flags and whole numbers too are read as numbers: a kernel knows nothing of how else they may lie.
        self.data = {name: t.to(self.real).contiguous() for name, t in data.items() if name in used}
        leaves |= dict.fromkeys(self.data, scalar)
        if "y" not in outputs or set(leaves) != set(used):
            raise Untraceable("single steps are compiled for real weights and outputs")
        self.y = outputs["y"].shape
        written = {name: kinds.get(name[5:], scalar) for name in outputs}
        single = Single(schedule(outputs), leaves, written, scalar)
        width, text = host.vector_bytes() // (8 if scalar == "double" else 4), listing(outputs)
        key = f"single {text} {sorted((leaves | written).items())} {scalar}"
        self.kernel = cache.get(key, lambda: write_single(single, width), lambda: text)
