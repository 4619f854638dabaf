"""Our models inside transformers: AutoModelForCausalLM, generate, padding, saving."""

import subprocess
import sys

import pytest
import torch
from families import build

import recurra
from recurra.interop.convert import to_transformers
from recurra.models import files
from recurra.testing.tolerances import assert_close

transformers = pytest.importorskip("transformers")

from tiny_models import V, carried, tiny, tokens  # noqa: E402

from recurra.interop.transformers import CACHE  # noqa: E402

LOAD = "transformers.AutoModelForCausalLM.from_pretrained(folder)"


@pytest.mark.parametrize(
    "program",
    [
        f"import recurra, transformers; model = {LOAD}",
        f"import transformers, recurra; model = {LOAD}",
        f"import transformers; transformers.AutoModelForCausalLM; import recurra; model = {LOAD}",
        f"import recurra; from transformers import GenerationMixin; import transformers; model = {LOAD}",
        f"import recurra; from transformers.models.auto import auto_factory; import transformers; model = {LOAD}",
        f"from recurra.interop.transformers import RecurraConfig; import transformers; model = {LOAD}",
        "import recurra; from transformers import AutoConfig, AutoModelForCausalLM; "
        "model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))",
    ],
)
def test_either_may_be_imported_first(tmp_path, program):
    files.save(tiny("min-gru"), tmp_path)
    script = f"folder = {str(tmp_path)!r}; {program}; print(type(model).__name__, type(model.model).__name__)"
    result = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "RecurraForCausalLM LanguageModel", result.stderr


def test_nothing_of_transformers_is_imported_for_recurra_alone():
    script = "import recurra, sys; recurra.layers(); print([n for n in sys.modules if n.startswith('transformers')])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_logits_loss_and_gradients(pair):
    model, theirs = pair
    x = tokens(3, 9)
    output = theirs(x, labels=x)
    assert torch.equal(output.logits, model(x)[0])
    expected = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), x[:, 1:].flatten())
    assert_close("loss", output.loss, expected)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in theirs.parameters())
    assert torch.equal(theirs(x, logits_to_keep=2).logits, output.logits[:, -2:])
    assert torch.equal(theirs(x, return_dict=False)[0], output.logits)


