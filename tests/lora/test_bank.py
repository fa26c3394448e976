from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import adapted_logits, fresh_slot, logits, with_random_adapter
from conftest import small

from templora import ConfigError, ModelError
from templora.engine.engine import Engine
from templora.lora.bank import AdapterBank
from templora.lora.slot import Layout, Slot
from templora.lora.targets import choose_targets, linear_layers, parse_layers
from templora.models.runner import through
from templora.testing import FAMILIES, tiny_engine, tiny_model

IDS = list(range(3, 43))
# PEFT is a test's witness here, not a dependency; some of its own warnings are about itself.
pytestmark = pytest.mark.filterwarnings("ignore:.*fan_in_fan_out.*:UserWarning")


@torch.no_grad()
def peft_logits(model: Any) -> torch.Tensor:
    return model(torch.tensor([IDS])).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", ["all", "upper"])
def test_saved_here_loads_in_peft_with_the_same_logits(family: str, layers: str, tmp_path: Path) -> None:
    from peft import PeftModel

    engine = tiny_engine(family)
    with engine.session(small(layers=layers)) as session:
        with_random_adapter(session)
        ours = adapted_logits(session, IDS)
        session.save_adapter(tmp_path)
    # PEFT itself only warns of a wrong one, and goes on.
    assert json.loads((tmp_path / "adapter_config.json").read_text())["fan_in_fan_out"] == (family == "gpt2")
    plain = PeftModel.from_pretrained(tiny_model(family), tmp_path).eval()
    assert torch.allclose(peft_logits(plain), ours, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(peft_logits(plain.get_base_model().eval()), peft_logits(tiny_model(family)), atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_trained_in_peft_gives_the_same_logits_here(family: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    kinds = sorted({t.kind for t in linear_layers(tiny_model(family))})
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=kinds, task_type="CAUSAL_LM", fan_in_fan_out=family == "gpt2")
    model = get_peft_model(tiny_model(family), lora)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        model(torch.tensor([IDS]), labels=torch.tensor([IDS])).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(tmp_path)
    engine = tiny_engine(family)
    with engine.session(small()) as session:
        base = adapted_logits(session, IDS)
        session.load_adapter(tmp_path)
        ours = adapted_logits(session, IDS)
        assert torch.allclose(ours, peft_logits(model), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(ours, base, atol=1e-3)
        session.absorb("and it goes on learning from there")
        assert session.version == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"r": 8}, "rank is 8"),
        ({"lora_alpha": 4}, "set alpha=4"),
        ({"use_dora": True}, "only plain LoRA"),
        ({"peft_type": "IA3"}, "only plain LoRA"),
        ({"bias": "all"}, "only plain LoRA"),
        ({"rank_pattern": {"q_proj": 2}}, "differs by layer"),
        ({"alpha_pattern": {"q_proj": 2}}, "differs by layer"),
        ({"use_rslora": True}, "set alpha=16"),
        ({"r": None}, "r is null in adapter_config.json; it must be a whole number from 1"),
        ({"r": True}, "r is true"),
        ({"r": "4"}, 'r is "4"'),
        ({"lora_alpha": None}, "lora_alpha is null"),
        ({"lora_alpha": 0}, "lora_alpha is 0 .* must be a positive number"),
        ({"lora_alpha": float("nan")}, "lora_alpha is NaN"),
        ({"use_rslora": "yes"}, "use_rslora must be true or false"),
        ({"modules_to_save": ["lm_head"]}, "only plain LoRA .* without modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights .* a base that it changed"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    with tiny_engine().session(small()) as session:
        session.save_adapter(tmp_path)
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelError, match=says):
            session.load_adapter(tmp_path)
        with pytest.raises(ModelError, match="no PEFT adapter"):
            session.load_adapter(tmp_path / "nowhere")
    with tiny_engine().session(small(target_modules=("q_proj",))) as session:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match="for which the session has no adapter"):
            session.load_adapter(tmp_path)


