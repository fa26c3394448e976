"""Real clients, each against a server that runs; skipped if not installed (pip install -e '.[clients]')."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TEXT
from evaluations import tiny_folder
from serving import Serving, serving
from test_openai import call

import templora

TALK = [{"role": "user", "content": "Hello, " + TEXT}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("sessions")) as made:
        yield made


def run(*command: str, **environment: str) -> str:
    """What a program prints."""
    own = {"OPENAI_API_KEY": "none", "no_proxy": "127.0.0.1", "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_curl(server: Serving) -> None:
    body = json.dumps({"model": "tiny", "prompt": TEXT, "max_tokens": 5, "stream": True, "seed": 1})
    said = run("curl", "-sN", f"{server.url}/v1/completions", "-H", "Content-Type: application/json", "-d", body)
    assert said.endswith("data: [DONE]\n\n")


def test_litellm(server: Serving) -> None:
    pytest.importorskip("litellm")
    code = f"""
import litellm
how = dict(model="openai/tiny:temp", api_base="{server.url}/v1", api_key="none", messages={TALK!r}, max_tokens=8)
said = litellm.completion(**how)
assert said.usage.completion_tokens <= 8 and said.choices[0].finish_reason in ("length", "stop")
pieces = list(litellm.completion(stream=True, **how))
assert pieces[-1].choices[0].finish_reason in ("length", "stop")
text = litellm.text_completion(model="text-completion-openai/tiny", api_base="{server.url}/v1", api_key="none",
                               prompt="It was", max_tokens=4)
print("fine", len(text.choices))
"""
    assert "fine 1" in run(sys.executable, "-W", "ignore", "-c", code)


def test_llm(server: Serving, tmp_path: Path) -> None:
    pytest.importorskip("llm")
    common = {"api_base": f"{server.url}/v1", "api_key_name": "openai"}
    models = [
        {"model_id": "temp", "model_name": "tiny:temp", **common},
        {"model_id": "base", "model_name": "tiny", "completion": True, **common},
    ]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))
    for model in ("temp", "base"):
        command = [sys.executable, "-W", "ignore", "-m", "llm", "-m", model, "Hello", "-o", "max_tokens", "6"]
        assert run(*command, LLM_USER_PATH=str(tmp_path), LLM_LOAD_PLUGINS="")


def test_lm_eval_finds_what_transformers_finds(tmp_path: Path) -> None:
    """A task of ours: which of four words comes next, and how a sentence goes on."""
    pytest.importorskip("lm_eval")
    model, data = tiny_folder(tmp_path / "model"), tmp_path / "data.jsonl"
    words = ["times", "wisdom", "foolishness", "despair"]
    rows = [
        {"text": TEXT[: 30 + 7 * i], "words": words, "right": i % 4, "rest": TEXT[30 + 7 * i :][:8]} for i in range(8)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = f"""
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
"""
    (tmp_path / "which.yaml").write_text(f"""task: which{common}output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{words}}}}"
doc_to_target: right
metric_list: [{{metric: acc}}]
""")
    (tmp_path / "rolling.yaml").write_text(f"""task: rolling{common}output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
""")
    (tmp_path / "until.yaml").write_text(f"""task: until{common}output_type: generate_until
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{rest}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 8}}
metric_list: [{{metric: exact_match}}]
""")
    code = """
import json, sys, lm_eval
from lm_eval.tasks import TaskManager
kind, arguments, folder, out = sys.argv[1:]
found = lm_eval.simple_evaluate(model=kind, model_args=arguments, tasks=["which", "rolling", "until"], batch_size=2,
    task_manager=TaskManager(include_path=folder, include_defaults=False), log_samples=True, bootstrap_iters=0)
