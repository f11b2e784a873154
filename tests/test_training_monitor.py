"""The collapse monitor on the numbers of real runs (executable share 0.37 -> 0.85, match share still 0.11)."""

import re
import sqlite3
from types import SimpleNamespace

import mlflow
import pytest
from tiny_models import tiny_model, tiny_tokenizer
from tiny_stages import GRPO, PROMPT, prepare
from transformers import TrainerState

from sqlr1 import tracking
from sqlr1.answer_traces import validation_answers
from sqlr1.config import Lora, Reward
from sqlr1.evaluate.errors import KINDS
from sqlr1.model.prompts import Prompts
from sqlr1.outcomes import outcomes
from sqlr1.prompt import format_response
from sqlr1.records import Catalogue, InputError, Question, read_records
from sqlr1.rewards import reward_functions
from sqlr1.sandbox import Executor, Limits
from sqlr1.train.checkpoints import LogToRun
from sqlr1.train.grpo_trainer import ExecutionReward, grpo_rows, make_trainer
from sqlr1.train.monitor import collapse_signs, stalls, summary
from sqlr1.train.validation import Validate

START = {
    "format": 0.9, "executable": 0.37, "match": 0.11, "characters": 96.0, "distinct": 0.98, "reward": -0.4,
    "joins_or_groups": 0.3, "questions": 100,
}  # fmt: skip


def test_executable_but_wrong_is_reported():
    signs = collapse_signs(START, START | {"executable": 0.85, "characters": 30.0, "reward": 0.1, "distinct": 0.3})
    assert signs == [
        "executable share 37 % -> 85 %, match share only 11 % -> 11 %",
        "completions shrank from 96 to 30 characters",
        "distinct answers 98 % -> 30 %",
        "mean reward -0.40 -> 0.10 all the same",
    ]


def test_a_real_gain_is_not_reported():
    assert collapse_signs(START, START | {"executable": 0.6, "match": 0.18, "characters": 60.0, "reward": 1.0}) == []


def test_fewer_joins_are_reported_even_if_more_answers_are_right():
    gain = START | {"executable": 0.6, "match": 0.2, "reward": 1.0}
    assert collapse_signs(START, gain | {"joins_or_groups": 0.01}) == ["SQL that joins or groups 30 % -> 1 %"]
    assert collapse_signs(START, gain | {"joins_or_groups": 0.16}) == []
    rare = START | {"joins_or_groups": 0.02}  # two questions
    assert collapse_signs(rare, gain | {"joins_or_groups": 0.0}) == []


def test_repeated_samples_are_reported_even_if_more_answers_are_right():
    gain = START | {"executable": 0.6, "match": 0.2, "reward": 1.0}
    assert collapse_signs(START, gain | {"rollouts_distinct": 0.43}) == [
        "only 43 % of the rollouts differ from one another"
    ]
    assert collapse_signs(START, gain | {"rollouts_distinct": 0.6}) == []


def test_the_share_of_sql_that_joins_or_groups(tmp_path):
    answers = ["SELECT a.x FROM a JOIN b USING (id)", "select count(*) from a group\nby x", "SELECT joint FROM a"]
    texts = [format_response("We join the tables.", sql) for sql in answers]
    golds = ["SELECT 1", "SELECT 1", "SELECT x FROM nowhere"]  # the last cannot be judged
    with sqlite3.connect(tmp_path / "a.sqlite") as connection:
        connection.execute("CREATE TABLE a (x INTEGER)")
    with Executor() as executor:
        judged = outcomes(executor, [*texts, texts[0]], ["SELECT 1", *golds], [tmp_path / "a.sqlite"] * 4, "bird")
    assert summary(judged, [*texts, texts[0]])["joins_or_groups"] == pytest.approx(2 / 3)


def test_no_change_is_not_reported():
    assert collapse_signs(START, START) == []
    assert collapse_signs(START, START | {"executable": 0.40, "reward": -0.3}) == []


@pytest.mark.parametrize(("gained", "reported"), [(1, True), (2, True), (3, False)])
def test_one_or_two_lucky_answers_do_not_hide_a_sign(gained, reported):
    start = START | {"questions": 32, "match": 3 / 32}
    now = start | {"executable": 0.85, "match": (3 + gained) / 32}
    assert bool(collapse_signs(start, now)) is reported


