"""lm-evaluation-harness with our model on tasks of its own kind, from local files and without a network.

What lm-eval prints must be what our own outputs and scores come to when they are graded by hand.
"""

import functools
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llmbench.errors import UsageError
from llmbench.harness import side
from llmbench.harness.side import Answering

ROOT = Path(__file__).parents[2]
PROMPTS = ["Once upon a time there was a", "She went to the", "He looked at", "The sea was calm, and we"]
CHOICES = ["king", "of the", "xqz"]
UNTIL = ("\n", ",")

TASKS = {
    "own_texts": "output_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
    'generation_kwargs: {until: ["\\n", ","], do_sample: false, max_gen_toks: 6}\n'
    "metric_list: [{metric: exact_match}]\n",
    "own_choices": "output_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\n"
    "doc_to_target: gold\nmetric_list: [{metric: acc}]\n",
    "own_documents": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{question}}'\n"
    "metric_list: [{metric: bits_per_byte}]\n",
}


def test_without_lm_eval_one_line_says_what_to_install():
    code = "import sys; sys.modules['lm_eval'] = None\nfrom llmbench.harness.command import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'llmbench eval: lm-eval is not installed; pip install "llmbench[lm-eval]"\n'


@pytest.fixture(scope="module")
def llada():
    return side.build({"hardware": "cpu", "model": "llada", "steps": 8, "canvas": 8, "batch": 2}, samples=16)


@pytest.fixture
def tasks(tmp_path, llada, monkeypatch):
    """Three tasks over the same four documents; two answers are what LLaDA writes, two are not."""
    manager = pytest.importorskip("lm_eval.tasks").TaskManager
    known = functools.partialmethod(manager.__init__, include_defaults=False)  # its own are thousands of files
    monkeypatch.setattr(manager, "__init__", known)
    written = llada.write(PROMPTS, Answering(until=UNTIL, most_tokens=6))
    rows = [
        {"question": prompt, "answer": text if i < 2 else f"not {text}", "choices": CHOICES, "gold": i % 2}
        for i, (prompt, text) in enumerate(zip(PROMPTS, written, strict=True))
    ]
    (tmp_path / "documents.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, task in TASKS.items():
        data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/documents.jsonl}}}}\n"
        (tmp_path / f"{name}.yaml").write_text(f"task: {name}\n{data}test_split: test\n{task}")
    return tmp_path


def bits_per_byte(asked):
    tokens = [asked.tokenize(prompt, special=False) for prompt in PROMPTS]
    total = sum(value for value, _ in asked.score([([], ids) for ids in tokens]))
    return -total / math.log(2) / sum(len(prompt.encode()) for prompt in PROMPTS)


def chosen(asked):
    """Share of documents whose gold choice is the likeliest, by our own scores."""
    right = 0
    for i, prompt in enumerate(PROMPTS):
        context = asked.tokenize(prompt)
        rests = [asked.tokenize(f"{prompt} {choice}")[len(context) :] for choice in CHOICES]
        values = [value for value, _ in asked.score([(context, rest) for rest in rests])]
        right += values.index(max(values)) == i % 2
    return right / len(PROMPTS)


def test_its_command_line_grades_our_texts_and_scores(tasks, llada, monkeypatch, capsys):
    from llmbench.harness.command import main

    monkeypatch.setattr(sys, "argv", sys.argv)  # lm-eval reads its own from there
    out = tasks / "out"
    settings = "hardware=cpu,model=llada,steps=8,canvas=8,samples=16"
    where = ["--tasks", ",".join(TASKS), "--include_path", str(tasks), "--output_path", str(out), "--batch_size", "2"]
    assert main(["run", "--model", "llmbench", "--model_args", settings, *where]) == 0
    assert "own_documents" in capsys.readouterr().out
    (path,) = out.rglob("results*.json")
    found = json.loads(path.read_text())
    results = found["results"]
    assert results["own_texts"]["exact_match,none"] == 0.5
    assert results["own_choices"]["acc,none"] == chosen(llada)
    assert results["own_documents"]["bits_per_byte,none"] == pytest.approx(bits_per_byte(llada), rel=1e-6)
    assert found["config"]["llmbench_decoder"]["steps"] == 8
    assert found["config"]["llmbench_likelihood"].startswith("Monte-Carlo upper bound")


