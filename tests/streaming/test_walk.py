"""Tokens that a session takes in one launch each: what the model gives when it is called, whatever happens between."""

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch

import recurra
from recurra.models.language_model import LanguageModel
from recurra.testing.tolerances import assert_close


def model_of(pattern="mamba+gru", **options):
    return LanguageModel(40, 24, pattern, **options).eval()


def called(model, tokens, state=None):
    """What the layers themselves give."""
    with torch.no_grad():
        logits, state = model(torch.tensor([tokens]), state, engine="loop")
    return logits[0, -1], state


def walking(model, tokens=(1, 2, 3)):
    """A session that has taken tokens one by one, in launches."""
    session = model.stream()
    for token in tokens:
        session.feed((token,))
    assert session._walk is not None
    return session


def assert_same(session, logits, state):
    dtype = next(session.model.parameters()).dtype
    assert_close("logits", session.logits, logits, dtype)
    assert session.logits.dtype is logits.dtype is dtype
    for name, value in state.items():
        assert_close(name, session.state[name], value, dtype)
        assert session.state[name].dtype is value.dtype


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("options", [{}, {"design": {"embedding_norm": True, "tied": True, "soft_cap": 5.0}}])
@pytest.mark.parametrize("pattern", ["mamba+gru", "lru+slstm", "rwkv7"])
def test_equals_the_model(pattern, options, count):
    model, tokens = model_of(pattern, **options), torch.randint(0, 40, (count,)).tolist()
    assert_same(walking(model, tokens), *called(model, tokens))


@pytest.mark.parametrize("float32_residual", [False, True])
def test_half_types(float32_residual):
    model = model_of("gru", design={"float32_residual": float32_residual}).to(torch.bfloat16)
    assert_same(walking(model), *called(model, [1, 2, 3]))


def test_states_that_were_read_stay():
    model = model_of()
    session, seen = walking(model), []
    for token in range(6):
        seen.append((session.logits, session.state, session.logits.clone(), session.state.clone()))
        session.feed((token,))
    list(session.generate(6))
    for logits, state, logits_then, state_then in seen:
        assert torch.equal(logits, logits_then)
        assert all(torch.equal(state[name], state_then[name]) for name in state)


def test_a_state_may_be_written_to_and_set():
    model = model_of()
    session = walking(model)
    for value in session.state.values():
        value.zero_()
    session.feed((4,))
    logits, _ = called(model, [4], {n: torch.zeros_like(v) for n, v in model.initial_state(1).items()})
    assert_close("logits", session.logits, logits)
    session.state = start = model.initial_state(1)
    session.feed((5,))
    session.feed((6,))
    assert_same(session, *called(model, [5, 6]))
    assert all(torch.equal(start[name], value) for name, value in model.initial_state(1).items())


def change_a_weight(model):
    model.blocks[0].recurrence.to_inner.weight.data = torch.randn(96, 24)


def change_the_scale(model):
    model.scale = 0.5


def change_the_head(model):
    model.head = torch.nn.Linear(24, 40, bias=False)


def change_the_embedding(model):
    model.embedding = torch.nn.Embedding(40, 24)


def change_a_block(model):
    model.blocks[1] = model_of("gru").blocks[0]


def change_the_norm(model):
    model.norm.weight = torch.nn.Parameter(torch.randn(24))


class Doubled(torch.nn.Module):
    """What an adapter looks like: it has the weight of what it is around."""

    weight = property(lambda self: self.base.weight)

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x):
        return 2 * self.base(x)


def put_something_around_the_embedding(model):
    model.embedding = Doubled(model.embedding)


def put_something_around_the_head(model):
    model.head = Doubled(model.head)


def put_something_around_a_map(model):
    model.blocks[0].recurrence.to_inner = Doubled(model.blocks[0].recurrence.to_inner)


def let_the_embedding_renormalise(model):
    model.embedding.max_norm = 0.1


def change_in_place(model):
    model.blocks[0].recurrence.to_output.weight.data.mul_(2)


