"""The compiled step against the model's own modules."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from adapted import fresh_slot
from conftest import TEXT, small

from templora.config import TempLoraConfig
from templora.decoding.cpu_step import CpuStep, cpu_step
from templora.engine.engine import Engine
from templora.errors import ModelError
from templora.kernels.decode_attention import KEYS
from templora.kvcache.window import WindowCache
from templora.lora.bank import AdapterBank
from templora.lora.slot import Layout, Slot
from templora.lora.targets import choose_targets
from templora.models.causal import CausalModel
from templora.models.llama_layout import UnknownLayout
from templora.models.runner import Row, Runner, through
from templora.runtime.metering import Meter
from templora.sampling import SamplingParams
from templora.testing import byte_tokenizer, tiny_model

BUILT_LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3", "gemma3")
IDS = [(7 * i + i // 5) % 260 for i in range(60)]


def slot_on(model: CausalModel, **options: Any) -> Slot:
    """An adapter that is no longer fresh."""
    config = TempLoraConfig(**{"rank": 4, **options})
    bank = AdapterBank(model.module, Layout(choose_targets(model.module, config), config.rank), model.dtype)
    slot = fresh_slot(bank, 0, 1.5)
    slot.commit(stirred(slot, 1))
    return slot


def stirred(slot: Slot, seed: int) -> Any:
    noise = torch.randn(slot.layout.weights, generator=torch.Generator().manual_seed(seed))
    state = slot.state
    return replace(state, weights=state.weights + 0.2 * noise, version=state.version + 1)


@torch.no_grad()
def both_ways(model: CausalModel, step: Any, slot: Slot | None, evict: int = 0) -> tuple[Any, Any]:
    """Logits of the last ten of `IDS` by the step and by the modules, and the two caches afterwards."""
    route = slot and slot.route
    caches = [WindowCache(model.layers, 64, sinks=4) for _ in range(2)]
    found, wanted = [], []
    with through(route):
        for cache in caches:
            model.hidden(IDS[:-10], cache)
            cache.advance(len(IDS) - 10, 0)
            cache.evict(evict)
        for token in IDS[-10:]:
            found += step([Row(token, caches[0], route, step, Meter())])
            wanted.append(model.logits(model.hidden([token], caches[1], caches[1].next_position))[0])
            for cache in caches:
                cache.advance(1, 0)
    held = [torch.stack([layer.keys[:, :, : c.length] for layer in c.layers]) for c in caches]
    held += [torch.stack([layer.values[:, :, : c.length] for layer in c.layers]) for c in caches]
    return (torch.stack(found), torch.stack(wanted)), held


@pytest.mark.parametrize("family", BUILT_LIKE_LLAMA)
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("evict", [0, 9])
def test_equals_the_modules(family: str, adapted: bool, evict: int) -> None:
    """Logits, and what it leaves in the cache; with sliding windows shorter than the text, and after an eviction."""
    model = CausalModel(tiny_model(family))
    slot = slot_on(model)
    (found, wanted), (keys, own_keys, values, own_values) = both_ways(
        model, CpuStep(model), slot if adapted else None, evict
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(keys, own_keys, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(values, own_values, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("family", "dtype", "rank"), [
    *((family, torch.float32, 4) for family in BUILT_LIKE_LLAMA),
    *((family, torch.bfloat16, 32) for family in ("llama", "gemma3")),
])  # fmt: skip
def test_a_row_is_what_it_would_be_alone(family: str, dtype: torch.dtype, rank: int) -> None:
    """To the bit: logits, state, and what it leaves in its cache; whatever stands beside it, wherever, and however many
    workers there are. Texts of several lengths and adapters, two of one adapter, and one of none."""
    model = CausalModel(tiny_model(family, dtype))
    config = TempLoraConfig(rank=rank)
    bank = AdapterBank(model.module, Layout(choose_targets(model.module, config), rank), dtype)
    slots = [fresh_slot(bank, seed, 1.5) for seed in range(7)]
    for seed, slot in enumerate(slots[1:]):
        slot.commit(stirred(slot, seed))
    routes = [*(slot.route for slot in slots), None]
    routes[2] = routes[1]
    lengths = [3, 40, 40, 17, 59, 1, 30, 22]
    workers = [1]
    step = CpuStep(model, 3, lambda: workers[0])

    def read(places: list[int]) -> dict[int, Any]:
        rows = []
        for i in places:
            cache = WindowCache(model.layers, 64, sinks=4)
            Runner(model).read(IDS[i : i + lengths[i]], cache, 0, routes[i], Meter())
            cache.advance(lengths[i], 0)
            rows.append(Row(IDS[i], cache, routes[i], step, Meter()))
        logits = step(rows)
        states = [step.state(n) for n in range(len(rows))]
        held = [torch.stack([kept[0, :, : n + 1] for layer in row.cache.layers for kept in (layer.keys, layer.values)])
                for row, n in zip(rows, [lengths[i] for i in places], strict=True)]  # fmt: skip
        return {i: found for i, *found in zip(places, logits, states, held, strict=True)}

    alone = {i: read([i])[i] for i in range(8)}
    for places in ([1, 2], [6, 0, 4], [7, 5, 3, 1], list(range(8)), [5, 4, 3, 2, 1]):
        for workers[0] in (1, 3):
            for i, found in read(places).items():
                assert all(torch.equal(one, other) for one, other in zip(found, alone[i], strict=True)), (places, i)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("length", [KEYS - 1, KEYS, 2 * KEYS + 90])
@torch.no_grad()
def test_a_window_in_pieces(family: str, length: int) -> None:
    """As the modules, for windows of one piece and of several; and, to the bit, beside a shorter one."""
    model = CausalModel(tiny_model(family))
    route, step, runner = slot_on(model).route, CpuStep(model, 2, lambda: 2), Runner(model)

    def read(length: int) -> WindowCache:
        cache = WindowCache(model.layers, 3 * KEYS)
        runner.read([IDS[i % 60] for i in range(length)], cache, 0, route, Meter())
        cache.advance(length, 0)
        return cache

    alone = step([Row(7, read(length), route, step, Meter())])[0]
    wanted = model.logits(runner.read([7], read(length), length, route, Meter()))[0]
    torch.testing.assert_close(alone, wanted, rtol=1e-4, atol=1e-4)
    beside = step([Row(7, read(n), route, step, Meter()) for n in (5, length)])
    assert torch.equal(beside[1], alone)


@pytest.mark.parametrize("family", BUILT_LIKE_LLAMA)
def test_tokens_that_follow_each_other_are_read_at_once(family: str) -> None:
    """To the bits of one after another: logits, and what is in the cache."""
    model = CausalModel(tiny_model(family))
    route, step = slot_on(model).route, CpuStep(model, 2, lambda: 2)
    caches = [WindowCache(model.layers, 64, sinks=4) for _ in range(2)]
    for cache in caches:
        Runner(model).read(IDS[:30], cache, 0, route, Meter())
        cache.advance(30, 0)
    one, many = ([Row(token, cache, route, step, Meter()) for token in IDS[30:41]] for cache in caches)
    runner = Runner(model)
    assert all(map(torch.equal, [runner.step([row])[0] for row in one], runner.step(many)))
    for mine, other in zip(*(cache.layers for cache in caches), strict=True):
        assert torch.equal(mine.keys[:, :, :41], other.keys[:, :, :41])
        assert torch.equal(mine.values[:, :, :41], other.values[:, :, :41])
    with pytest.raises(ModelError, match="no room"):
        step(many[:1] * 24)


@pytest.mark.parametrize("family", BUILT_LIKE_LLAMA)
def test_bfloat16_is_as_near_to_the_truth_as_the_modules(family: str) -> None:
    """It rounds keys and values only, where the modules round after every operation.

    Adapter and context are rounded either way, hence the distance.
    """
    exact, rounded = CausalModel(tiny_model(family)), CausalModel(tiny_model(family, torch.bfloat16))
    exact.module.load_state_dict({n: t.float() for n, t in rounded.module.state_dict().items()})
    (_, truth), _ = both_ways(exact, CpuStep(exact), slot_on(exact))
    (found, wanted), _ = both_ways(rounded, CpuStep(rounded), slot_on(rounded))
    assert (found - truth).norm() <= 1.2 * (wanted - truth).norm()
    assert (found - truth).norm() < 0.06 * truth.norm()


@pytest.mark.parametrize(
    "options",
    [{"rank": 3}, {"rank": 32}, {"target_modules": "q_proj,down_proj"}, {"layers": "1"}, {"target_modules": "v_proj"}],
)
def test_any_adapter(options: dict[str, Any]) -> None:
    model = CausalModel(tiny_model("llama"))
    slot = slot_on(model, **options)
    (found, wanted), _ = both_ways(model, CpuStep(model), slot)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_adapter_is_the_base(dtype: torch.dtype) -> None:
    model = CausalModel(tiny_model("qwen3", dtype))
    config = TempLoraConfig(rank=4)
    bank = AdapterBank(model.module, Layout(choose_targets(model.module, config), 4), dtype)
    slot, step = fresh_slot(bank, 0, 1.5), CpuStep(model)
    (fresh, _), _ = both_ways(model, step, slot)
    (base, _), _ = both_ways(model, step, None)
    assert torch.equal(fresh, base)


def test_nothing_is_read_of_an_adapter_that_adds_nothing(engine: Engine) -> None:
    """To the bits of going through it; from the first commit on it is read, and not again if it is loaded as fresh."""
    with engine.session(small()) as session:
        session.absorb(TEXT[:20])
        session.write(max_new_tokens=1)
        reader, fresh = session.readers[0], session.adapter_weights()
        row = reader.row(session.tokens[-1])
        assert row.route is None
        assert row.step is not None
        through_it = replace(row, route=reader.route)
        assert torch.equal(row.step([row])[0], row.step([through_it])[0])
        session.absorb(TEXT[20:60])
        assert session.version == 1
        assert reader.row(0).route is reader.route
        session.use_adapter(fresh)
        assert reader.row(0).route is None


def test_commits_and_new_slots_take_effect() -> None:
    """The adapter is read in place: the same step follows every commit; other slots leave it where it is."""
    model = CausalModel(tiny_model("llama"))
    slot = slot_on(model)
    step = CpuStep(model)
    seen = []
    for change in range(3):
        (found, wanted), _ = both_ways(model, step, slot)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        seen.append(found)
        slot.commit(stirred(slot, change))
        if change == 1:
            fresh_slot(slot.bank, 5)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_frequencies_that_a_method_rewrites_take_effect(family: str) -> None:
    """Dynamic NTK scaling does so, at chunks' beginnings."""
    model = CausalModel(tiny_model(family))
    step = CpuStep(model)
    both_ways(model, step, None)
    for name, frequencies in model.decoder.rotary_emb.named_buffers():
        if "original" not in name:
            frequencies.copy_(frequencies / 3)
    (found, wanted), _ = both_ways(model, step, None)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_nothing_holds_an_adapter_that_is_gone() -> None:
    """What the step keeps for a route are addresses; they go when the adapter's memory does."""
    model = CausalModel(tiny_model("llama"))
    slot = slot_on(model)
    step = CpuStep(model)
    both_ways(model, step, slot)
    memory = weakref.ref(slot.route)
    assert len(step._plans) == 1
    slot.bank.release(slot)
    gc.collect()
    assert memory() is None
    assert step._plans == {}