said = {task: [s["filtered_resps"] for s in samples] for task, samples in found["samples"].items()}
json.dump(said, open(out, "w"), default=str)
"""
    engine = templora.load(model, device="cpu")
    with serving(tmp_path / "sessions", engine=engine) as server:
        url = f"model=tiny,base_url={server.url}/v1/completions,max_length=127,num_concurrent=1"
        run(
            sys.executable,
            "-W",
            "ignore",
            "-c",
            code,
            "local-completions",
            url,
            str(tmp_path),
            str(tmp_path / "ours.json"),
        )
    hf = f"pretrained={model},dtype=float32,device=cpu,max_length=127"
    run(sys.executable, "-W", "ignore", "-c", code, "hf", hf, str(tmp_path), str(tmp_path / "theirs.json"))
    ours, theirs = (json.loads((tmp_path / name).read_text()) for name in ("ours.json", "theirs.json"))
    assert ours.keys() == theirs.keys() == {"which", "rolling", "until"}
    assert ours["until"] == theirs["until"]
    for task in ("which", "rolling"):
        assert _numbers(ours[task]) == pytest.approx(_numbers(theirs[task]), abs=2e-3)


def _numbers(found: Any) -> list[float]:
    """Log-likelihoods and whether each was greedy, in order."""
    if isinstance(found, list):
        return [number for part in found for number in _numbers(part)]
    return [float({"True": 1, "False": 0}.get(str(found), found))]


# What SillyTavern and mikupad send, in their shape: fields that nobody here knows among them.
TAVERN = {
    "prompt": TEXT,
    "max_new_tokens": 12,
    "max_tokens": 12,
    "temperature": 0.9,
    "top_p": 0.95,
    "typical_p": 1,
    "typical": 1,
    "min_p": 0.05,
    "repetition_penalty": 1.05,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "top_k": -1,
    "skew": 0,
    "min_tokens": 0,
    "add_bos_token": True,
    "smoothing_factor": 0,
    "smoothing_curve": 1,
    "dry_allowed_length": 2,
    "dry_multiplier": 0.8,
    "dry_base": 1.75,
    "dry_sequence_breakers": ["\n", ":"],
    "dry_penalty_last_n": 0,
    "max_tokens_second": 0,
    "sampler_priority": [],
    "stopping_strings": ["\nUser:"],
    "stop": ["\nUser:"],
    "truncation_length": 4096,
    "ban_eos_token": False,
    "skip_special_tokens": True,
    "include_reasoning": True,
    "top_a": 0,
    "tfs": 1,
    "mirostat_mode": 0,
    "mirostat_tau": 5,
    "mirostat_eta": 0.1,
    "custom_token_bans": "",
    "banned_strings": [],
    "sampler_order": [6, 0, 1, 3],
    "xtc_threshold": 0.1,
    "xtc_probability": 0,
    "nsigma": 0,
    "rep_pen_size": 0,
    "n": 1,
    "ignore_eos": False,
    "stream": True,
    "spaces_between_special_tokens": True,
    "logprobs": 5,
    "api_type": "vllm",
    "api_server": "http://127.0.0.1",
    "model": "tiny:temp",
}
MIKUPAD = {
    "stream": True,
    "prompt": TEXT,
    "n_predict": 12,
    "n_probs": 10,
    "temperature": 0.7,
    "dynatemp_range": 0,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0,
    "typical_p": 1,
    "tfs_z": 1,
    "repeat_penalty": 1.1,
    "repeat_last_n": 64,
    "penalize_nl": False,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "mirostat": 0,
    "mirostat_tau": 5,
    "mirostat_eta": 0.1,
    "ignore_eos": False,
    "stop": ["\n\n"],
    "seed": -1,
    "cache_prompt": True,
    "logit_bias": [[97, False], ["b", 1.5]],
    "samplers": ["top_k"],
}


def test_sillytavern(server: Serving) -> None:
    assert call(server, "GET", "/v1/models")[1]["data"][0]["id"] == "tiny"
    counted = call(server, "POST", "/tokenize", {"model": "tiny", "prompt": TEXT})[1]
    assert counted["count"] == len(counted["tokens"])
    status, raw, headers = call(server, "POST", "/v1/completions", TAVERN | {"ignore_eos": True})
    assert status == 200
    assert "typical_p" in headers["x-templora-ignored"]
    events = [json.loads(line[6:]) for line in raw.split("\n") if line.startswith("data: {")]
    assert all(event["choices"] and not {"error", "message", "detail"} & event.keys() for event in events)
    likely = next(e["choices"][0]["logprobs"] for e in events if e["choices"][0]["logprobs"])
    assert len(likely["top_logprobs"][0]) >= 1


def test_mikupad(server: Serving) -> None:
    status, raw, _ = call(server, "POST", "/completion", MIKUPAD | {"ignore_eos": True})
    assert status == 200
    events = [json.loads(line[6:]) for line in raw.split("\n") if line.startswith("data: ")]
    assert events[-1]["stop"]
    assert {"token", "logprob", "top_logprobs"} <= events[0]["completion_probabilities"][0].keys()
    body = {"model": "tiny:temp", "prompt": TEXT, "stream": True, "logprobs": 10, "max_tokens": 4, "ignore_eos": True}
    status, raw, _ = call(server, "POST", "/v1/completions", body)
    assert all(json.loads(line[6:])["choices"] for line in raw.split("\n") if line.startswith("data: {"))