@pytest.mark.parametrize("pattern", ["lmu", "s4d", "titans", "gated-delta-net"])
def test_layers_with_buffers_and_special_beginnings(tmp_path, pattern):
    model, x = tiny(pattern), tokens(2, 5)
    files.save(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(theirs(x).logits, model(x)[0])


def test_greedy_is_the_greedy_of_a_session(pair):
    model, theirs = pair
    for prompt in tokens(3, 8):
        session = model.stream()
        session.feed(prompt)
        written = theirs.generate(prompt[None], max_new_tokens=12, do_sample=False)
        assert written[0].tolist() == prompt.tolist() + list(session.generate(12, temperature=0))


def test_generate_reads_each_token_once(pair):
    _, theirs = pair
    read, forward = [], theirs.model.forward

    def counting(tokens, *args, **options):
        read.append(tokens.shape[1])
        return forward(tokens, *args, **options)

    theirs.model.forward = counting
    theirs.generate(tokens(1, 8), max_new_tokens=5, do_sample=False)
    assert read == [8, 1, 1, 1, 1]


def test_generate_goes_on_from_a_cache(pair):
    _, theirs = pair
    x = tokens(1, 8)
    cache = carried(theirs(x[:, :5]))
    assert cache.get_seq_length() == 5
    whole = theirs.generate(x, max_new_tokens=6, do_sample=False)
    assert torch.equal(theirs.generate(x, max_new_tokens=6, do_sample=False, **{CACHE: cache}), whole)
    rest, mask = x[:, 5:], torch.ones_like(x)
    went_on = theirs.generate(rest, attention_mask=mask, max_new_tokens=6, do_sample=False, **{CACHE: cache})
    assert torch.equal(went_on[:, -6:], whole[:, -6:])


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_what_is_carried_has_both_names(pair, name):
    model, theirs = pair
    x = tokens(2, 7)
    cache = carried(theirs(x[:, :4]))
    assert_close("logits", theirs(x[:, 4:], **{name: cache}).logits, model(x)[0][:, 4:])
    with pytest.raises(recurra.InputError, match="past_key_values and cache were given"):
        theirs(x, past_key_values=cache, cache=cache)


def test_beams_are_those_without_a_cache(pair):
    _, theirs = pair
    x = tokens(2, 6)
    beams = theirs.generate(x, max_new_tokens=8, num_beams=4, do_sample=False)
    assert torch.equal(theirs.generate(x, max_new_tokens=8, num_beams=4, do_sample=False, use_cache=False), beams)


def test_saved_by_transformers_it_is_still_ours(pair, tmp_path):
    model, theirs = pair
    theirs.save_pretrained(tmp_path / "again")
    x = tokens(2, 5)
    loaded = recurra.load(tmp_path / "again")
    assert loaded.config == model.config
    assert torch.equal(loaded(x)[0], model(x)[0])


def test_special_tokens_come_from_the_checkpoint(tmp_path):
    build("mamba").save_pretrained(tmp_path / "theirs")
    files.save(recurra.load(tmp_path / "theirs"), tmp_path / "ours")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    assert (config.model_type, config.bos_token_id, config.eos_token_id) == ("recurra", 0, 0)


def test_without_a_tokenizer_every_byte_is_a_token(tmp_path):
    files.save(tiny("min-gru"), tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path, padding_side="left")
    for text in ("plain", "hällo  wörld\n\tĀ Ġ 日本 🙂 \0 end ", "".join(map(chr, range(0x250)))):
        assert tokenizer(text).input_ids == list(text.encode())
        assert tokenizer.decode(list(text.encode())) == text
    assert (len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id) == (256, 0, 0)
    assert tokenizer(["ab", "c"], padding=True).input_ids == [[97, 98], [0, 99]]
    tokenizer.save_pretrained(tmp_path / "saved")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again("Ā \0").input_ids == list("Ā \0".encode())


def test_a_tokenizer_that_came_along_is_used(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    model = tiny("min-gru")
    files.save(model, tmp_path)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"one": 0, "two": 1}, unk_token="one"))
    words.save(str(tmp_path / "tokenizer.json"))
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)("two").input_ids == [1]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("mean", [False, True])
def test_more_tokens_and_fewer(tmp_path, tied, mean):
    files.save(tiny("gru", design={"tied": tied}), tmp_path / "old")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "old")
    x, rows = tokens(2, 6), theirs.model.embedding.weight.detach().clone()
    old, cache = theirs(x).logits, carried(theirs(x))
    theirs.model.advance(x[:1, 0], cache.state.rows(0))  # a kernel of the old head
    theirs.resize_token_embeddings(V + 500, mean_resizing=mean)
    assert torch.equal(theirs.model.embedding.weight[:V], rows)
    assert_close("scores of the old tokens", theirs(x).logits[..., :V], old)
    added = theirs.model.embedding.weight[V:]
    if mean:
        torch.testing.assert_close(added, rows.mean(0).expand_as(added), rtol=0, atol=1e-3)
    else:
        assert abs(added.std() * theirs.model.scale - 1) < 0.05
    new = torch.full((2, 3), V + 7)
    output = theirs(new, labels=new)
    assert output.logits.shape == (2, 3, V + 500)
    assert output.loss.isfinite()
    streamed = theirs.model.advance(new[:1, 0], cache.state.rows(0))[0]
    assert_close("a streamed token", streamed, theirs.model(new[:1, :1], cache.state.rows(0), engine="loop")[0][:, 0])
    theirs.generate(new, max_new_tokens=4, do_sample=False)
    theirs.save_pretrained(tmp_path / "new")
    for loaded in (recurra.load(tmp_path / "new"), transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "new")):
        y = loaded(new)
        assert torch.equal(y.logits if hasattr(y, "logits") else y[0], output.logits)
    assert loaded.config.vocab_size == V + 500
    theirs.resize_token_embeddings(V)
    assert_close("scores as before", theirs(x).logits, old)


@pytest.mark.parametrize("number", [0, -1, "40", 2.0, True])
def test_a_size_that_is_none_changes_nothing(pair, number):
    model, theirs = pair
    with pytest.raises(recurra.InputError, match="new_num_tokens is"):
        theirs.resize_token_embeddings(number)
    with pytest.raises(recurra.InputError, match="pad_to_multiple_of is"):
        theirs.resize_token_embeddings(40, number)
    assert theirs.resize_token_embeddings() is theirs.model.embedding
    assert theirs.config.vocab_size == theirs.config.model["vocabulary"] == V
    x = tokens(2, 3)
    assert torch.equal(theirs(x).logits, model(x)[0])


def test_a_model_that_came_along_can_be_written_back_with_more_tokens(tmp_path):
    build("mamba").save_pretrained(tmp_path / "theirs")
    files.save(recurra.load(tmp_path / "theirs"), tmp_path / "ours")
    ours = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    ours.resize_token_embeddings(77)
    ours.save_pretrained(tmp_path / "more")
    to_transformers(recurra.load(tmp_path / "more"), tmp_path / "back")
    back, x = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back"), torch.tensor([[3, 76, 5]])
    assert back.config.vocab_size == 77
    assert_close("logits", ours(x).logits, back(x).logits)