@pytest.mark.parametrize(
    "change",
    [
        change_a_weight, change_the_scale, change_the_head, change_the_embedding, change_a_block, change_the_norm,
        change_in_place, put_something_around_the_embedding, put_something_around_the_head, put_something_around_a_map,
        let_the_embedding_renormalise,
    ],
)  # fmt: skip
def test_what_changes_is_seen(change):
    model = model_of()
    session = walking(model)
    _, state = called(model, [1, 2, 3])
    before, _ = called(model, [4], state)
    change(model)
    session.feed((4,))
    logits, state = called(model, [4], state)
    assert (logits - before).abs().max() > 1e-4
    assert_same(session, logits, state)
    # A session that begins now does the same, token by token.
    session = model.stream()
    for token in (1, 2, 3):
        session.feed((token,))
    assert_same(session, *called(model, [1, 2, 3]))


def test_hooks_of_the_model_and_forwards_of_others_are_called():
    model, seen = model_of(), []
    session = walking(model)
    handle = model.register_forward_hook(lambda *_: seen.append("hook"))
    session.feed((4,))
    handle.remove()
    forward = model.forward
    model.forward = lambda *args, **options: seen.append("forward") or forward(*args, **options)
    session.feed((5,))
    del model.forward
    session.feed((6,))
    assert seen == ["hook", "forward"]
    assert_same(session, *called(model, [1, 2, 3, 4, 5, 6]))


def test_dropout_counts_from_the_next_token_on():
    model = model_of("gru", dropout=0.5)
    sessions = [walking(model) for _ in range(4)]
    model.train()
    assert len({tuple(session.feed((4,)).tolist()) for session in sessions}) > 1


def test_the_number_of_threads_may_change():
    model, before = LanguageModel(40, 160, "mamba").eval(), torch.get_num_threads()
    session = walking(model)
    try:
        for count in (1, 3, 2):
            torch.set_num_threads(count)
            session.feed((count,))
    finally:
        torch.set_num_threads(before)
    assert_same(session, *called(model, [1, 2, 3, 1, 3, 2]))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda session: pickle.loads(pickle.dumps(session))])
def test_copies_go_their_own_way(copied):
    model = model_of()
    session = walking(model)
    other = copied(session)
    session.feed((4,))
    other.feed((5,))
    assert_same(session, *called(model, [1, 2, 3, 4]))
    assert_same(other, *called(model, [1, 2, 3, 5]))


@torch.inference_mode()
def test_states_made_without_autograd_may_be_used_with_it():
    session = walking(model_of())
    assert not any(value.is_inference() for value in session.state.values())


