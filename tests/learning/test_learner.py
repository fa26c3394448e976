from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from adapted import adapted_logits, with_random_adapter
from conftest import small
from torch.optim.adamw import adamw

from templora import ChunkLearned, Session
from templora.chunks import Chunk
from templora.engine.engine import Engine
from templora.kvcache.window import WindowCache
from templora.learning.learner import Learner
from templora.learning.optimizer import Step
from templora.lora import bank
from templora.lora.slot import Layout
from templora.runtime.metering import Meter
from templora.testing import FAMILIES, tiny_engine

IDS = [(i * i * 7 + 3 * i) % 256 for i in range(200)]


def learned(session: Session, text: str) -> list[ChunkLearned]:
    return [e for e in session.absorb_events(text) if isinstance(e, ChunkLearned)]


def flat_gradient(engine: Engine, layout: Layout, weights: torch.Tensor, ids: list[int], chunk: Chunk) -> torch.Tensor:
    """The gradient of the mean NLL of a chunk, gradients through its context included, the plain way: PEFT's formula
    on copies of the layers, autograd on leaves, nothing of ours but the layout."""
    flat = weights.clone().requires_grad_()
    pairs = layout.views(flat)
    handles = []
    for target, (a, b) in zip(layout.targets, pairs, strict=True):

        def hook(_: Any, args: Any, out: torch.Tensor, a: torch.Tensor = a, b: torch.Tensor = b) -> torch.Tensor:
            return out + 2.0 * (args[0] @ a.T @ b.T)  # alpha / rank = 8 / 4

        handles.append(engine.model.module.get_submodule(target.name).register_forward_hook(hook))
    window = ids[chunk.start : chunk.end]
    logits = engine.model.module(torch.tensor([window])).logits[0]
    first = chunk.first_target - chunk.start
    F.cross_entropy(logits[first - 1 : -1], torch.tensor(window[first:])).backward()
    for handle in handles:
        handle.remove()
    assert flat.grad is not None
    return flat.grad


def learner_of(session: Session) -> Learner:
    return Learner(session.engine.runner, session.slot, session.config, Meter())


def our_gradient(engine: Engine, session: Session, ids: list[int], chunk: Chunk, cache: WindowCache) -> torch.Tensor:
    """What `Learner` hands to the optimiser, caught before clipping."""
    caught: list[torch.Tensor] = []
    learner = Learner(engine.runner, session.slot, session.config, Meter())
    real = Step.clipped

    def catch(gradient: torch.Tensor, most: float) -> Step:
        caught.append(gradient.float())
        return real(gradient, most)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "clipped", catch)
        learner.stage(session.slot.state, ids, chunk, cache)
    return caught[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [Chunk(0, 0, 0, 32), Chunk(1, 0, 32, 64), Chunk(3, 32, 96, 120)])
def test_paper_gradient_is_the_plain_one(family: str, chunk: Chunk) -> None:
    """Loss on the chunk's own tokens only, context seen but masked, through the context, each layer's gradient."""
    engine = tiny_engine(family)
    with engine.session(small(context_gradients=True)) as session:
        with_random_adapter(session)
        bank, weights = session.slot.bank, session.slot.state.weights
        ours = our_gradient(engine, session, IDS, chunk, session.readers[0].cache)
        plain = flat_gradient(tiny_engine(family), bank.layout, weights, IDS, chunk)
        for (a, b), (c, d), t in zip(
            bank.layout.views(ours), bank.layout.views(plain), bank.layout.targets, strict=True
        ):
            assert torch.allclose(a, c, rtol=1e-3, atol=1e-6), t.name
            assert torch.allclose(b, d, rtol=1e-3, atol=1e-6), t.name


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_gradient_is_that_of_a_detached_context(family: str) -> None:
    """Learning over the cache = the whole window in one graph whose context keys and values are detached."""
    engine = tiny_engine(family)
    chunk = Chunk(2, 0, 64, 96)
    with engine.session(small()) as session:
        with_random_adapter(session)
        session.readers[0].prepare(IDS[:64], 64, session.version)
        ours = our_gradient(engine, session, IDS, chunk, session.readers[0].cache)

        from transformers import DynamicCache

        bank, weights = session.slot.bank, session.slot.state.weights
        flat = weights.clone().requires_grad_()
        route = session.slot.route_of(flat)
        plain = DynamicCache()
        with bank.through(route):
            with torch.no_grad():
                engine.model.decoder(torch.tensor([IDS[:63]]), past_key_values=plain, use_cache=True)
            logits = engine.model.module(torch.tensor([IDS[63:95]]), past_key_values=plain, use_cache=True).logits[0]
        F.cross_entropy(logits, torch.tensor(IDS[64:96])).backward()
        assert flat.grad is not None
        for (a, b), (c, d), t in zip(
            bank.layout.views(ours), bank.layout.views(flat.grad), bank.layout.targets, strict=True
        ):
            for mine, theirs in ((a, c), (b, d)):
                assert F.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0) >= 0.999, t.name
                assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-6), t.name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [96, 300])