REFUSED = {
    "embeddings": ({"inputs_embeds": torch.zeros(1, 3, 16)}, "inputs_embeds was given; expected input_ids"),
    "both": (
        {"input_ids": torch.tensor([[3]]), "inputs_embeds": torch.zeros(1, 1, 16)},
        "inputs_embeds was given; expected input_ids",
    ),
    "nothing": ({}, "input_ids is a NoneType; expected input_ids"),
    "one axis": ({"input_ids": torch.tensor([3])}, r"input_ids is \[1\] int64 on cpu; expected input_ids \[B, T\]"),
    "a short mask": (
        {"input_ids": torch.tensor([[3, 2]]), "attention_mask": torch.ones(1, 1)},
        r"attention_mask is \[1, 1\] float32 on cpu; expected \[1, 2\]",
    ),
    "a mask of more rows": (
        {"input_ids": torch.tensor([[3, 2]]), "attention_mask": torch.ones(2, 2)},
        r"attention_mask is \[2, 2\] float32 on cpu; expected \[1, 2\]",
    ),
    "another's cache": (
        {"input_ids": torch.tensor([[3, 2]]), "past_key_values": transformers.DynamicCache()},
        f"{CACHE} is a DynamicCache; expected what an earlier call",
    ),
    "positions of one axis": (
        {"input_ids": torch.tensor([[3, 2]]), "position_ids": torch.arange(2)},
        r"position_ids is \[2\] int64 on cpu; expected \[1, 2\] int64",
    ),
    "positions that are none": (
        {"input_ids": torch.tensor([[3, 2]]), "position_ids": torch.ones(1, 2)},
        r"position_ids is \[1, 2\] float32 on cpu; expected \[1, 2\] int64",
    ),
    "positions that leave some out": (
        {"input_ids": torch.tensor([[3, 2, 4]]), "position_ids": torch.tensor([[0, 1, 5]])},
        "position_ids go from 1 to 5 in row 0; expected them to count on",
    ),
    "packed, but not by positions": (
        {"input_ids": torch.tensor([[3, 2]]), "seq_idx": torch.tensor([[0, 1]])},
        "seq_idx was given without position_ids",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_supported_is_refused(pair, what):
    arguments, message = REFUSED[what]
    with pytest.raises(recurra.InputError, match=message):
        pair[1](**arguments)


def test_auto_model_says_what_to_use(tmp_path):
    files.save(tiny("min-gru"), tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    for make, what in (
        (transformers.AutoModel.from_pretrained, tmp_path),
        (transformers.AutoModel.from_config, config),
    ):
        with pytest.raises(recurra.InputError, match="use AutoModelForCausalLM"):
            make(what)


def test_a_loss_over_several_batches_is_one_mean(pair):
    """Trainers that accumulate gradients say how many tokens all batches have together."""
    _, theirs = pair
    x = tokens(4, 6)
    parts = [theirs(rows, labels=rows, num_items_in_batch=20).loss for rows in x.split([1, 3])]
    assert_close("loss", sum(parts), theirs(x, labels=x).loss)


def flows_of(model, x):
    """What a model of ours returns, and what flows into its first block and out of each."""
    flows = []
    hooks = [block.register_forward_hook(lambda _, __, out: flows.append(out[0])) for block in model.blocks]
    hooks.append(model.blocks[0].register_forward_pre_hook(lambda _, given: flows.append(given[0])))
    logits, _ = model(x)
    for hook in hooks:
        hook.remove()
    return logits, flows


@pytest.mark.parametrize("tied", [False, True])
def test_hidden_states_are_what_flows_between_the_blocks(tmp_path, tied):
    """From the embedding to the head, with gradient."""
    design = {"tied": True, "soft_cap": 3.0, "embedding_norm": True, "float32_residual": True} if tied else {}
    model, x = tiny("mamba+lstm+attention", design=design), tokens(2, 7)
    files.save(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    output, (logits, flows) = theirs(x, output_hidden_states=True), flows_of(model, x)
    assert torch.equal(output.logits, logits)
    assert len(output.hidden_states) == len(model.blocks) + 1
    assert all(map(torch.equal, output.hidden_states[:-1], flows))
    read = output.hidden_states[-1] @ (model.embedding if tied else model.head).weight.T
    assert_close("logits of the last", 3 * torch.tanh(read / 3) if tied else read, logits)
    output.hidden_states[1].sum().backward()
    assert theirs.model.embedding.weight.grad.isfinite().all()


def test_generate_returns_what_it_is_asked_for(pair):
    _, theirs = pair
    x = tokens(2, 6)
    asked = {"return_dict_in_generate": True, "output_hidden_states": True, "output_logits": True}
    for options in ({}, {"num_beams": 3}, {"use_cache": False}):
        output = theirs.generate(x, max_new_tokens=4, do_sample=False, **asked, **options)
        assert [len(step) for step in output.hidden_states] == 4 * [3]
        assert all(step[-1].isfinite().all() for step in output.hidden_states)
    again = theirs(output.sequences[:, :-1], output_hidden_states=True)
    for step, flow in zip(output.hidden_states[-1], again.hidden_states, strict=True):
        assert_close("hidden state", step[:, -1], flow[:, -1])
    output = theirs.generate(x, max_new_tokens=2, do_sample=False, return_dict_in_generate=True, output_attentions=True)
    assert output.attentions == (None, None)
    theirs.config.output_hidden_states, theirs.config.return_dict = True, False
    logits, _, hidden = theirs(x)
    assert (logits.shape, len(hidden)) == ((2, 6, V), 3)