def test_sessions_of_one_model_in_several_threads():
    model, tokens = LanguageModel(40, 160, "mamba").eval(), torch.randint(0, 40, (30,)).tolist()
    results, expected = [], called(model, tokens)[0]
    workers = [threading.Thread(target=lambda: results.append(walking(model, tokens).logits)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    for logits in results:
        assert_close("logits", logits, expected)


def test_a_state_may_be_read_by_another_thread():
    session, done, seen = walking(model_of()), threading.Event(), []

    def look():
        while not done.is_set():
            seen.append(session.state)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        tokens = list(session.generate(100))
    finally:
        done.set()
        watcher.join()
    assert seen
    assert_same(session, *called(session.model, [1, 2, 3, *tokens]))


def test_a_state_read_by_another_thread_is_not_put_back_after_the_next_token(monkeypatch):
    """The reader stops between taking the state and keeping it, and the session goes on meanwhile."""
    session, taken, go = walking(model_of()), threading.Event(), threading.Event()
    model, end = session.model, type(session._walk).end

    def slowly(walk):
        state = end(walk)
        taken.set()
        go.wait(2)
        return state

    monkeypatch.setattr(type(session._walk), "end", slowly)
    reader = threading.Thread(target=lambda: session.state)
    reader.start()
    taken.wait()
    feeder = threading.Thread(target=session.feed, args=((4,),))
    feeder.start()
    feeder.join(0.2)
    go.set()
    reader.join()
    feeder.join()
    session.feed((5,))
    assert_same(session, *called(model, [1, 2, 3, 4, 5]))


def test_models_walked_once_are_forgotten():
    session = walking(model_of("gru"))
    gone = [weakref.ref(thing) for thing in (session, session.model, *session.model.parameters())]
    del session
    gc.collect()
    assert [thing() for thing in gone] == [None] * len(gone)


def test_models_that_something_in_them_refers_to_are_forgotten():
    model = model_of("gru")
    model.helper = {"model": model}
    model.blocks[0].register_forward_hook(lambda *_, model=model: None)
    with torch.no_grad():
        model.advance(torch.tensor([1]), model.initial_state(1))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_models_have_plans_of_their_own(copied):
    model = model_of()
    walking(model)
    other = copied(model)
    other.scale = 2 * model.scale
    assert_same(walking(other), *called(other, [1, 2, 3]))
    assert_same(walking(model), *called(model, [1, 2, 3]))


def test_copies_throw_dice_of_their_own():
    session = walking(model_of())
    other = copy.copy(session)
    assert list(session.generate(20)) == list(other.generate(20))


def test_a_hook_beside_another_is_called():
    model = model_of()
    model.register_forward_hook(lambda *_: None)
    state, token, ran = model.initial_state(1), torch.tensor([1]), []
    with torch.no_grad():
        model.advance(token, state)
        model.blocks[0].register_forward_hook(lambda *_: ran.append(1))
        model.advance(token, state)
    assert ran == [1]


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_session_set_to_what_is_no_state(count):
    session = walking(model_of())
    session.state = dict.fromkeys(session.state)
    with pytest.raises(recurra.InputError, match="state"):
        session.feed((1,) * count)
    session.state = None
    session.feed((1,) * count)
    assert_same(session, *called(session.model, [1] * count))


def test_blocks_taken_out_are_noticed():
    session = walking(model_of("gru*2"))
    session.model.blocks = session.model.blocks[1:]
    with pytest.raises(recurra.InputError, match=r"blocks\.1"):
        session.feed((4,))


def test_another_way_of_calling_models_is_honoured(monkeypatch):
    session = walking(model_of())
    forward, ran = LanguageModel.forward, []
    monkeypatch.setattr(LanguageModel, "forward", lambda *args, **named: ran.append(1) or forward(*args, **named))
    session.feed((4,))
    assert ran == [1]


def test_few_tokens_and_many_are_read_alike():
    model, tokens = model_of(), torch.randint(0, 40, (20,)).tolist()
    for count in (2, 8, 9, 20):
        session = model.stream()
        session.feed(tokens[:count])
        assert_same(session, *called(model, tokens[:count]))


def test_an_error_in_the_middle_leaves_the_session_as_it_was(monkeypatch):
    model = model_of()
    session, untouched = walking(model), walking(model)
    left = [None] * 3

    def failing(rows, enter=model._enter):
        left.pop()
        if not left:
            raise KeyboardInterrupt
        return enter(rows)

    monkeypatch.setattr(LanguageModel, "_enter", staticmethod(failing))
    with pytest.raises(KeyboardInterrupt):
        session.feed([4, 5, 6])
    monkeypatch.undo()
    assert torch.equal(session.logits, untouched.logits)
    assert all(torch.equal(session.state[name], value) for name, value in untouched.state.items())


def test_others_layers_are_called():
    model = model_of("attention+gru")
    session = model.stream()
    session.feed((1,))
    session.feed((2,))
    assert session._walk is None
    assert_same(session, *called(model, [1, 2]))


def test_tokens_that_are_none():
    session = walking(model_of())
    for token in (40, -1, 1.5, "a", True):
        with pytest.raises(recurra.InputError, match="tokens"):
            session.feed([token])
    assert_same(session, *called(session.model, [1, 2, 3]))