def test_cached_gradient_in_bf16_is_that_of_fp32(family: str, length: int) -> None:
    """The learn step as it runs, on a base in bf16, against plain autograd over the same weights in fp32, the
    context's keys and values detached: each layer's gradient, A and B of all its targets together."""
    from transformers import DynamicCache

    ids = [(i * i * 7 + 3 * i) % 256 for i in range(length)]
    engine = tiny_engine(family, torch.bfloat16, positions=512)
    exact = tiny_engine(family, torch.bfloat16, positions=512).model.module.float()
    middle = length // 3
    chunk = Chunk(1, 0, middle, length)
    for parameters in (engine.model.module.parameters(), exact.parameters()):
        for parameter in parameters:  # milder than what `tiny_model` draws, on which bf16 itself is far off
            parameter.data.mul_(0.5) if parameter.dim() > 1 else None
    with engine.session(small(chunk_size=length - middle, window=length)) as session:
        with_random_adapter(session)
        session.readers[0].prepare(ids[:middle], middle, session.version)
        ours = our_gradient(engine, session, ids, chunk, session.readers[0].cache)
        layout, weights = session.slot.layout, session.slot.state.weights
        flat = weights.bfloat16().float().requires_grad_()
        cache = DynamicCache()
        handles = []
        for target, (a, b) in zip(layout.targets, layout.views(flat), strict=True):

            def hook(_: Any, args: Any, out: torch.Tensor, a: torch.Tensor = a, b: torch.Tensor = b) -> torch.Tensor:
                return out + 2.0 * (args[0] @ a.T @ b.T)  # alpha / rank = 8 / 4

            handles.append(exact.get_submodule(target.name).register_forward_hook(hook))
        with torch.no_grad():
            exact(torch.tensor([ids[: middle - 1]]), past_key_values=cache, use_cache=True)
        logits = exact(torch.tensor([ids[middle - 1 : -1]]), past_key_values=cache, use_cache=True).logits[0]
        F.cross_entropy(logits, torch.tensor(ids[middle:])).backward()
        assert flat.grad is not None
        for layer in range(2):
            found = [
                torch.cat([x.flatten() for target, pair in zip(layout.targets, pairs, strict=True) for x in pair
                           if target.layer == layer])
                for pairs in (layout.views(ours), layout.views(flat.grad))
            ]  # fmt: skip
            assert F.cosine_similarity(*found, dim=0) >= 0.999, layer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("context_gradients", [False, True])
def test_checkpointing_changes_no_bit_of_the_gradient(family: str, context_gradients: bool) -> None:
    """Dropout and the cached context included; and blocks are run once more for it, under the same adapter."""
    found = []
    for checkpointing in (False, True):
        engine = tiny_engine(family)
        runs: list[int] = []
        norm = next(m for n, m in engine.model.decoder.named_modules() if "norm" in n or "ln" in n)
        norm.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        config = small(context_gradients=context_gradients, checkpointing=checkpointing, dropout=0.1)
        with engine.session(config) as session:
            with_random_adapter(session)
            session.readers[0].prepare(IDS[:64], 64, session.version)
            runs.clear()
            found.append(our_gradient(engine, session, IDS, Chunk(2, 0, 64, 96), session.readers[0].cache))
            assert len(runs) == 1 + checkpointing
        assert not any("forward" in m.__dict__ for m in engine.model.module.modules())
    assert torch.equal(*found)