def test_one_unlucky_answer_is_not_reported():
    start = START | {"questions": 32, "match": 3 / 32}
    assert collapse_signs(start, start | {"match": 2 / 32, "reward": 0.0}) == []
    assert collapse_signs(start, start | {"match": 0.0, "reward": 0.0})[0] == "match share fell, 9 % -> 0 %"


def validation_rows(folder):
    prepare(folder)
    catalogue, tokenizer = Catalogue(folder / "catalogue.jsonl", folder), tiny_tokenizer()
    rows, _ = grpo_rows(read_records(folder / "questions.jsonl", Question), catalogue, Prompts(tokenizer, PROMPT))
    return rows, tokenizer


def test_validation_warns_in_the_log_and_in_mlflow(tmp_path, monkeypatch, caplog):
    """A policy that answered half of the questions before and answers none now; the rewards are made up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    rows, tokenizer = validation_rows(tmp_path)
    rows[0]["gold"] = "SELECT nothing FROM nowhere"  # a question that cannot be judged
    before = {
        "format": 0.5,
        "questions": 12,
        "executable": 0.5,
        "match": 0.5,
        "characters": 1.0,
        "distinct": 0.1,
        "joins_or_groups": 0.0,
        "reward": -10.0,
    }
    state = TrainerState(global_step=3, max_steps=9, log_history=[
        {"step": 0, **{f"validation/{n}": v for n, v in before.items()}},
        *({"step": step, "rollout/distinct": share} for step, share in enumerate((1.0, 0.4, 0.4, 0.1), 1)),
    ])  # fmt: skip
    with (
        Executor(limits=Limits(seconds=1.0, rows=1000)) as executor,
        tracking.track("e", "k", {}, {}, {}) as run,
    ):
        reward = ExecutionReward(executor, "bird", reward_functions(Reward(), "full"))
        validate = Validate(rows, reward, every=3)
        make_trainer(tiny_model(), tokenizer, rows, reward, validate, GRPO, tmp_path, 0, run)
        validate.on_step_end(SimpleNamespace(), state, SimpleNamespace())
        completions = validate.completions_of(0)
        monkeypatch.setattr("sqlr1.train.validation.BATCH_TOKENS", 1)  # in as many batches as questions
        assert validate.completions_of(7) == completions  # not known, as after a resumption: answered again
        run.traces(lambda: validation_answers(rows, completions, executor, "bird"))
    fell = "only 30 % of the rollouts differ from one another; match share fell, 50 % -> 0 %; mean reward -10.00 ->"
    assert f"step 3: the policy may be collapsing: {fell}" in caplog.text
    assert state.log_history[-1]["validation/rollouts_distinct"] == pytest.approx(0.3)  # of the last three
    assert state.log_history[-1]["validation/collapse_signs"] == 3
    with tracking.track("e", "resumed", {}, {}, {}) as resumed:  # after its last validation
        LogToRun(resumed).on_train_begin(SimpleNamespace(), state, SimpleNamespace())
    client = mlflow.MlflowClient(f"sqlite:///{tracking.DEFAULT_STORE.resolve()}")
    both = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert len(both) == 2
    traces = {t.info.tags["mlflow.traceName"]: t for t in client.search_traces(locations=["1"], run_id=run.run_id)}
    assert traces.keys() == {f"validation {row['id']}" for row in rows}
    unjudged, judged = (traces[f"validation {row['id']}"] for row in rows[:2])
    assert judged.data.spans[0].inputs["question"] == rows[1]["question"]
    found = {a.name: a.value for a in judged.info.assessments}
    assert found["gold"] == rows[1]["gold"]
    assert (found["right"], found["verdict"] == "match") in ((False, False), (True, True))
    assert found["error_kind"] in KINDS
    assert {a.name for a in unjudged.info.assessments} == {"gold", "verdict", "error_kind"}
    for logged in both:
        assert logged.data.metrics["validation/collapse_signs"] == 3
        assert logged.data.metrics["validation/questions"] == 11
        assert logged.data.tags["validation/collapse"].startswith(f"step 3: the policy may be collapsing: {fell}")


@pytest.mark.parametrize("lora", [GRPO.lora, None])
def test_a_model_without_shared_prompts_is_validated_with_the_same_answers(lora, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows, tokenizer = validation_rows(tmp_path)
    scores = []
    with Executor(limits=Limits(seconds=1.0, rows=1000)) as executor:
        reward = ExecutionReward(executor, "bird", reward_functions(Reward(), "full"))
        for dropout in (0.0, 0.1):  # attention dropout needs TRL's own code; validation turns it off
            validate = Validate(rows, reward, every=3)
            model, settings = (
                tiny_model(attention_dropout=dropout),
                GRPO.model_copy(update={"bf16": False, "dynamic_sampling": None, "lora": lora, "beta": 0.0}),
            )
            trainer = make_trainer(model, tokenizer, rows, reward, validate, settings, tmp_path, 0)
            assert bool(trainer.unshared_reason) == bool(dropout)
            trainer.model.train()
            scores.append(validate.score())
            assert trainer.model.training
    assert scores[0] == scores[1]
    assert scores[0]["characters"] > 0


def test_fewer_questions_than_a_step_needs_are_refused(tmp_path, monkeypatch):
    """The Trainer would drop the incomplete batch, train on nothing and succeed."""
    monkeypatch.chdir(tmp_path)
    rows, tokenizer = validation_rows(tmp_path)
    with Executor(workers=1) as executor:
        reward = ExecutionReward(executor, "bird", reward_functions(Reward(), "full"))
        validate = Validate(rows, reward, every=3)
        with pytest.raises(InputError, match="3 RL questions are fewer than the 4 of one batch"):
            make_trainer(tiny_model(), tokenizer, rows[:3], reward, validate, GRPO, tmp_path, 0)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("q_prj", "grpo: Target modules {'q_prj'} not found"),
        ("lm_head", "grpo: Applying a PEFT adapter to `lm_head`"),
    ],
)
def test_what_the_libraries_refuse_once_they_see_the_model_is_one_line(module, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows, tokenizer = validation_rows(tmp_path)
    with Executor(workers=1) as executor:
        reward = ExecutionReward(executor, "bird", reward_functions(Reward(), "full"))
        given = GRPO.model_copy(update={"lora": Lora(r=2, target_modules=[module])})
        with pytest.raises(InputError, match=re.escape(f"config section {message}")) as error:
            make_trainer(tiny_model(), tokenizer, rows, reward, Validate(rows, reward, 3), given, tmp_path, 0)
    assert "\n" not in str(error.value)


def steps(first, last, **values):
    return [{"step": step, "reward": 1.0, "grad_norm": 0.1, **values} for step in range(first, last + 1)]


def test_ten_steps_in_a_row_in_which_nothing_is_learnt():
    equal = steps(1, 9, frac_reward_zero_std=1.0)
    assert stalls(equal + steps(10, 10, frac_reward_zero_std=0.5)) == []
    assert stalls(steps(1, 1, frac_reward_zero_std=0.5) + steps(2, 11, frac_reward_zero_std=1.0)) == [
        "steps 2 to 11: all completions of every group have the same reward"
    ]
    every_fifth = [{"step": step, "grad_norm": 0.0} for step in (5, 10)] + [{"step": 15, "grad_norm": 0.1}]
    assert stalls(every_fifth) == ["steps 1 to 10: the gradient is zero"]
    cut = steps(1, 12, grad_norm=0.0) + steps(13, 24, **{"completions/clipped_ratio": 1.0})
    assert [text.partition(": ")[2] for text in stalls(cut)] == [
        "every completion is cut at max_completion_length", "the gradient is zero",
    ]  # fmt: skip
    assert stalls([]) == []


def test_a_training_without_an_end_token_warns_in_the_log_and_in_mlflow(tmp_path, monkeypatch, caplog):
    """A tiny random model whose completions are all cut: nothing in them is well-formed, and all rewards are equal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    rows, tokenizer = validation_rows(tmp_path)
    settings = GRPO.model_copy(update={"max_steps": 2, "max_completion_length": 2})
    with Executor(limits=Limits(seconds=1.0, rows=1000)) as executor, tracking.track("s", "k", {}, {}, {}) as run:
        reward = ExecutionReward(executor, "bird", reward_functions(Reward(), "full"))
        trainer = make_trainer(
            tiny_model(), tokenizer, rows, reward, Validate(rows, reward, every=9), settings, tmp_path, 0, run
        )
        trainer.train()
    assert "all completions of every group have the same reward" in caplog.text
    assert "the gradient is zero" in caplog.text
    client = mlflow.MlflowClient(f"sqlite:///{tracking.DEFAULT_STORE.resolve()}")
    [logged] = client.search_runs([client.get_experiment_by_name("s").experiment_id])
    assert "all completions of every group have the same reward" in logged.data.tags["stalls"]
