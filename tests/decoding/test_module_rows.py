"""Rows through a model's own modules: each is what it is alone."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from conftest import small
from test_cpu_step import IDS, slot_on, stirred
from test_graph_rows import NothingReadBack

from templora import SamplingParams, Session
from templora.decoding import steps
from templora.decoding.graph_rows import GraphRows
from templora.decoding.module_rows import ModuleRows, agrees, rows_of
from templora.decoding.steps import Steps
from templora.engine.engine import Engine
from templora.errors import ModelError
from templora.kvcache.window import WindowCache
from templora.lora.slot import Slot
from templora.models.causal import CausalModel
from templora.models.runner import Row, Runner
from templora.runtime.metering import Meter
from templora.testing import FAMILIES, tiny_engine, tiny_model

# With an attention of their own, experts, or biases that are added to scores.
OTHERS = ("gemma2", "mixtral", "qwen2_moe", "gpt_oss", "falcon", "bloom")


def model_of(family: str, dtype: torch.dtype = torch.float32) -> CausalModel:
    if family in FAMILIES:
        return CausalModel(tiny_model(family, dtype))
    own: dict[str, dict[str, Any]] = {
        "gemma2": {"head_dim": 8, "sliding_window": 24},
        "gpt_oss": {"head_dim": 8, "num_local_experts": 4, "sliding_window": 24},
        "mixtral": {"num_local_experts": 4},
        # One expert that all tokens go to, of linear layers, which get adapters.
        "qwen2_moe": {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "decoder_sparse_step": 1,
        },
    }
    config = hf.AutoConfig.for_model(
        family,
        vocab_size=260,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=None,
        **{"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}} if family == "gpt_oss" else {},
        **own.get(family, {}),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = hf.AutoModelForCausalLM.from_config(config)
    for name, parameter in module.named_parameters():
        parameter.data.mul_(3 if parameter.dim() > 1 else 1)
        if "sinks" in name or "bias" in name:
            parameter.data.normal_()
    model = CausalModel(module.to(dtype).eval())
    model.check()
    return model


def graph(model: CausalModel, records: list[int] | None = None, most: int = 4) -> GraphRows:
    """Rows as a GPU has them; where there is none a replay runs the very step to be recorded."""

    def record(step: Any) -> Any:
        if records is not None:
            records.append(1)
        step()
        return step

    return GraphRows(model, most, record)


class Texts:
    """Texts of several lengths and adapters, read up to their last token."""

    def __init__(self, model: CausalModel, step: Any, slots: Sequence[Slot | None]) -> None:
        self.model, self.step, self.slots = model, step, slots
        self.ids = [IDS[i : 30 + 7 * i] for i in range(len(slots))]

    def row(self, i: int, ids: list[int] | None = None) -> Row:
        ids, slot = ids or self.ids[i], self.slots[i]
        cache, route = WindowCache(self.model.layers, 70, sinks=4), slot and slot.route
        with torch.no_grad():
            Runner(self.model).read(ids[:-1], cache, 0, route, Meter())
        cache.advance(len(ids) - 1, 0)
        return Row(ids[-1], cache, route, self.step, Meter())

    @torch.no_grad()
    def by_modules(self, i: int) -> torch.Tensor:
        row = self.row(i)
        return self.model.logits(
            Runner(self.model).read([row.token], row.cache, len(self.ids[i]) - 1, row.route, Meter())
        )[0]


def held(row: Row) -> list[torch.Tensor]:
    return [t[:, :, : row.cache.length + 1] for layer in row.cache.layers for t in (layer.keys, layer.values)]


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_what_it_is_alone(family: str, recorded: bool, dtype: torch.dtype) -> None:
    """Logits, last state, and what is put into the cache, to the bit: in every place and company, with other adapters
    of another rank, and none."""
    model = model_of(family, dtype)
    step = rows_of(model)
    if family in ("falcon", "bloom"):
        assert step is None  # their attention takes no name
        return
    assert step is not None
    step = graph(model) if recorded else step
    texts = Texts(model, step, [slot_on(model), None, slot_on(model, rank=2), slot_on(model, layers="1")])
    alone: dict[int, list[torch.Tensor]] = {}
    for i in range(4):
        row = texts.row(i)
        logits = step([row])[0]
        alone[i] = [logits, step.state(0).clone(), *held(row)]
        near = 1e-4 if dtype == torch.float32 else 0.03 * float(logits.abs().max())
        torch.testing.assert_close(logits, texts.by_modules(i), rtol=1e-4, atol=near)
    for company in ([0, 1, 2, 3], [3, 1, 0], [2, 0], [1, 3, 2, 0]):
        rows = [texts.row(i) for i in company]
        for at, (i, found) in enumerate(zip(company, step(rows), strict=True)):
            for ours, own in zip([found, step.state(at), *held(rows[at])], alone[i], strict=True):
                assert torch.equal(ours, own), (company, i)


@pytest.mark.parametrize("family", ["phi", "gpt2", "mistral", "gpt_oss"])
@pytest.mark.parametrize("recorded", [False, True])
def test_rows_of_one_text_are_tokens_that_follow(family: str, recorded: bool) -> None:
    model = model_of(family)
    step = graph(model) if recorded else ModuleRows(model)
    texts = Texts(model, step, [slot_on(model), None])
    one, other = texts.row(0), texts.row(0)
    neighbour = texts.row(1)
    found = []
    for token in IDS[40:43]:
        found += step([Row(token, one.cache, one.route, step, Meter())])
        one.cache.advance(1, 0)
    rows = [Row(token, other.cache, other.route, step, Meter()) for token in IDS[40:43]]
    together = step([rows[0], neighbour, *rows[1:]])
    assert [torch.equal(a, b) for a, b in zip(found, [together[0], *together[2:]], strict=True)] == [True] * 3


@pytest.mark.parametrize("recorded", [False, True])
def test_where_positions_move_apart(recorded: bool) -> None:
    """After evictions entries and positions differ."""
    model = model_of("mistral")
    step = graph(model) if recorded else ModuleRows(model)
    texts = Texts(model, step, [slot_on(model), None])
    rows = [texts.row(0), texts.row(1)]
    rows[0].cache.evict(9)
    wanted = [
        model.logits(Runner(model).read([r.token], r.cache, r.cache.next_position, r.route, Meter()))[0].detach()
        for r in rows
    ]
    for found, by_modules in zip(step(rows), wanted, strict=True):
        torch.testing.assert_close(found, by_modules, rtol=1e-4, atol=1e-4)


def test_what_goes_while_it_is_recorded_is_not_kept() -> None:
    """Nor does it stand in the way of who comes later."""
    model = model_of("phi")
    texts = Texts(model, None, [None, None, None])
    held: list[Row] = []

    def record(_: Any) -> Any:
        held.clear()
        gc.collect()
        return lambda: (torch.zeros(4, 260), torch.zeros(4, 32))

    step = GraphRows(model, 4, record)
    other = texts.row(1)
    for number in range(3):
        held.append(texts.row(number))
        step([held[0], other] if number != 1 else [held[0]])
    gc.collect()
    alive = {(id(other.cache), id(None))}
    assert all(set(recording.texts) <= alive for recording in step._recordings)
    step([other])


def test_an_expert_block_that_somebody_has_changed_is_left_alone() -> None:
    model = model_of("mixtral")
    block = model.mixtures[0]
    block.forward = own = block.forward
    assert rows_of(model) is None
    assert block.__dict__["forward"] is own


def test_a_window_that_attention_is_not_told_of() -> None:
    """Qwen 2's mixtures have it in a mask alone."""
    model = model_of("qwen2_moe")
    model.config.layer_types = ["sliding_attention", "full_attention"]
    assert rows_of(model) is None