def test_a_wrong_argument_is_one_line_and_an_exit_code(tasks, monkeypatch, capsys):
    from llmbench.harness.command import main

    monkeypatch.setattr(sys, "argv", sys.argv)
    asked = ["run", "--model", "llmbench", "--model_args", "model=llada,steps=8.5"]
    assert main([*asked, "--tasks", "own_texts", "--include_path", str(tasks)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("llmbench eval: steps: ")


def test_llama_says_what_lm_evals_own_model_says(tasks):
    """The same weights through `hf`, lm-eval's wrapper of Transformers: equal texts and log-likelihoods."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from llmbench.harness.adapter import Llmbench

    ours = Llmbench(batch_size=3, device="cuda:0", hardware="cpu", canvas=8)
    files = ours.side.checkpoint.files
    theirs = HFLM(pretrained=ours.side.checkpoint.model, tokenizer=files.tokenizer, batch_size=2)

    def requests(kind, arguments):
        return [Instance(request_type=kind, doc={}, arguments=args, idx=i) for i, args in enumerate(arguments)]

    def same(kind, arguments):
        asked = requests(kind, arguments)
        return getattr(ours, kind)(asked), getattr(theirs, kind)(asked)

    pairs = [(prompt, f" {choice}") for prompt in [*PROMPTS, "", "ends in a space "] for choice in CHOICES]
    for (here, greedy), (there, likewise) in zip(*same("loglikelihood", pairs), strict=True):
        assert here == pytest.approx(there, rel=1e-4)
        assert greedy == likewise
    documents = [("word of the king, and then " * 100,), (PROMPTS[0],)]
    here, there = same("loglikelihood_rolling", documents)
    assert len(ours.tok_encode(documents[0][0])) > files.context, "more than one window"
    assert here[1] == pytest.approx(there[1], rel=1e-4)
    assert here[0] == pytest.approx(there[0], rel=0.01)  # a window is one token shorter here
    how = {"until": ["\n", ","], "max_gen_toks": 8, "do_sample": False}
    here, there = same("generate_until", [(prompt, how) for prompt in PROMPTS])
    assert here == there


def test_temperature_and_length_come_from_the_task(tasks, caplog):
    from llmbench.harness.adapter import Llmbench

    ours = Llmbench(hardware="cpu", canvas=8)
    asked = ours._answering({"until": "x", "temperature": 0.7, "top_p": 0.9, "max_gen_toks": 99})
    assert asked == Answering(until=("x",), most_tokens=99, temperature=0.7, others=(("top_p", 0.9),))
    assert "the task allows 99 tokens, canvas is 8" in caplog.text
    assert ours._answering({"do_sample": False, "temperature": 0.7}).temperature == 0
    assert ours._answering({}) == Answering(most_tokens=8)
    for wrong in ({"batch_size": "auto"}, {"device": "cuda:1"}):
        with pytest.raises(UsageError):
            Llmbench(**wrong)
    with pytest.raises(UsageError, match="has no chat template"):
        ours.apply_chat_template([{"role": "user", "content": "hello"}])


def test_a_chat_is_in_the_words_of_the_template_with_one_bos(tasks, tmp_path):
    import chat_checkpoints

    from llmbench.harness.adapter import Llmbench

    folder = chat_checkpoints.write(tmp_path / "it", template=chat_checkpoints.ASKED)
    ours = Llmbench(hardware="cpu", canvas=8, checkpoint="local", **{"model.checkpoint": str(folder)})
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi th"}]
    text = ours.apply_chat_template(chat[:1])
    assert text.endswith("Hello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")
    assert ours.tok_encode(text).count(chat_checkpoints.BEGIN) == 1
    assert ours.apply_chat_template(chat, add_generation_prompt=False).endswith("Hi th")


WITHOUT_BOS = (
    "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>' + "
    "message['content'] + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>' }}{% endif %}"
)


@pytest.mark.parametrize(("template", "adds_bos"), [("with BOS", True), ("without BOS", True), ("without BOS", False)])
def test_a_chat_has_the_ids_that_a_job_reads_also_through_lm_eval_and_its_cache(
    tasks, tmp_path, monkeypatch, template, adds_bos
):
    import chat_checkpoints
    from lm_eval import caching, simple_evaluate
    from lm_eval.tasks import TaskManager

    from llmbench.data.workloads import Prompt
    from llmbench.harness.adapter import Llmbench

    monkeypatch.setattr(caching.cache, "PATH", str(tmp_path / "requests"))
    template = chat_checkpoints.ASKED if template == "with BOS" else WITHOUT_BOS
    folder = chat_checkpoints.write(tmp_path / "it", template=template, adds_bos=adds_bos)
    ours = Llmbench(hardware="cpu", canvas=8, checkpoint="local", batch=1, **{"model.checkpoint": str(folder)})
    files, asked = ours.side.checkpoint.files, [Prompt(id="", task="", text=t, reference=None) for t in PROMPTS]
    wanted = [files.prompt_ids(prompt, chat=True) for prompt in asked]
    rendered = [ours.apply_chat_template([{"role": "user", "content": prompt}]) for prompt in PROMPTS]
    assert [ours.tok_encode(text) for text in rendered] == wanted
    scored = [ours._encode_pair(text, "king") for text in rendered]
    assert [[*given, *rest] for given, rest in scored] == [
        [*ids, *files.tokenizer.encode("king")[adds_bos:]] for ids in wanted
    ]
    texts = _decoded(ours.side, wanted)
    for _ in range(2):  # the second time from lm-eval's cache
        found = simple_evaluate(
            model=ours,
            tasks=["own_texts"],
            task_manager=TaskManager(include_path=str(tasks)),
            apply_chat_template=True,
            cache_requests=True,
            bootstrap_iters=0,
        )
        samples = sorted(found["samples"]["own_texts"], key=lambda sample: sample["doc_id"])
        assert [sample["resps"][0][0] for sample in samples] == texts
    assert list((tmp_path / "requests").iterdir())


def _decoded(asked, prompts):
    """What the decoder writes behind prompt ids, cut as the task cuts."""
    from llmbench import decoding

    files, settings = asked.checkpoint.files, side.decoder_settings(asked.job.model.decoder, Answering())
    decoder = decoding.build(settings, stop_ids=files.stop_ids, pad_id=files.pad_id, mask_id=None)
    texts = []
    for ids in prompts:
        batch = asked.checkpoint.to_device([ids])
        made = decoder.generate(asked.checkpoint.engine("eager"), batch, seed=0, on_step=None)
        made = replace(made, tokens=made.tokens[:, :6])
        texts.append(side.before(asked.checkpoint.texts(batch, made)[0].text, UNTIL))
    return texts
