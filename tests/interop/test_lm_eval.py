"""lm-evaluation-harness runs our models by its `hf` adapter, on tasks built from data made here."""

import json

import pytest
import torch

import recurra
from recurra.models import files

pytest.importorskip("transformers")
pytest.importorskip("lm_eval")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness and what it imports

WORDS = ["the cat sat", "on a mat", "and a long sentence that ends", "x", "no more words"]

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: choices
doc_to_target: 0
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
UNTIL = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{greedy}}}}"
generation_kwargs: {{until: ["\\0"], do_sample: false, max_gen_toks: 8}}
metric_list: [{{metric: exact_match}}]
"""


def score(model, context, continuation):
    """The log-likelihood of a continuation, by the model alone and unpadded."""
    tokens = torch.tensor([list((context + continuation).encode())])
    with torch.no_grad():
        odds = model(tokens)[0].log_softmax(-1)[0]
    start = len(context.encode())
    return sum(float(odds[at - 1, tokens[0, at]]) for at in range(start, tokens.shape[1]))


def greedy(model, text):
    session = model.stream()
    session.feed(text.encode())
    return bytes(session.generate(8, temperature=0)).decode("latin-1")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model of bytes as a folder, and a place for what the harness caches."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)
    model = recurra.LanguageModel(width=16, pattern="mamba+lstm", design={"tied": True}).eval()
    with torch.no_grad():  # text of printable letters, which every tokenizer gives back as it was
        letters = torch.zeros(256, dtype=torch.bool)
        letters[97:123] = True
        model.embedding.weight[~letters] *= 0.1
    files.save(model, tmp_path / "model")
    return tmp_path


def write_tasks(folder, model):
    rows = [
        {"text": text, "choices": [f" {WORDS[i - 1]}", " of"], "greedy": greedy(model, text)}
        for i, text in enumerate(WORDS)
    ]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("choice", CHOICE), ("until", UNTIL)):
        (folder / f"{name}.yaml").write_text(text.format(name=name, data=data))
    return rows


def test_the_harness(folder):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = recurra.load(folder / "model")
    rows = write_tasks(folder, model)
    adapter = HFLM(pretrained=str(folder / "model"), device="cpu", batch_size=3, dtype="float32")
    results = simple_evaluate(
        adapter,
        tasks=["choice", "until"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )
    right = 0
    for sample in results["samples"]["choice"]:
        row = rows[sample["doc_id"]]
        for choice, (got, _) in zip(row["choices"], sample["filtered_resps"], strict=True):
            assert float(got) == pytest.approx(score(model, row["text"], choice), rel=1e-4)
        first, second = (score(model, row["text"], choice) for choice in row["choices"])
        right += first > second
    assert results["results"]["choice"]["acc,none"] == pytest.approx(right / len(rows))
    assert results["results"]["until"]["exact_match,none"] == 1
