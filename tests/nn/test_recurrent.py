"""`recurra.nn` is `torch.nn`: on PyTorch's own cases and ours, in values, states, gradients, errors, random draws."""

import copy
import pickle

import pytest
import torch
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from recurra import InputError, nn
from recurra.testing.tolerances import assert_close

KINDS = ("RNN", "GRU", "LSTM")
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def pair(kind, *args, **options):
    """Ours and theirs, with the same parameters."""
    theirs = getattr(torch.nn, kind)(*args, **options)
    ours = getattr(nn, kind)(*args, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def tensors(value):
    """All tensors of nested arguments or results."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, PackedSequence):
        return [value.data]
    return [] if value is None else [tensor for part in value for tensor in tensors(part)]


def leaves(value):
    """Copies of nested arguments, whose tensors ask for gradients."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_()
    if isinstance(value, PackedSequence):
        return value._replace(data=leaves(value.data))
    return None if value is None else type(value)(map(leaves, value))


def same(ours, theirs, *args):
    """Results, their layout, and gradients of all arguments and parameters."""
    results = []
    for module in (ours, theirs):
        given = leaves(args)
        torch.manual_seed(3)
        found = module(*given)
        torch.manual_seed(4)
        loss = sum((value * torch.randn(value.shape, dtype=value.dtype)).sum() for value in tensors(found))
        wanted = [*tensors(given), *module.parameters()]
        results.append((found, torch.autograd.grad(loss, wanted, materialize_grads=True)))
    (found, slopes), (expected, expected_slopes) = results
    assert type(found) is type(expected)
    if isinstance(expected[0], PackedSequence):
        for got, value in zip(found[0][1:], expected[0][1:], strict=True):
            assert (got is None and value is None) or torch.equal(got, value)
    for what, got, value in (("result", tensors(found), tensors(expected)), ("gradient", slopes, expected_slopes)):
        assert len(got) == len(value)
        for one, other in zip(got, value, strict=True):
            assert one.dtype == other.dtype
            assert_close(what, one, other)


def published(kind, which):
    """What PyTorch tests this module with."""
    pytest.importorskip("expecttest")
    from torch.testing._internal import common_modules

    torch.backends.__dict__["__allow_nonbracketed_mutation_flag"] = True  # it forbids what other tests may do
    info = next(one for one in common_modules.module_db if one.module_cls is getattr(torch.nn, kind))
    for training in (False, True):
        make = getattr(info, which)
        for case in make(info, device="cpu", dtype=torch.float64, requires_grad=True, training=training):
            yield training, case


@pytest.mark.parametrize(("kind", "count"), [("RNN", 64), ("GRU", 32), ("LSTM", 64)])
def test_cases_of_pytorch(kind, count):
    held = 0
    for training, case in published(kind, "module_inputs_func"):
        made, called = case.constructor_input, case.forward_input
        ours, theirs = pair(kind, *made.args, **made.kwargs, dtype=torch.float64)
        same(ours.train(training), theirs.train(training), *called.args)
        held += 1
    assert held >= count


@pytest.mark.parametrize("kind", KINDS)
def test_errors_of_pytorch(kind):
    for _, case in published(kind, "module_error_inputs_func"):
        made, called = case.module_error_input.constructor_input, case.module_error_input.forward_input
        with pytest.raises(case.error_type, match=case.error_regex):
            getattr(nn, kind)(*made.args, **made.kwargs)(*called.args)


WAYS = [
    {},
    {"num_layers": 3, "dropout": 0.4, "batch_first": True},
    {"num_layers": 2, "dropout": 0.4, "bidirectional": True},
    {"num_layers": 2, "bias": False, "bidirectional": True, "batch_first": True},
]


def states(kind, options, batch, dtype):
    layers = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    h = torch.randn(layers, batch, options.get("proj_size") or 5, dtype=dtype)
    return (h, torch.randn(layers, batch, 5, dtype=dtype)) if kind == "LSTM" else h


@pytest.mark.parametrize("options", [*WAYS, {"num_layers": 2, "proj_size": 2, "bidirectional": True, "dropout": 0.3}])
@pytest.mark.parametrize("kind", KINDS)
def test_padded_and_packed(kind, options):
    """What dropout draws is the same as well."""
    if "proj_size" in options and kind != "LSTM":
        return
    ours, theirs = pair(kind, 4, 5, **options, dtype=torch.float64)
    time, batch = 7, 3
    x = torch.randn(batch, time, 4, dtype=torch.float64)
    padded = x if options.get("batch_first") else x.transpose(0, 1)
    hx = states(kind, options, batch, torch.float64)
    same(ours, theirs, padded)
    same(ours, theirs, padded, hx)
    same(ours, theirs, x[0], None)
    lengths = torch.tensor([2, 7, 4])
    for sort in (False, True):
        packed = pack_padded_sequence(x, lengths.sort(descending=True)[0] if sort else lengths, True, sort)
        same(ours, theirs, packed)
        same(ours, theirs, packed, hx)
    same(ours, theirs, pack_sequence([x[0, :5], x[1, :3], x[2, :1]]))


@pytest.mark.parametrize("options", WAYS[:3:2])
@pytest.mark.parametrize("kind", KINDS)
def test_resets_start_anew(kind, options):
    module = getattr(nn, kind)(4, 5, **options, dtype=torch.float64).eval()
    x, resets = torch.randn(9, 2, 4, dtype=torch.float64), torch.zeros(9, 2, dtype=torch.bool)
    resets[[2, 6], 0] = True
    y, _ = module(x, resets=resets)
    parts = [module(x[a:b, :1])[0] for a, b in ((0, 2), (2, 6), (6, 9))]
    assert_close("row with resets", y[:, :1], torch.cat(parts))
    assert_close("row without", y[:, 1:], module(x[:, 1:])[0])
    assert_close("row alone", module(x[:, 0], resets=resets[:, 0])[0], y[:, 0])
    other = getattr(nn, kind)(4, 5, **options, batch_first=True, dtype=torch.float64).eval()
    other.load_state_dict(module.state_dict())
    assert_close("batch first", other(x.transpose(0, 1), resets=resets.T)[0], y.transpose(0, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_may_change_in_every_way(kind):
    ours, theirs = pair(kind, 4, 5, 2, bidirectional=True)
    x = torch.randn(6, 2, 4)
    same(ours, theirs, x)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        with torch.no_grad():
            copied.weight_hh_l0.zero_()
        same(ours, theirs, x)
    for module in (ours, theirs):
        torch.manual_seed(1)
        module.weight_hh_l1 = torch.nn.Parameter(torch.randn_like(module.weight_hh_l1))
        module.bias_ih_l0.data.add_(1)
    same(ours, theirs, x)
    swapped = {"weight_ih_l0": torch.randn_like(theirs.weight_ih_l0)}
    found, expected = (torch.func.functional_call(module, swapped, x)[0] for module in (ours, theirs))
    assert_close("functional call", found, expected)
    same(ours.double(), theirs.double(), x.double())
    theirs.load_state_dict(ours.state_dict())
    same(
        parametrizations.weight_norm(ours, "weight_hh_l0"),
        parametrizations.weight_norm(theirs, "weight_hh_l0"),
        x.double(),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_half_types(kind):
    ours, theirs = pair(kind, 4, 5, 2)
    x = torch.randn(6, 2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (y, state), (expected, after) = ours(x), theirs(x)
    for got, value in zip(tensors((y, state)), tensors((expected, after)), strict=True):
        assert got.dtype == value.dtype
        assert_close("under autocast", got, value, torch.bfloat16)
    ours.bfloat16()
    x = x.bfloat16()
    y, state = ours(x)
    assert {value.dtype for value in tensors((y, state))} == {torch.bfloat16}
    again = tensors(ours(x, state))
    wide = type(state)(value.float() for value in state) if kind == "LSTM" else state.float()
    for got, value in zip(again, tensors(ours.float()(x.float(), wide)), strict=True):
        assert_close("in bfloat16", got, value, torch.bfloat16)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m(None), "input is a NoneType; expected a tensor or a PackedSequence"),
        (lambda m: m(torch.randn(3, 2, 4), torch.randn(1, 2, 5)), "hx is .*; expected a tuple of 2 tensors, h and c"),
        (lambda m: m(torch.randn(3, 2, 4), (None, None)), "hx holds .*; expected tensors"),
        (lambda m: m(torch.randn(3, 2, 4), resets=torch.zeros(2, 3, dtype=torch.bool)), "resets"),
        (lambda m: m(torch.randn(3, 2, 4), resets=torch.zeros(3, 2)), "resets"),
        (lambda m: m(pack_sequence([torch.randn(3, 4)]), resets=torch.zeros(3, 1)), "resets were given with a Packed"),
    ],
)
def test_what_is_wrong_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call(nn.LSTM(4, 5))


def test_lengths_of_packs_come_back():
    y, _ = nn.GRU(4, 5)(pack_sequence([torch.randn(2, 4), torch.randn(5, 4)], enforce_sorted=False))
    assert pad_packed_sequence(y)[1].tolist() == [2, 5]


def test_names():
    assert set(nn.__all__) <= set(dir(nn))
    assert all(issubclass(getattr(nn, name), getattr(torch.nn, name)) for name in nn.__all__)
    with pytest.raises(AttributeError, match=r"recurra\.nn.*Conv1d.*it has GRU"):
        nn.Conv1d  # noqa: B018