def test_checkpointing_goes_through_the_adapter_in_whichever_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU autograd makes the backward pass, and what is computed again in it, in a thread of its own."""
    found = []
    for apart in (False, True):
        engine = tiny_engine()
        real = engine.model.nll_backward

        def in_a_thread(*arguments: Any, real: Any = real) -> Any:
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(real, *arguments).result()

        with engine.session(small(checkpointing=True)) as session:
            with_random_adapter(session)
            session.readers[0].prepare(IDS[:64], 64, session.version)
            if apart:
                monkeypatch.setattr(engine.model, "nll_backward", in_a_thread)
            found.append(our_gradient(engine, session, IDS, Chunk(2, 0, 64, 96), session.readers[0].cache))
    assert torch.equal(*found)


def test_learning_leaves_the_cache_alone(engine: Engine) -> None:
    with engine.session(small()) as session:
        session.readers[0].prepare(IDS[:64], 64, 0)
        cache = session.readers[0].cache
        held = [layer.keys[:, :, : cache.length] for layer in cache.layers]  # what lies beyond is no number yet
        before = [keys.clone() for keys in held], list(cache.versions), cache.next_position
        our_gradient(engine, session, IDS, Chunk(2, 0, 64, 96), cache)
        assert all(torch.equal(a, b) for a, b in zip(held, before[0], strict=True))
        assert (cache.versions, cache.next_position) == before[1:]


@pytest.mark.parametrize("sinks", [0, 1])
def test_paper_context_is_the_last_train_context_tokens_after_the_opening(
    sinks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BOS, where there is one, opens the context as it opens every window."""
    engine = tiny_engine(bos=bool(sinks))
    read: list[list[int]] = []
    real = engine.model.hidden
    monkeypatch.setattr(engine.model, "hidden", lambda ids, *more: read.append(ids) or real(ids, *more))
    with engine.session(small(context_gradients=True, train_context=16, probe_tokens=0)) as session:
        learner_of(session).learn(IDS, Chunk(2, 0, 64, 96), session.readers[0].cache)
    assert read == [IDS[:sinks] + IDS[48 + sinks : 95]]


@pytest.mark.parametrize("context_gradients", [False, True])
def test_train_context_is_how_much_context_learning_sees(context_gradients: bool) -> None:
    """Changing a token beyond train_context changes nothing; changing one within it does."""
    found = []
    for changed in (None, 47, 48):
        engine = tiny_engine()
        ids = list(IDS)
        if changed is not None:
            ids[changed] = (ids[changed] + 1) % 256
        config = small(train_context=16, context_gradients=True) if context_gradients else small(train_context=16)
        model = engine.model.module
        model.model.layers = model.model.layers[:1]  # in one layer, a cached key knows of its own token only
        model.config.num_hidden_layers = 1
        engine = Engine(model, engine.tokenizer)
        with engine.session(config) as session:
            with_random_adapter(session)
            session.readers[0].prepare(ids[:64], 64, session.version)
            found.append(our_gradient(engine, session, ids, Chunk(2, 0, 64, 96), session.readers[0].cache))
    assert torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-8)
    assert not torch.allclose(found[0], found[2], rtol=1e-2, atol=1e-6)


