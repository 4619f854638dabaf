"""Checkpoints of transformers: the same weights give the same logits here, whole and streamed, and back there."""

import json
import math
import subprocess
import sys

import pytest
import torch
from families import CASES, SMALL, build, in_plain_operations
from safetensors.torch import load_file, save_file

import recurra
from recurra.interop.convert import FAMILIES, family_of, to_transformers
from recurra.interop.rules import to_theirs
from recurra.models import files
from recurra.training.evaluate import bits_per_byte

transformers = pytest.importorskip("transformers")

T = 70
EXACT = [case for case in CASES if case != "rwkv, halved"]


def tokens(rows=2, time=T):
    return torch.randint(0, SMALL["vocab_size"], (rows, time))


def logits_of(peer, x):
    with torch.no_grad():
        return peer(x, use_cache=False).logits


def assert_equal(got, expected, relative):
    assert got.shape == expected.shape
    assert got.isfinite().all()
    off = float((got - expected).abs().max() / expected.abs().max())
    assert off < relative, f"off by {off:.2g} of the largest"


@torch.no_grad()
def check_all_forms(model, x, expected, relative):
    """Whole, in pieces, and token by token."""
    assert_equal(model(x)[0], expected, relative)
    state, pieces = None, []
    for piece in x.split([1, 5, 0, x.shape[1] - 6], 1):
        logits, state = model(piece, state)
        pieces.append(logits)
    assert_equal(torch.cat(pieces, 1), expected, relative)
    state, steps = None, []
    for token in x.unbind(1):
        logits, state = model.advance(token, state)
        steps.append(logits)
    assert_equal(torch.stack(steps, 1), expected, relative)


@pytest.mark.parametrize("case", EXACT)
def test_logits_in_float32(tmp_path, case):
    peer, x = build(case), tokens()
    peer.save_pretrained(tmp_path)
    check_all_forms(recurra.load(tmp_path), x, logits_of(peer, x), 1e-4)


@pytest.mark.parametrize("case", EXACT)
@pytest.mark.usefixtures("all_in_double")
def test_logits_in_float64(tmp_path, case):
    peer, x = build(case, torch.float64), tokens()
    peer.save_pretrained(tmp_path)
    model = recurra.load(tmp_path)
    assert model.embedding.weight.dtype == torch.float64
    check_all_forms(model, x, logits_of(peer, x), 1e-9)