def test_the_number_of_workers_changes_no_bit() -> None:
    model = CausalModel(tiny_model("gemma3", torch.bfloat16))
    slot = slot_on(model)
    results = [both_ways(model, CpuStep(model, 4, lambda n=n: n), slot)[0][0] for n in (1, 2, 4)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_does_not_apply_everywhere() -> None:
    for family in ("phi", "gpt2"):
        assert cpu_step(CausalModel(tiny_model(family))) is None
    with pytest.raises(UnknownLayout):
        CpuStep(CausalModel(tiny_model("llama", torch.float16)))


def test_a_step_that_disagrees_with_the_model_is_not_used() -> None:
    module = tiny_model("llama")
    assert cpu_step(CausalModel(module)) is not None
    plain = module.model.layers[1].mlp.forward
    module.model.layers[1].mlp.forward = lambda x: 3 * plain(x)  # something that the parts do not show
    assert cpu_step(CausalModel(module)) is None


@pytest.mark.parametrize("family", BUILT_LIKE_LLAMA)
@pytest.mark.parametrize("cache_reuse", [0, 2])
def test_a_session_writes_the_same_either_way(family: str, cache_reuse: int) -> None:
    """Greedy text in fp32 over several chunks, learning on: the same tokens compiled and through the modules."""
    written = []
    for compiled in (True, False):
        engine = Engine(tiny_model(family), byte_tokenizer(), compiled=compiled)
        assert (engine.new_step() is not None) == compiled
        config = TempLoraConfig(rank=4, chunk_size=16, window=48, cache_reuse=cache_reuse, learning_rate=5e-3)
        with engine.session(config) as session:
            greedy = SamplingParams(temperature=0, repetition_penalty=1.3)
            session.write("Call me Ishmael. ", max_new_tokens=60, sampling=greedy)
            assert session.version > 1
            written.append(list(session.tokens))
        assert session.receipt is not None
        assert session.receipt.base_unchanged
        assert session.receipt.discarded
    assert written[0] == written[1]
