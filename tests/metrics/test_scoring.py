"""From texts to sums: the batched judge against one token at a time, floor texts, diversity by hand, the cache."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmbench.config.job import WorkloadConfig
from llmbench.data import workloads
from llmbench.data.workloads import Prompt, Workload
from llmbench.metrics import judging, scoring
from llmbench.record import Output

EOS = 0


class CountingJudge(LlamaForCausalLM):
    """A real model that remembers the shape of every batch it was asked for."""

    def forward(self, input_ids=None, **more):
        self.shapes.append(tuple(input_ids.shape))
        return super().forward(input_ids=input_ids, **more)


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, initializer_range=0.3, tie_word_embeddings=False,
    )  # fmt: skip
    model = CountingJudge(config).eval()
    model.shapes = []
    return model


@pytest.fixture
def judge(model, request):
    """One token per character; a name of its own per test, because sums are kept under it."""
    return judging.Judge(
        model=model,
        tokenize=lambda text: [ord(letter) % 96 + 1 for letter in text],
        eos_id=EOS,
        context=256,
        device="cpu",
        name=request.node.name,
    )


def slow_nll(model, prompt, target):
    """One forward per scored token, no batch, no padding."""
    total = 0.0
    for i, token in enumerate(target):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + target[:i]])).logits[0, -1]
        total -= torch.log_softmax(logits.double(), -1)[token].item()
    return total


def workload(*pairs):
    prompts = tuple(Prompt(id=f"p{i}", task="all", text=text, reference=ref) for i, (text, ref) in enumerate(pairs))
    return Workload(name="w", digest="0", prompts=prompts)


def output(prompt, text, stopped=False):
    return Output(
        prompt_id=prompt.id, task="all", prompt=prompt.text, text=text, batch=0, tokens=len(text),
        utf8_bytes=len(text.encode()), stopped=stopped,
    )  # fmt: skip


THREE = workload(
    ("the quick brown fox", "jumps over"), ("a", "b c d e"), ("all that glitters is not", "gold, they say, at night")
)
OUTPUTS = (
    output(THREE.prompts[0], " ran away", stopped=True),
    output(THREE.prompts[1], "", stopped=True),
    output(THREE.prompts[2], " gold gold gold gold gold"),
)


def find(scores, prompt_id, subject):
    (found,) = [score for score in scores if (score.prompt_id, score.subject) == (prompt_id, subject)]
    return found


def test_batched_sums_equal_a_plain_loop_over_tokens(judge, model):
    items = scoring.items(OUTPUTS, THREE)
    scores = scoring.score(items, judge, None, diversity_tokens=4, canvas=64)
    widest = max(shape[0] for shape in model.shapes)
    assert widest > 1, "nothing was batched, so nothing was padded"
    for item, score in zip(items, scores, strict=True):
        target = judge.tokenize(item.text) + [EOS] * item.stopped
        assert (score.prompt_id, score.subject) == (item.prompt_id, item.subject)
        assert score.judged_tokens == len(target)
        assert score.nll_nats == pytest.approx(slow_nll(model, judge.tokenize(item.prompt), target), rel=1e-5)
        assert score.utf8_bytes == len(item.text)
        assert score.bertscore_f1 is None


def test_a_start_token_of_the_judge_stands_before_every_prompt_also_a_cut_one(judge, model):
    long = workload(("a" * 300, "b" * 20), ("", "c" * 300), ("short", "d"))
    outputs = tuple(output(prompt, prompt.reference or "") for prompt in long.prompts)
    notes = []
    items = scoring.items(outputs, long)[:3]
    scores = scoring.score(items, replace(judge, prefix=(7,)), None, diversity_tokens=4, canvas=64, note=notes.append)
    assert max(shape[1] for shape in model.shapes) == 256
    ids = [(judge.tokenize(item.prompt), judge.tokenize(item.text)) for item in items]
    (cut, short), (_, text), (prompt, letter) = ids
    by_hand = [
        slow_nll(model, [7, *cut[-(255 - 20) :]], short),
        slow_nll(model, [7], text[:254]) + slow_nll(model, [7, *text[45:254]], text[254:]),  # as much as fits
        slow_nll(model, [7, *prompt], letter),
    ]
    assert [score.nll_nats for score in scores] == pytest.approx(by_hand, rel=1e-4)
    assert [score.judged_tokens for score in scores] == [20, 300, 1]
    assert f"the judge {judge.name} reads its start token before every prompt, as its tokenizer adds one" in notes


def test_an_empty_output_pays_for_its_stop_token(judge, model):
    scores = scoring.score(scoring.items(OUTPUTS, THREE), judge, None, diversity_tokens=4, canvas=64)
    empty = find(scores, "p1", "output")
    assert empty.judged_tokens == 1
    assert empty.nll_nats == pytest.approx(slow_nll(model, judge.tokenize("a"), [EOS]), rel=1e-5)
    assert (empty.diversity_tokens, empty.bigrams, empty.repeated_tokens, empty.entropy_nats) == (0, 0, 0, None)


def test_a_prompt_without_tokens_is_replaced_by_the_end_token(judge, model):
    bare = replace(judge, tokenize=lambda text: judge.tokenize(text.strip()))
    one = workload((" ", None))
    (score, *_) = scoring.score(
        scoring.items([output(one.prompts[0], "hi")], one), bare, None, diversity_tokens=4, canvas=64
    )
    assert score.nll_nats == pytest.approx(slow_nll(model, [EOS], judge.tokenize("hi")), rel=1e-5)


def test_a_prompt_too_long_for_the_judge_is_cut_from_the_left_and_noted(judge, model):
    short = replace(judge, context=16)
    notes = []
    (score, *_) = scoring.score(
        scoring.items(OUTPUTS[:1], workload((THREE.prompts[0].text, None))),
        short,
        None,
        diversity_tokens=4,
        canvas=64,
        note=notes.append,
    )
    target = [*judge.tokenize(" ran away"), EOS]
    kept = judge.tokenize(THREE.prompts[0].text)[-(16 - len(target)) :]
    assert score.nll_nats == pytest.approx(slow_nll(model, kept, target), rel=1e-5)
    assert score.judged_tokens == len(target)
    assert len(notes) == 1
    assert "reads 16 tokens" in notes[0]


def test_a_text_longer_than_the_judge_reads_is_scored_whole_in_pieces(judge, model):
    short = replace(judge, context=8)
    text = "abcdefghijk"  # 11 tokens: pieces of 4, 4 and 3
    one = workload(("xyz", None))
    (score, *_) = scoring.score(
        scoring.items([output(one.prompts[0], text)], one), short, None, diversity_tokens=4, canvas=64
    )
    whole = judge.tokenize("xyz" + text)
    expected = slow_nll(model, whole[0:3], whole[3:7]) + slow_nll(model, whole[3:7], whole[7:11])
    expected += slow_nll(model, whole[6:11], whole[11:14])
    assert score.judged_tokens == 11
    assert score.nll_nats == pytest.approx(expected, rel=1e-5)
    assert max(shape[1] for shape in model.shapes if shape[0] > 1) <= 8


def test_five_subjects_per_prompt_with_their_joints():
    poem = Prompt(id="v", task="poem", text="one two\nthree four", reference="five six\nseven", gap="\n")
    prose = Prompt(id="s", task="story", text="It rained.", reference="All day long.")
    found = scoring.items(
        [output(poem, " x"), output(prose, " y", stopped=True)], Workload(name="w", digest="", prompts=(poem, prose))
    )
    texts = {(item.prompt_id, item.subject): (item.text, item.stopped, item.reference) for item in found}
    assert texts == {
        ("v", "output"): (" x", False, poem.reference),
        ("s", "output"): (" y", True, prose.reference),
        ("v", "human"): ("\nfive six\nseven", False, None),  # a text against itself says nothing
        ("s", "human"): (" All day long.", False, None),
        ("v", "shuffled"): ("\nAll day long.", False, poem.reference),
        ("s", "shuffled"): (" five six\nseven", False, prose.reference),
        ("v", "prompt_tail"): ("\ntwo\nthree four", False, poem.reference),
        ("s", "prompt_tail"): (" It rained.", False, prose.reference),
        ("v", "empty"): ("", True, poem.reference),
        ("s", "empty"): ("", True, prose.reference),
    }


def test_outputs_references_and_echoes_are_judged_after_two_other_prompts_too(judge, model):
    items = scoring.items(OUTPUTS, THREE)
    scores = scoring.score(items, judge, None, diversity_tokens=4, canvas=64)
    for item, score in zip(items, scores, strict=True):
        if item.subject in ("shuffled", "empty"):
            assert score.other_nll_nats is None
            continue
        target = judge.tokenize(item.text) + [EOS] * item.stopped
        assert set(item.others) == {prompt.text for prompt in THREE.prompts} - {item.prompt}
        expected = [slow_nll(model, judge.tokenize(other), target) for other in item.others]
        assert score.other_nll_nats == pytest.approx(expected, rel=1e-5)
    assert find(scores, "p0", "output").other_nll_nats != find(scores, "p0", "human").other_nll_nats


def test_two_prompts_have_no_two_others(judge):
    two = workload(("a b", "c"), ("d e", "f"))
    scores = scoring.score(
        scoring.items([output(two.prompts[0], "x")], two), judge, None, diversity_tokens=4, canvas=64
    )
    assert {score.other_nll_nats for score in scores} == {None}


def test_outputs_are_compared_with_each_other_in_the_judges_tokens(judge):
    texts = ("abcdef", "xbcdex", "abc")  # 4-grams abcd bcde cdef; xbcd bcde cdex; none
    outputs = [output(prompt, text) for prompt, text in zip(THREE.prompts, texts, strict=True)]
    scores = scoring.score(scoring.items(outputs, THREE), judge, None, diversity_tokens=4, canvas=64)
    shares = [score.shared_4grams for score in scores if score.subject == "output"]
    assert shares == [pytest.approx(1 / 3), pytest.approx(1 / 3), None]
    assert {score.shared_4grams for score in scores if score.subject != "output"} == {None}


def test_a_second_judge_adds_its_sums_and_keeps_those_of_references(judge, model):
    items = scoring.items(OUTPUTS, THREE)
    scores = scoring.score(items, judge, None, diversity_tokens=4, canvas=64)
    halves = replace(judge, tokenize=lambda text: judge.tokenize(text[::2]), name=f"{judge.name} second")
    model.shapes.clear()
    both = scoring.add_second(scores, items, halves)
    assert sum(shape[0] for shape in model.shapes) == 15
    for item, before, after in zip(items, scores, both, strict=True):
        target = halves.tokenize(item.text) + [EOS] * item.stopped
        assert after.second_judged_tokens == len(target)
        assert after.second_nll_nats == pytest.approx(slow_nll(model, halves.tokenize(item.prompt), target), rel=1e-5)
        assert replace(after, second_nll_nats=None, second_judged_tokens=None) == before
    model.shapes.clear()
    assert scoring.add_second(scores, items, halves) == both
    assert sum(shape[0] for shape in model.shapes) == 3, "the outputs alone"


def test_subjects_that_need_a_reference_are_left_out_without_one():
    one = workload(("a b", "c"), ("d e", None))
    found = scoring.items([output(prompt, "x") for prompt in one.prompts], one)
    assert [(item.prompt_id, item.subject) for item in found] == [
        ("p0", "output"), ("p1", "output"), ("p0", "human"),
        ("p0", "prompt_tail"), ("p0", "empty"), ("p1", "prompt_tail"), ("p1", "empty"),
    ]  # fmt: skip


def test_diversity_looks_at_the_first_m_tokens_and_repetition_at_all(judge):
    one = workload(("x", None))
    (score, *_) = scoring.score(
        scoring.items([output(one.prompts[0], "abcabcabcabc")], one), judge, None, diversity_tokens=3, canvas=64
    )
    assert (score.diversity_tokens, score.distinct_bigrams) == (3, 2)
    assert score.repeated_tokens == 12, "repetition is of the whole text"
    assert (score.judged_tokens, score.text_tokens) == (12, 12)
    assert [m for m, _ in score.entropy_prefixes] == [16, 32, 48, 64]
    # all are the whole text's, which is shorter
    assert [nats for _, nats in score.entropy_prefixes] == pytest.approx([math.log(3)] * 4)


def test_the_second_job_judges_its_outputs_only_and_gets_the_same_floors(judge, model):
    first = scoring.score(scoring.items(OUTPUTS, THREE), judge, None, diversity_tokens=4, canvas=64)
    model.shapes.clear()
    other = [replace(one, text=one.text + "!") for one in OUTPUTS]
    second = scoring.score(scoring.items(other, THREE), judge, None, diversity_tokens=4, canvas=64)
    assert sum(shape[0] for shape in model.shapes) == 3 * 3, "each output after its own prompt and two others"
    assert [s for s in second if s.subject != "output"] == [s for s in first if s.subject != "output"]
    assert find(first, "p0", "output") != find(second, "p0", "output")
    model.shapes.clear()
    changed = scoring.score(scoring.items(OUTPUTS, THREE), judge, None, diversity_tokens=3, canvas=64)
    assert sum(shape[0] for shape in model.shapes) == 9 * 3 + 6, "another m is another measurement"
    assert find(changed, "p2", "human").diversity_tokens == 3


def test_without_a_judge_and_an_encoder_only_bytes_are_known():
    scores = scoring.score(scoring.items(OUTPUTS, THREE), None, None, diversity_tokens=4, canvas=64)
    score = find(scores, "p2", "output")
    assert score.utf8_bytes == 25
    assert (score.nll_nats, score.judged_tokens, score.bigrams, score.bertscore_f1) == (None,) * 4


def test_progress_counts_to_its_total(judge):
    seen = []
    scoring.score(
        scoring.items(OUTPUTS, THREE),
        judge,
        None,
        diversity_tokens=4,
        canvas=64,
        tick=lambda *state: seen.append(state),
    )
    assert seen[-1] == ("score", 33, 33)  # 9 texts after three prompts, 6 after one
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_the_embedded_workload_is_scored_for_all_five_subjects(judge):
    chosen = workloads.load(
        WorkloadConfig(
            source="bundled:continuation", prompts=8, prompt_words=24, reference_words=12, diversity_tokens=8
        )
    )
    scores = scoring.score(
        scoring.items([output(prompt, " x") for prompt in chosen.prompts], chosen),
        judge,
        None,
        diversity_tokens=8,
        canvas=64,
    )
    assert len(scores) == 5 * 8
    assert all(math.isfinite(score.nll_nats) for score in scores)


def test_answers_are_checked_without_a_judge_and_for_every_subject():
    prompts = (
        Prompt(id="a", task="t", text="1 + 1?", reference="#### 2", answer="2"),
        Prompt(id="b", task="t", text="2 + 2?", reference="#### 4", answer="4"),
        Prompt(id="c", task="t", text="and?", reference=None),
    )
    outputs = [
        Output(prompt_id=p.id, task="t", prompt=p.text, text=text, batch=0, tokens=3, utf8_bytes=3, stopped=True)
        for p, text in zip(prompts, ("it is 2", "it is 5", "4"), strict=True)
    ]
    found = scoring.score(
        scoring.items(outputs, Workload(name="w", digest="d", prompts=prompts)),
        None,
        None,
        diversity_tokens=8,
        canvas=64,
    )
    correct = {(score.prompt_id, score.subject): score.correct for score in found}
    assert [correct[id, "output"] for id in "abc"] == [True, False, None]
    assert [correct[id, "human"] for id in "ab"] == [True, True]
    assert [correct[id, "shuffled"] for id in "ab"] == [False, False]
    assert correct["a", "prompt_tail"] is False  # its last word is "1?"
    assert [correct[id, "empty"] for id in "ab"] == [False, False]