@pytest.mark.parametrize("case", [case for case in EXACT if "cut elsewhere" not in case])
@pytest.mark.usefixtures("all_in_double")
def test_gradients_in_float64(tmp_path, case):
    """Of every weight. The rules that take weights there only move numbers, so they take gradients as well.

    Token 0 pads in RecurrentGemma, and so its embedding there learns nothing.
    """
    peer, x = build(case, torch.float64), tokens().clamp(min=1)
    peer.save_pretrained(tmp_path)
    model = recurra.load(tmp_path)
    slope = torch.randn(*x.shape, SMALL["vocab_size"], dtype=torch.float64)
    for logits in (peer(x, use_cache=False).logits, model(x)[0]):
        (logits * slope).sum().backward()
    family, held = family_of(model.origin.config), dict(model.named_parameters())
    rules = [rule for rule in family.rules(family.complete(model.origin.config)) if rule.ours in held]
    found = to_theirs(rules, {name: parameter.grad for name, parameter in held.items()})
    for parameter in peer.parameters():  # so that transformers themselves say what they are called in a file
        parameter.data = parameter.grad
    peer.save_pretrained(tmp_path / "slopes")
    expected = load_file(tmp_path / "slopes" / "model.safetensors")
    kept = {name.split(".")[-1] for name, _ in peer.named_buffers()} | {"expert_bias"}  # what a file calls that of Ling
    kept -= {"weight"}  # FalconMamba's, of ones, is in no file
    assert set(found) == {name for name in expected if name.split(".")[-1] not in kept}
    idle = [name for name in found if not expected[name].any()]  # an expert that was never chosen
    assert all("experts." in name and not found[name].any() for name in idle), idle
    for name in found:
        if name in idle:
            continue
        assert_equal(found[name], expected[name], 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_converted_back(tmp_path, case):
    """Through a folder of ours, to a folder of transformers: the same weights, bit for bit, and so the same logits."""
    peer, x = build(case), tokens()
    peer.save_pretrained(tmp_path / "theirs")
    files.save(recurra.load(tmp_path / "theirs"), tmp_path / "ours")
    ours = recurra.load(tmp_path / "ours")
    assert torch.equal(ours(x)[0], recurra.load(tmp_path / "theirs")(x)[0])
    to_transformers(ours, tmp_path / "back")
    again = in_plain_operations(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval())
    assert type(again) is type(peer)
    for name, value in peer.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert torch.equal(logits_of(again, x), logits_of(peer, x))


@torch.no_grad()
def test_rwkv_halved_on_the_way(tmp_path):
    """Where transformers halve what flows past the layers, which the paper does not, ours is what they train."""
    peer, x = build("rwkv, halved"), tokens()
    peer.save_pretrained(tmp_path)
    model = recurra.load(tmp_path)
    assert_equal(model(x)[0], logits_of(peer.train(), x), 1e-4)
    assert_equal(model(x)[0], logits_of(peer.eval(), x), 1e-2)


def test_every_family_is_tested():
    assert {case.split(",")[0] for case in CASES} == set(FAMILIES)


@torch.no_grad()
def test_bfloat16(tmp_path):
    """In a half type both round, each in its own order; float32 weights of the same values say how much."""
    peer, x = build("mamba", torch.bfloat16), tokens()
    peer.save_pretrained(tmp_path)
    model = recurra.load(tmp_path)
    assert model.embedding.weight.dtype == torch.bfloat16
    exact = logits_of(build("mamba", torch.bfloat16).float(), x)
    ours, theirs = (float((logits.float() - exact).abs().max()) for logits in (model(x)[0], logits_of(peer, x)))
    assert ours < 2 * theirs


@torch.no_grad()
def test_shards(tmp_path):
    peer, x = build("mamba"), tokens()
    peer.save_pretrained(tmp_path, max_shard_size="4KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    model = recurra.load(tmp_path)
    assert_equal(model(x)[0], logits_of(peer, x), 1e-4)
    sorted(tmp_path.glob("*.safetensors"))[1].unlink()
    with pytest.raises(recurra.InputError, match=r"which model\.safetensors\.index\.json names"):
        recurra.load(tmp_path)
    for index in ("[]", "{", '{"weight_map": {"a": "../secret.safetensors"}}'):
        (tmp_path / "model.safetensors.index.json").write_text(index)
        with pytest.raises(recurra.InputError, match=r"model\.safetensors\.index\.json"):
            recurra.load(tmp_path)


def test_without_transformers(tmp_path):
    build("mamba").save_pretrained(tmp_path)
    program = (
        "import sys; sys.modules['transformers'] = None; import recurra; "
        f"print(type(recurra.load({str(tmp_path)!r})).__name__)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.strip() == "LanguageModel", result.stderr


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_cannot_be_read_says_why(tmp_path):
    build("mamba").save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", (tmp_path / "config.json").read_text()
    tensors = load_file(weights)

    def refuses(words):
        with pytest.raises(recurra.InputError, match=words) as raised:
            recurra.load(tmp_path)
        assert "\n" not in str(raised.value)
        (tmp_path / "config.json").write_text(config)
        save_file(tensors, weights, {"format": "pt"})

    edit(tmp_path, model_type="gpt2")
    refuses(r"model_type = 'gpt2'; expected one of mamba")
    edit(tmp_path, hidden_act="relu")
    refuses(r"hidden_act = 'relu'; only 'silu'")
    edit(tmp_path, hidden_size="wide")
    refuses(r"config\.json does not describe a model|width is 'wide'")
    edit(tmp_path, state_size=6)
    refuses(r"shape")
    name = "backbone.layers.1.mixer.A_log"
    save_file({key: value for key, value in tensors.items() if key != name}, weights)
    refuses(rf"no tensor '{name}'")
    save_file(tensors | {name: tensors[name].T.contiguous()}, weights)
    refuses(rf"tensor '{name}' has shape \[5, 36\]; config.json asks for \[36, 5\]")
    save_file(tensors | {"backbone.extra": torch.zeros(1)}, weights)
    refuses(r"no place for: \['backbone.extra'\]")
    weights.write_bytes(weights.read_bytes()[:100])
    refuses(r"model\.safetensors does not fit")
    weights.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"not to be opened")
    refuses(r"pytorch_model\.bin, a pickle.*save_pretrained")


@pytest.mark.parametrize(
    ("case", "changes", "words"),
    [
        ("mamba2", {"use_bias": True}, "use_bias = True"),
        ("mamba2", {"time_step_limit": [0.0, 0.1]}, "time_step_limit"),
        ("mamba2", {"num_heads": 5}, "num_heads"),
        ("rwkv", {"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon"),
        ("xlstm", {"use_bias": True}, "use_bias"),
        ("xlstm", {"weight_mode": "fused"}, "weight_mode = 'fused'"),
        ("recurrent_gemma", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn'"),
        ("recurrent_gemma", {"rope_parameters": {"partial_rotary_factor": 0.25}}, "turn by RoPE"),
        ("recurrent_gemma", {"block_types": ["convolution"]}, "block_types"),
        ("recurrent_gemma", {"attention_bias": True}, "attention_bias"),
        ("bamba", {"mamba_proj_bias": True}, "mamba_proj_bias"),
        ("bamba", {"rope_parameters": {"rope_type": "llama3"}}, "rope_type 'llama3'"),
        ("bamba", {"mamba_n_heads": 5}, r"mamba_n_heads \* mamba_d_head = 20; expected 24"),
        ("falcon_h1, normed", {"mamba_norm_before_gate": True}, "mamba_norm_before_gate"),
        ("granitemoehybrid", {"layer_types": ["mamba", "convolution"]}, "'convolution' in layer_types"),
        ("granitemoehybrid", {"layer_types": ["mamba"]}, "expected a kind for each"),
        (
            "nemotron_h",
            {"layers_block_type": None, "hybrid_override_pattern": "M?"},
            "'\\?' in hybrid_override_pattern",
        ),
        ("nemotron_h", {"sliding_window": 7}, "sliding_window"),
        ("jamba", {"hidden_act": "gelu"}, "hidden_act"),
        ("qwen3_next", {"layer_types": ["linear_attention"] * 2}, "expected a kind for each"),
        ("minimax", {"sliding_window": 5}, "sliding_window"),
        ("lfm2", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn'"),
        (
            "lfm3",
            {"rope_parameters": {"full_attention": {"rope_type": "proportional", "factor": 8.0}}},
            "'factor': 8.0",
        ),
        ("bailing_hybrid", {"layer_types": None, "layer_group_size": 0}, "layer_group_size is 0"),
        ("zamba", {"tie_word_embeddings": False}, "tie_word_embeddings = False"),
        ("zamba", {"hidden_mamba_act": "gelu"}, "hidden_mamba_act = 'gelu'"),
        ("zamba", {"attention_hidden_size": 12}, "attention_hidden_size = 12; expected 24"),
        ("zamba", {"n_mamba_heads": 5}, "heads is 5"),
        ("zamba", {"layers_block_type": None, "attn_layer_period": 0}, "attn_layer_period is 0"),
        ("zamba2", {"add_bias_linear": True}, "add_bias_linear = True"),
        ("zamba2", {"use_long_context": True}, "use_long_context = True"),
        ("zamba2", {"layers_block_type": ["hybrid"]}, "expected a kind for each"),
        ("zamba2", {"layers_block_type": ["mamba"] * 4 + ["attention"]}, "'attention' in layers_block_type"),
        ("zamba2", {"num_mem_blocks": 0}, "num_mem_blocks is 0"),
        ("zamba2", {"n_mamba_heads": 5}, "n_mamba_heads is 5"),
        ("zamba2, in turns", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn'"),
    ],
)
def test_what_a_family_does_not_have_is_refused(tmp_path, case, changes, words):
    build(case).save_pretrained(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(recurra.InputError, match=words):
        recurra.load(tmp_path)


@torch.no_grad()
def test_what_is_shared_may_stand_in_a_file_again(tmp_path):
    """As files have it that were not written by transformers: under the name of each layer that it feeds."""
    peer, x = build("zamba2, in turns"), tokens()
    peer.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    again = {name.replace("layers.0.", "layers.3."): value for name, value in tensors.items() if "shared_tr" in name}
    again = {name: value.clone() for name, value in again.items() if "layers.3." in name}
    assert again
    save_file(tensors | again, tmp_path / "model.safetensors", {"format": "pt"})
    assert_equal(recurra.load(tmp_path)(x)[0], logits_of(peer, x), 1e-4)


def test_a_model_of_ours_is_none_of_theirs(tmp_path):
    model = recurra.LanguageModel(vocabulary=11, width=8, pattern="mamba")
    with pytest.raises(recurra.InputError, match="not read from a folder of transformers"):
        to_transformers(model, tmp_path)


def words_as_tokens(folder):
    """A tokenizer of a few words, as a file."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {f"word{i}": i for i in range(SMALL["vocab_size"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="word0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


def test_the_tokenizer_goes_along(tmp_path):
    build("mamba").save_pretrained(tmp_path)
    assert recurra.load(tmp_path).tokenizer is None
    words_as_tokens(tmp_path)
    model = recurra.load(tmp_path)
    assert model.tokenizer.encode("word3 word30").ids == [3, 30]
    files.save(model, tmp_path / "ours")
    to_transformers(recurra.load(tmp_path / "ours"), tmp_path / "back")
    for folder in ("ours", "back"):
        assert (tmp_path / folder / "tokenizer.json").read_text() == (tmp_path / "tokenizer.json").read_text()
        assert (tmp_path / folder / "generation_config.json").exists()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(recurra.InputError, match=r"tokenizer\.json cannot be read"):
        assert recurra.load(tmp_path).tokenizer


def test_a_missing_tokenizer_library_says_so(tmp_path, monkeypatch):
    build("mamba").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(recurra.RecurraError, match="pip install tokenizers"):
        assert recurra.load(tmp_path).tokenizer


def run(*args):
    return subprocess.run(
        [sys.executable, "-m", "recurra.cli.main", *map(str, args)], capture_output=True, text=True, check=False
    )


def test_the_command_line(tmp_path):
    peer, x = build("mamba"), tokens()
    peer.save_pretrained(tmp_path / "theirs")
    words_as_tokens(tmp_path / "theirs")
    converted = run("convert", tmp_path / "theirs", tmp_path / "ours")
    assert "parameters written" in converted.stdout, converted.stderr
    assert run("convert", tmp_path / "ours", tmp_path / "back", "--to", "transformers").returncode == 0
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    assert torch.equal(logits_of(again, x), logits_of(peer, x))
    refused = run("convert", tmp_path / "ours", tmp_path / "back")
    assert refused.returncode == 2
    assert "is not empty" in refused.stderr
    written = run("generate", tmp_path / "theirs", "--prompt", "word1 word2", "--count", "5", "--temperature", "0")
    assert written.stdout.startswith("word1 word2"), written.stderr
    greedy = peer.generate(torch.tensor([[1, 2]]), max_new_tokens=5, do_sample=False, eos_token_id=None)[0, 2:]
    assert written.stdout.removeprefix("word1 word2").split() == [f"word{i}" for i in greedy.tolist()]
    (tmp_path / "text").write_bytes(b"\xff\xfe")
    evaluated = run("evaluate", tmp_path / "theirs", "--data", tmp_path / "text")
    assert evaluated.returncode == 2
    assert "is not UTF-8" in evaluated.stderr


def test_bits_per_byte_of_a_model_with_a_tokenizer(tmp_path):
    build("mamba").save_pretrained(tmp_path)
    words_as_tokens(tmp_path)
    model, ids = recurra.load(tmp_path), torch.randint(0, 20, (700,))
    text = " ".join(f"word{i}" for i in ids.tolist())
    losses = torch.nn.functional.cross_entropy(model(ids[None, :-1])[0][0], ids[1:], reduction="sum")
    expected = losses.item() / math.log(2) / (len(text) - len(f"word{ids[0]}"))
    (tmp_path / "text").write_text(text)
    evaluated = run("evaluate", tmp_path, "--data", tmp_path / "text", "--json")
    assert json.loads(evaluated.stdout)["bits_per_byte"] == pytest.approx(expected, rel=1e-5), evaluated.stderr
    limited = json.loads((tmp_path / "tokenizer.json").read_text())
    limited["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(limited))
    assert bits_per_byte(recurra.load(tmp_path), text.encode()) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(recurra.InputError, match="2 tokens"):
        bits_per_byte(model, b"word1")