def test_every_token_is_learnt_exactly_once(engine: Engine, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    targets: list[int] = []
    real = Learner.learn

    def spy(self: Learner, tokens: Any, chunk: Chunk, cache: WindowCache, *rest: Any) -> Any:
        targets.extend(range(chunk.first_target, chunk.end))
        return real(self, tokens, chunk, cache, *rest)

    monkeypatch.setattr(Learner, "learn", spy)
    with engine.session(small()) as session:
        session.absorb(text[:50])
        session.absorb(text[50:61])
        session.write(max_new_tokens=70)
        session.score(text[:41])
        assert session.close_chunk() is not None  # the ragged last one
        assert session.close_chunk() is None
        assert targets == list(range(1, 50 + 11 + 70 + 41))


def test_masters_are_fp32_over_a_bf16_base(text: str) -> None:
    """A step of 5e-5 is lost in bf16 beside a weight of 0.1; the masters must keep it."""
    engine = tiny_engine(dtype=torch.bfloat16)
    with engine.session(small(learning_rate=5e-5, warmup_chunks=0)) as session:
        before = session.slot.state.weights.clone()
        session.absorb(text[:96])
        after = session.slot.state
        assert {after.weights.dtype, after.exp_avg.dtype, after.exp_avg_sq.dtype} == {torch.float32}
        moved = (after.weights != before).float().mean()
        assert moved > 0.95
        a, _ = session.slot.layout.views(after.weights)[0]
        assert (a.bfloat16() == session.slot.layout.views(before)[0][0].bfloat16()).float().mean() > 0.3


def test_gradients_are_clipped(engine: Engine, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def spy(params: Any, grads: list[torch.Tensor], *args: Any, **options: Any) -> None:
        seen.append(float(grads[0].norm()))
        adamw(params, grads, *args, **options)

    monkeypatch.setattr("templora.learning.optimizer.adamw", spy)
    with engine.session(small(max_grad_norm=0.01)) as session:
        session.absorb(text)
    assert seen
    assert max(seen) <= 0.0101


def test_dropout_changes_learning_but_not_decoding(text: str) -> None:
    weights = []
    for dropout in (0.0, 0.5):
        engine = tiny_engine()
        with engine.session(small(dropout=dropout)) as session:
            session.absorb(text[:64])
            weights.append(session.slot.state.weights)
            session.loop.readers.prepare(session.readers[0])
            read = session.readers[0].next_logits(session.tokens)  # through the decoder's own route
            assert torch.allclose(read, adapted_logits(session, session.tokens)[0, -1], rtol=1e-4, atol=1e-5)
    assert not torch.equal(*weights)


def test_dropout_is_drawn_anew_for_every_step_and_target(engine: Engine, text: str) -> None:
    seeds: list[int] = []
    real = bank.dropped_inputs

    def spy(x: torch.Tensor, share: float, seed: int) -> torch.Tensor:
        seeds.append(seed)
        return real(x, share, seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank, "dropped_inputs", spy)
        for seed in (1, 2, 1):
            with engine.session(small(dropout=0.1, epochs=2, seed=seed)) as session:
                session.absorb(text[:96])
    one = 3 * 2 * 14  # chunks, epochs, targets
    assert len(seeds) == 3 * one
    assert len(set(seeds)) == 2 * one
    assert seeds[:one] == seeds[2 * one :]


def test_dropout_is_that_of_torch_with_a_generator_of_its_own() -> None:
    x = torch.randn(1, 64, 2048, dtype=torch.bfloat16)
    before = torch.get_rng_state()
    dropped = bank.dropped_inputs(x, 0.25, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(dropped, bank.dropped_inputs(x, 0.25, 5))
    assert not torch.equal(dropped, bank.dropped_inputs(x, 0.25, 6))
    gone = dropped == 0
    assert float(gone.float().mean()) == pytest.approx(0.25, abs=0.01)
    assert torch.allclose(dropped[~gone], x[~gone] / 0.75, rtol=1e-2)


def test_learning_is_one_adamw_over_all_chunks(engine: Engine) -> None:
    """Rate, warm-up, epsilon, decay, epochs, moments and their bias correction, and the gradient of every step: as
    plain AdamW over PEFT's formula, never begun anew."""
    options: dict[str, Any] = {"learning_rate": 2e-3, "warmup_chunks": 4, "adam_epsilon": 1e-4, "weight_decay": 0.3}
    config = small(**options, epochs=2, max_grad_norm=0.5, context_gradients=True, window=128)
    with engine.session(config) as session:
        slot = session.slot
        weights = slot.state.weights.clone().requires_grad_()
        plain = torch.optim.AdamW([weights], betas=(0.7, 0.99), lr=1.0, eps=1e-4, weight_decay=0.3)
        other = tiny_engine()
        for index in range(3):
            chunk = Chunk(index, 0, 32 * index, 32 * index + 32)
            norms = []
            plain.param_groups[0]["lr"] = 2e-3 * (index + 1) / 4
            for _ in range(2):
                weights.grad = flat_gradient(other, slot.layout, weights.detach(), IDS, chunk)
                norms.append(float(torch.nn.utils.clip_grad_norm_([weights], 0.5)))
                plain.step()
            update = learner_of(session).learn(IDS, chunk, session.readers[0].cache)
            assert update.committed
            assert update.grad_norm == pytest.approx(norms[-1], rel=1e-3)
            state = slot.state
            assert (state.steps, state.version) == (2 * index + 2, index + 1)
            assert torch.allclose(state.weights, weights, rtol=1e-3, atol=2e-5)
            for name in ("exp_avg", "exp_avg_sq"):
                assert torch.allclose(getattr(state, name), plain.state[weights][name], rtol=1e-3, atol=1e-6), name


def test_the_loss_is_that_before_the_first_step(engine: Engine) -> None:
    found = []
    for epochs in (1, 3):
        with engine.session(small(epochs=epochs)) as session:
            found.append(learner_of(session).learn(IDS, Chunk(0, 0, 0, 32), session.readers[0].cache).loss)
    with torch.no_grad():
        logits = engine.model.module(torch.tensor([IDS[:31]])).logits[0]
    assert found == pytest.approx([float(F.cross_entropy(logits, torch.tensor(IDS[1:32])))] * 2, rel=1e-5)


def test_learning_gives_the_base_no_gradients(engine: Engine, text: str) -> None:
    engine.model.module.requires_grad_(True)
    with engine.session(small()) as session:
        session.absorb(text[:64])
        assert session.version == 2
        assert all(p.grad is None for p in engine.model.module.parameters())


def test_a_model_in_train_mode_is_read_in_eval_mode(text: str) -> None:
    """GPT-2's own dropout must neither reach what is written nor what is learnt."""
    found = []
    for training in (False, True):
        engine = tiny_engine("gpt2")
        engine.model.module.train(training)
        with engine.session(small()) as session:
            session.absorb(text[:64])
            found.append(session.slot.state.weights)
        assert engine.model.module.training == training
    assert torch.equal(*found)


# Judge ------------------------------------------------------------------------------------------------------------


def test_an_exploding_rate_is_rolled_back_and_the_run_goes_on(engine: Engine, text: str) -> None:
    with engine.session(small(learning_rate=1e6, patience=0)) as session:
        before = session.slot.state
        kept = [x.clone() for x in (before.weights, before.exp_avg, before.exp_avg_sq)]
        events = learned(session, text[:200])
        assert len(events) == 6
        assert not any(e.committed for e in events)
        assert all("max_update" in e.reason for e in events)
        assert session.slot.state is before
        for now, then in zip((before.weights, before.exp_avg, before.exp_avg_sq), kept, strict=True):
            assert torch.equal(now, then)  # the optimiser forgets the rejected chunks too
        assert (session.version, before.steps) == (0, 0)
        session.write(max_new_tokens=10)


def test_weights_that_are_no_numbers_are_rolled_back(engine: Engine, text: str) -> None:
    """Loss and gradient are finite, but decay overflows: 0 × inf. No comparison with max_update is true of that."""
    with engine.session(small(learning_rate=1e30, weight_decay=1e30)) as session:
        (event,) = learned(session, text[:32])
        assert not event.committed
        assert "(nan root mean square" in event.reason
        assert session.version == 0


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_what_is_not_finite_is_rolled_back(engine: Engine, text: str, poison: str) -> None:
    with engine.session(small()) as session, pytest.MonkeyPatch.context() as patch:
        learned(session, text[:64])
        before = session.slot.state
        served = session.slot.serving.clone()
        if poison == "loss":
            patch.setattr(type(engine.model), "nll_backward", lambda *_: torch.tensor([torch.nan]))
        else:
            broken = "templora.learning.learner._TrainingCopy.take_gradient"
            patch.setattr(broken, lambda self: self._gradient * float("inf"))
        (event,) = learned(session, text[64:96])
        assert not event.committed
        assert f"the {poison} is not finite" in event.reason
        assert session.slot.state is before
        assert torch.equal(session.slot.serving, served)


def test_a_written_chunk_that_repeats_itself_is_not_learnt(engine: Engine, text: str) -> None:
    from templora import SamplingParams

    config = small(max_repetition=0.2)
    with engine.session(config) as session:
        events = session.stream(
            text[:10], max_new_tokens=150, sampling=SamplingParams(temperature=0, repetition_penalty=1.0)
        )
        reasons = [e.reason for e in events if isinstance(e, ChunkLearned)]
        assert any(r.startswith("repetitive") for r in reasons)
    with engine.session(config) as session:  # the user's own text is learnt however it repeats
        assert all(e.committed for e in learned(session, "la " * 60))
