"""vLLM on the CPU, in float32: the same answers and probabilities as ours, in the stages as users run them."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the process that a test starts
from tiny_models import smollm2
from tiny_stages import SETTINGS, describe, kill_when, prepare, run, teach

from sqlr1.records import read_jsonl

pytestmark = pytest.mark.engines
ON_CPU = [str(Path(__file__).with_name("on_cpu.py"))]
SHAPE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}  # vLLM's heads have 32 places or more
DTYPE = {"dtype": "float32"}
TOLERANCE = 1e-4  # of a token's log-probability; with the weights of the step before they differ by more
MASKED = "sampling/importance_sampling_ratio/limited"
DIFFERENCE = "sampling/sampling_logp_difference/max"

ours = SETTINGS["candidates"]["candidates"] | DTYPE | {"max_new_tokens": 96, "batch_tokens": 10000}
SETTINGS["candidates_float32"] = SETTINGS["candidates"] | {"candidates": ours}
SETTINGS["candidates_vllm"] = SETTINGS["candidates"] | {"candidates": ours | {"backend": "vllm"}}
vllm = {"use_vllm": True, "vllm_gpu_memory_utilization": 0.1, "vllm_max_model_length": 512, "bf16": False}
for weights in ("grpo", "grpo_all_weights"):
    colocated = SETTINGS[weights]["grpo"] | vllm | {"max_steps": 4}
    if colocated["lora"]:  # with dropout the policy's own probabilities vary
        colocated["lora"] = colocated["lora"] | {"lora_dropout": 0.0}
    SETTINGS[f"{weights}_colocated"] = SETTINGS[weights] | {"grpo": colocated}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """A small cache of keys and values, and no thread bound to a core, since other processes may run there."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    prepare(folder)
    teach(folder, **SHAPE)
    return folder


def answers(folder, stage):
    run(folder, stage, stage)
    return [row for _, row in read_jsonl(folder / stage / "candidates.jsonl")]


def check_greedy(folder):
    expected, found = (answers(folder, stage) for stage in ("candidates_float32", "candidates_vllm"))
    assert [row["greedy"] for row in found] == [row["greedy"] for row in expected]
    assert len({row["greedy"] for row in found}) > 1
    assert all(len(row["samples"]) == ours["n"] for row in found)
    assert len({text for row in found for text in row["samples"]}) > len(found) / 2


def test_greedy_answers_of_the_tiny_model_are_ours(folder):
    check_greedy(folder)


def test_greedy_answers_of_the_real_model_are_ours(tmp_path):
    prepare(tmp_path)
    shutil.rmtree(tmp_path / "base/model")
    shutil.copytree(smollm2(), tmp_path / "base/model")
    describe(tmp_path)
    check_greedy(tmp_path)


def check_training(folder, out):
    """The rollouts' probabilities are the policy's at each step, so vLLM has its weights; all of it is in MLflow."""
    lines = [row for _, row in read_jsonl(folder / out / "metrics.jsonl")]
    steps = [row for row in lines if DIFFERENCE in row]
    assert len(steps) >= 2
    assert max(row[DIFFERENCE] for row in steps) < TOLERANCE
    assert max(row["grad_norm"] for row in steps) > 0
    assert {row[MASKED] for row in steps} == {0.0}
    with sqlite3.connect(folder / "results/mlflow.db") as store:
        logged = store.execute("SELECT count(*) FROM metrics WHERE key = ?", [MASKED]).fetchone()[0]
    assert logged >= len(steps)


@pytest.mark.parametrize("weights", ["grpo", "grpo_all_weights"])
def test_colocated(folder, weights):
    run(folder, f"{weights}_colocated", f"{weights}_colocated", ON_CPU)
    check_training(folder, f"{weights}_colocated")


def test_a_killed_colocated_run_resumes(folder):
    """Its rollouts differ from those of a run that was not killed: vLLM has a random stream of its own."""
    stage, out = "grpo_colocated", "killed"
    works = folder / "results/.work"
    kill_when(folder, stage, out, lambda: list(works.glob("*/checkpoint-2/complete")), ON_CPU, seconds=300)
    assert not (folder / out / "manifest.json").exists()
    assert "checkpoint-2\n" in run(folder, stage, out, ON_CPU)
    check_training(folder, out)


@pytest.fixture
def server(folder):
    """What `vllm serve` starts, on loopback, as docs/howto/gpu.md has it (without NCCL): its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *ON_CPU, "-m", "vllm.entrypoints.openai.api_server", "--model", "base/model"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "512"]
    command += ["--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1"]
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": "1"}
    path, address = folder / "server.log", f"http://127.0.0.1:{port}"
    with path.open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        for _ in range(300):
            assert process.poll() is None, path.read_text()[-4000:]
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        else:
            pytest.fail(path.read_text()[-4000:])
        yield address
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


@pytest.mark.parametrize("weights", ["grpo", "grpo_all_weights"])
def test_server(folder, server, weights):
    stage = f"{weights}_server"
    served = SETTINGS[f"{weights}_colocated"]["grpo"] | {"vllm_mode": "server", "vllm_server_base_url": server}
    SETTINGS[stage] = SETTINGS[weights] | {"grpo": served}
    run(folder, stage, stage, ON_CPU)
    check_training(folder, stage)


def test_samples_have_the_probabilities_that_transformers_gives_them(folder):
    done = subprocess.run(
        [sys.executable, __file__, str(folder / "base/model")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


def main(folder):
    """Raw log-probabilities of vLLM's samples, as the `candidates` stage asks for them, beside those of the model."""
    from vllm import SamplingParams
    from vllm.inputs import tokens_input

    from sqlr1.model.answers import SamplerBackend, VllmBackend

    model = SamplerBackend(Path(folder), "float32").model
    engine = VllmBackend(Path(folder), "float32").engine
    prompts = [[1, *range(40, 40 + n)] for n in (3, 30, 90)]
    for number, prompt in enumerate(prompts):
        how = SamplingParams(temperature=0.8, seed=number, max_tokens=24, logprobs=0)
        engine.add_request(str(number), tokens_input(prompt), how)
    compared = 0
    while engine.has_unfinished_requests():
        for output in (one for one in engine.step() if one.finished):
            prompt, sampled = prompts[int(output.request_id)], output.outputs[0]
            ids = list(sampled.token_ids)
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].float()
            expected = logits.log_softmax(-1)[range(len(ids)), ids]
            found = torch.tensor([step[token].logprob for step, token in zip(sampled.logprobs, ids, strict=True)])
            assert (found - expected).abs().max() < TOLERANCE
            compared += len(ids)
    assert compared > len(prompts)


if __name__ == "__main__":
    main(sys.argv[1])