def test_nothing_is_left_of_a_pass() -> None:
    """On the model, also after one that failed; nor are caches kept."""
    model = model_of("mixtral")
    before = model.config._attn_implementation, [sorted(m.__dict__) for m in model.module.modules()]
    step = ModuleRows(model)
    texts = Texts(model, step, [slot_on(model), None])
    step([texts.row(0), texts.row(1)])
    broken = texts.row(0)
    broken.cache.layers[1].keys = torch.zeros(1)
    with pytest.raises((IndexError, RuntimeError)):
        step([texts.row(1), broken])
    assert before == (model.config._attn_implementation, [sorted(m.__dict__) for m in model.module.modules()])
    row = texts.row(0)
    kept = weakref.ref(row.cache), weakref.ref(row.cache.layers[0])
    gc.collect()
    gc.disable()
    try:
        step([row])
        del row
        assert [ref() for ref in kept] == [None, None]
    finally:
        gc.enable()


def test_recordings_are_of_texts() -> None:
    """One for those that come together, whoever of them does; another for who is new, with the others; and none of who
    is gone."""
    model = model_of("phi")
    records: list[int] = []
    step = graph(model, records)
    slots = [slot_on(model) for _ in range(5)]
    texts = Texts(model, step, [*slots])
    rows = [texts.row(i) for i in range(5)]
    for company, made in (
        ([0, 1], 1),
        ([1], 1),
        ([1, 0], 1),
        ([2], 2),
        ([2, 0, 1], 2),
        ([3], 3),
        ([4], 4),
        ([0, 3], 4),
    ):
        step([rows[i] for i in company])
        assert len(records) == made, company
    slots[0].commit(stirred(slots[0], 3))
    again = texts.row(0)
    alone = graph(model)([again])[0]
    rows[0].cache.truncate(0)  # what it held was of the adapter before
    rows[0] = again
    assert torch.equal(step([again, rows[1]])[0], alone)
    fleeting = GraphRows(model, 4, lambda _: lambda: (torch.zeros(4, 260), torch.zeros(4, 32)))  # keeps no caches
    fleeting([texts.row(2), rows[1]])
    fleeting([rows[0], rows[1]])
    gc.collect()
    assert [recording.texts for recording in fleeting._recordings] == [
        tuple((id(row.cache), id(row.route)) for row in rows[:2])
    ]