def test_rank_stabilised_scale_is_read(tmp_path: Path) -> None:
    """PEFT's rslora divides alpha by the root of the rank: 4 / √4 = 8 / 4."""
    with tiny_engine().session(small()) as session:
        with_random_adapter(session)
        session.save_adapter(tmp_path)
        weights = session.slot.state.weights.clone()
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True, "lora_alpha": 4}))
    with tiny_engine().session(small()) as session:
        session.load_adapter(tmp_path)
        assert torch.equal(session.slot.state.weights, weights)


def test_the_scale_that_is_advised_is_taken(tmp_path: Path) -> None:
    """16 / √8 cannot be said in the digits that are printed. B takes up the difference."""
    with tiny_engine().session(small(rank=8, alpha=16.0)) as session:
        with_random_adapter(session)
        session.save_adapter(tmp_path)
        weights = session.adapter_weights()
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True}))
    with tiny_engine().session(small(rank=8)) as session, pytest.raises(ModelError, match=r"set alpha=45\.2548$"):
        session.load_adapter(tmp_path)
    with tiny_engine().session(small(rank=8, alpha=45.2548)) as session:
        session.load_adapter(tmp_path)
        found, layout = session.adapter_weights(), session.slot.layout
    for (a, b), (was_a, was_b) in zip(layout.views(found), layout.views(weights), strict=True):
        assert torch.equal(a, was_a)
        assert torch.allclose(b * (45.2548 / 8), was_b * (16 / 8**0.5), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("[]", "holds no settings"),
        ("null", "holds no settings"),
        ("[" * 100_000, "is no JSON"),
        ('{"r": ' + "9" * 5000 + "}", "is no JSON"),
        ("{}" + " " * 2**20, "no adapter has a config of more than"),
        ('{"peft_type": "LORA", "lora_alpha": 8}', "r is missing"),
        ('{"peft_type": "LORA", "r": 4}', "lora_alpha is missing"),
        ("{}", "peft_type is missing"),
    ],
)
def test_a_config_that_is_none_is_one_line(config: str, says: str, tmp_path: Path) -> None:
    with tiny_engine().session(small()) as session:
        session.save_adapter(tmp_path)
        (tmp_path / "adapter_config.json").write_text(config)
        with pytest.raises(ModelError, match=says) as said:
            session.load_adapter(tmp_path)
    assert "\n" not in str(said.value)
    assert len(str(said.value)) < 600


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t * float("nan"), "not finite"),
        (lambda t: t.double() * 1e300, "not finite"),
        (lambda t: t.bool(), "no floating-point numbers"),
        (lambda t: t.to(torch.complex64), "no floating-point numbers"),
        (lambda t: t[:1], "another shape"),
        (None, "one matrix of two"),
    ],
)
def test_weights_that_are_none_are_refused(change: Any, says: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with tiny_engine().session(small()) as session:
        session.save_adapter(tmp_path)
        tensors = load_file(tmp_path / "adapter_model.safetensors")
        first = min(tensors)
        tensors = {n: t for n, t in tensors.items() if n != first or change} | (
            {first: change(tensors[first])} if change else {}
        )
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        before = session.adapter_weights()
        with pytest.raises(ModelError, match=says):
            session.load_adapter(tmp_path)
        assert torch.equal(session.adapter_weights(), before)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    with tiny_engine().session(small()) as session:
        session.save_adapter(tmp_path)
        (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
        with pytest.raises(ModelError, match=r"adapter_model\.bin, which runs code .* safe_serialization=True"):
            session.load_adapter(tmp_path)


@pytest.mark.parametrize("dead", ["left out", "zeros", "a rank of zeros"])
def test_what_an_adapter_leaves_out_learns_from_a_fresh_start(dead: str, tmp_path: Path) -> None:
    """A and B at zero would have no gradient, ever."""
    from safetensors.torch import load_file, save_file

    only = ("q_proj",) if dead == "left out" else ("all",)
    with tiny_engine().session(small(target_modules=only)) as session:
        with_random_adapter(session)
        session.save_adapter(tmp_path)
    if dead != "left out":
        tensors = load_file(tmp_path / "adapter_model.safetensors")
        for name, tensor in tensors.items():
            ranks = slice(0, 2) if dead == "a rank of zeros" else slice(None)
            (tensor[ranks] if "lora_A" in name else tensor[:, ranks]).zero_()
        save_file(tensors, tmp_path / "adapter_model.safetensors")
    with tiny_engine().session(small(seed=5)) as session:
        fresh = session.adapter_weights()
        session.load_adapter(tmp_path)
        layout, begun = session.slot.layout, session.adapter_weights()
        session.absorb("a chunk that all of it learns from, to the last layer of all")
        learnt = session.adapter_weights()
    pairs = zip(layout.targets, layout.views(begun), layout.views(learnt), layout.views(fresh), strict=True)
    for target, (a, _), (_, b), (fresh_a, _) in pairs:
        assert b.any(0).all(), target.name
        if not (dead == "left out" and target.kind == "q_proj"):
            assert torch.equal(a[:2], fresh_a[:2]), target.name


@pytest.mark.parametrize("name", ["adapter", "adapter.gguf"])
@pytest.mark.parametrize("room", [0, 1000, 9000, -1])
def test_an_adapter_that_does_not_fit_the_disk(name: str, room: int, tmp_path: Path) -> None:
    """Is an error, and leaves nothing, or the one that was there before."""
    resource = pytest.importorskip("resource")
    path = tmp_path / name
    file = path if path.suffix else path / "adapter_model.safetensors"
    with tiny_engine().session(small()) as session:
        session.save_adapter(path)
        with_random_adapter(session)
        before, limits = file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room if room >= 0 else len(before) - 1, limits[1]))
        try:
            with pytest.raises(ModelError, match="the adapter cannot be written: File too large"):
                session.save_adapter(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert file.read_bytes() == before
        assert len(list(file.parent.iterdir())) == (1 if path.suffix else 2)
        session.save_adapter(path)
        assert file.read_bytes() != before


def test_targets_that_an_adapter_leaves_out_stay_at_the_identity(tmp_path: Path) -> None:
    with tiny_engine().session(small(target_modules=("q_proj",))) as session:
        with_random_adapter(session)
        logits = adapted_logits(session, IDS)
        session.save_adapter(tmp_path)
    with tiny_engine().session(small()) as session:
        session.load_adapter(tmp_path)
        assert torch.equal(adapted_logits(session, IDS), logits)


def test_an_adapter_of_a_model_of_other_sizes_is_refused(tmp_path: Path) -> None:
    with tiny_engine().session(small()) as session:
        session.save_adapter(tmp_path)
    with tiny_engine("qwen3").session(small()) as session, pytest.raises(ModelError, match="q_proj has another shape"):
        session.load_adapter(tmp_path)


def test_what_is_saved_says_where_it_came_from(tmp_path: Path) -> None:
    engine = tiny_engine()
    engine.model.module.config._name_or_path = "organisation/model"
    with engine.session(small(dropout=0.1)) as session:
        session.save_adapter(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["lora_dropout"]) == ("organisation/model", 0.1)
    assert (config["r"], config["lora_alpha"]) == (4, 8.0)


# Which layers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "per_block"), [("llama", 7), ("gemma3", 7), ("phi", 6), ("gpt2", 4)])
def test_every_linear_layer_but_the_head(family: str, per_block: int) -> None:
    model = tiny_model(family)
    found = choose_targets(model, small())
    assert len(found) == 2 * per_block
    assert not any("head" in t.name for t in found)
    for target in found:
        weight = model.get_submodule(target.name).weight
        assert sorted(weight.shape) == sorted((target.inputs, target.outputs))


def test_fewer_modules_and_layers() -> None:
    model = tiny_model()
    names = [t.name for t in choose_targets(model, small(target_modules="q_proj, down_proj", layers="1"))]
    assert names == ["model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
    with pytest.raises(ConfigError, match="did you mean 'q_proj'"):
        choose_targets(model, small(target_modules=("qproj",)))


def test_layer_lists() -> None:
    assert parse_layers("0-2,5", 8) == {0, 1, 2, 5}
    assert parse_layers("upper", 5) == {2, 3, 4}
    assert parse_layers("lower", 5) == {0, 1}
    for bad in ("3-1", "8", "0-8"):
        with pytest.raises(ConfigError, match="not among this model's blocks 0-7"):
            parse_layers(bad, 8)
    for bad in ("some", "", "1,", "-1"):
        with pytest.raises(ConfigError, match="cannot read"):
            small(layers=bad)


def test_a_rank_beyond_every_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 32"):
        choose_targets(tiny_model(), small(rank=33))


# The bank ---------------------------------------------------------------------------------------------------------


def bank_of(model: Any, rank: int = 4) -> AdapterBank:
    return AdapterBank(model, Layout(choose_targets(model, small()), rank), torch.float32)


def test_the_layout_tiles_the_vector() -> None:
    layout = bank_of(tiny_model()).layout
    flat = torch.arange(layout.weights)
    parts = [x.flatten() for pair in layout.views(flat) for x in pair]
    assert torch.equal(torch.cat(parts), flat)


def test_first_weights_are_pefts() -> None:
    """A fills ±1/√inputs, B is zero: PEFT's kaiming_uniform_(a=√5), checked on a real init of the same sizes."""
    bank = bank_of(tiny_model(), rank=32)
    layout = bank.layout
    for target, (a, b) in zip(layout.targets, layout.views(fresh_slot(bank).state.weights), strict=True):
        theirs = torch.nn.init.kaiming_uniform_(
            torch.empty_like(a), a=5**0.5, generator=torch.Generator().manual_seed(2)
        )
        for bound in (a.max(), -a.min()):
            assert float(bound) == pytest.approx(float(theirs.max()), rel=0.05), target.name
        assert float(a.std()) == pytest.approx((3 * target.inputs) ** -0.5, rel=0.1)
        assert b.abs().max() == 0


def test_a_new_slot_leaves_the_others_alone() -> None:
    """And where they are: what reads them by address goes on."""
    bank = bank_of(tiny_model())
    slots = [fresh_slot(bank, seed) for seed in (1, 2)]
    places = [slot.serving.data_ptr() for slot in slots]
    slots.append(fresh_slot(bank, 3))
    assert bank.slots == slots
    for slot in slots:
        assert torch.equal(slot.serving, slot.state.weights)
    assert [slot.serving.data_ptr() for slot in slots[:2]] == places


def test_a_slot_that_is_freed_is_wiped() -> None:
    bank = bank_of(tiny_model())
    first, second = fresh_slot(bank, 1), fresh_slot(bank, 2)
    assert not torch.equal(first.state.weights, second.state.weights)
    held, served = second.state.weights.clone(), first.serving
    for _ in range(2):
        bank.release(first)
    assert first.is_empty
    assert served.abs().max() == 0
    assert torch.equal(second.serving, held)
    assert bank.slots == [second]
    with pytest.raises(ModelError, match="is free"):
        _ = first.state


def test_an_interrupted_commit_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = bank_of(tiny_model())
    slot = fresh_slot(bank)
    before, served = slot.state, slot.serving.clone()
    staged = replace(before, weights=before.weights + 1, version=1)
    real, calls = Slot._write, []

    def stopped(self: Slot, state: Any) -> None:
        real(self, state)
        calls.append(state)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Slot, "_write", stopped)
    with pytest.raises(KeyboardInterrupt):
        slot.commit(staged)
    assert slot.state is before
    assert torch.equal(slot.serving, served)


def test_a_route_is_its_threads_own(engine: Engine) -> None:
    """While one thread is within a route, another one goes through the bare base."""
    ids, found = list(range(30)), []
    base = logits(engine, ids)
    with engine.session(small()) as session:
        with_random_adapter(session)
        with through(session.slot.route):
            thread = threading.Thread(target=lambda: found.append(logits(engine, ids)))
            thread.start()
            thread.join()
            assert not torch.equal(logits(engine, ids), base)
    assert torch.equal(found[0], base)