@pytest.mark.parametrize("family", [*FAMILIES, "gemma2"])
def test_nothing_keeps_rows_from_being_recorded(family: str) -> None:
    """A graph cannot wait for the host: a value read back, or uploaded, in the middle of the step would end it."""
    model = model_of(family)

    def record(step: Any) -> Any:
        with NothingReadBack():
            step()
        return step

    texts = Texts(model, None, [slot_on(model), None])
    for most in (1, 4):
        GraphRows(model, most, record)([texts.row(0), texts.row(1)][:most])


def test_no_room_is_said() -> None:
    model = model_of("phi")
    row = Texts(model, None, [None]).row(0)
    row.cache.advance(row.cache.capacity - row.cache.length, 0)
    with pytest.raises(ModelError, match="no room for a token"):
        ModuleRows(model)([row])


def test_another_thread_meets_the_base() -> None:
    """In the middle of a pass with adapters."""
    model = model_of("phi")
    step = ModuleRows(model)
    row = Texts(model, step, [slot_on(model)]).row(0)
    ids = torch.tensor([IDS[:9]])
    with torch.no_grad(), model.passes():
        wanted, found = model.module(ids).logits, list[torch.Tensor]()

        def look(*_: Any) -> None:
            def read() -> None:
                with torch.no_grad():
                    found.append(model.module(ids).logits)

            if threading.current_thread() is threading.main_thread():
                thread = threading.Thread(target=read)
                thread.start()
                thread.join()

        handle = model.decoder.layers[1].register_forward_pre_hook(look)  # type: ignore[index,union-attr]
        step([row])
        handle.remove()
    assert torch.equal(found[0], wanted)


def test_what_depends_on_its_neighbours_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frequencies chosen by the longest text; a model whose rows are found to differ."""
    module = tiny_model("phi")
    module.config.rope_parameters = {
        "rope_type": "dynamic",
        "factor": 2.0,
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
    }
    assert rows_of(CausalModel(type(module)(module.config).eval())) is None
    model = model_of("phi")
    assert rows_of(model) is not None
    norm = model.decoder.layers[0].input_layernorm  # type: ignore[index,union-attr]
    monkeypatch.setattr(norm, "forward", lambda x: x - x.mean((0, 1)))
    assert rows_of(model) is None


@pytest.mark.parametrize("most", [1, 2, 4, 8])
def test_a_step_of_any_size_can_be_tried(most: int) -> None:
    model = model_of("gemma3")
    for step in (ModuleRows(model, most), graph(model, most=most)):
        assert agrees(step, model)
        assert step.attended == model.layers


def test_the_compiled_step_comes_first() -> None:
    assert type(Steps(model_of("llama")).new()).__name__ == "CpuStep"
    assert type(Steps(model_of("gpt2")).new()).__name__ == "ModuleRows"


def alone_and_together(engine: Engine, text: str) -> tuple[list[list[int]], list[list[int]]]:
    """What three sessions write one after another, and at once; with commits, window moves and known tokens."""
    found = list[list[list[int]]]()
    for together in (False, True):
        with ExitStack() as stack:
            sessions = [stack.enter_context(engine.session(small(max_repetition=1.0, seed=i))) for i in range(3)]

            def play(i: int, sessions: list[Session] = sessions) -> None:
                sessions[i].absorb(text[9 * i : 40 + 20 * i])
                forced = sessions[i].encode(text[100:110])
                hot = SamplingParams(temperature=1.5)
                for _ in sessions[i].stream(max_new_tokens=70, sampling=hot, forced_tokens=forced):
                    pass

            with engine.shared() if together else ExitStack():
                if together:
                    with ThreadPoolExecutor() as threads:
                        list(threads.map(play, range(3)))
                else:
                    for i in range(3):
                        play(i)
            found.append([session.tokens for session in sessions])
    return found[0], found[1]


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_sessions_on_recorded_rows(family: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_engine(family)
    records: list[int] = []
    step = graph(engine.model, records)
    monkeypatch.setattr(engine, "new_step", lambda: step)
    alone, together = alone_and_together(engine, text)
    assert alone == together
    assert len(records) <= 12  # of each by itself, four times for known tokens, and of those that come together


def test_who_asks_for_rows_on_a_gpu_and_gets_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(steps, "graph_rows", lambda _, rows: asked.append(rows))
    model: Any = SimpleNamespace(device=torch.device("cuda"))
    with pytest.warns(UserWarning, match="cannot read 8 texts"):
        assert Steps(model, 8).new() is None
    assert Steps(model, 1).new() is None  # and no warning, which would be an error
    assert asked == [8, 1, 1]
