"""Samplers of one session: what a caller asks for, together with what the engine knows of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from templora.errors import OptionError
from templora.sampling import Sampler, SamplingParams

if TYPE_CHECKING:
    from templora.session.session import Session


def samplers(session: Session, sampling: SamplingParams | None, stop_at_end: bool) -> list[Sampler]:
    """One for each alternative that is asked for.

    Raises:
        OptionError: `logit_bias` cannot be, with this model.
    """
    params, engine = SamplingParams.of(sampling), session.engine
    banned = [] if stop_at_end else engine.end_ids
    return [
        Sampler(
            params,
            banned,
            session.loop.seed,
            engine.model.device,
            tokenizer=engine.tokenizer,
            ends=engine.end_ids,
            vocabulary=engine.model.vocabulary,
            alternative=alternative,
        )
        for alternative in range(params.n)
    ]


def the_sampler(session: Session, sampling: SamplingParams | None, stop_at_end: bool) -> Sampler:
    """That of a text which is written, of which there is one.

    Raises:
        OptionError: several alternatives are asked for, or as for `samplers`.
    """
    params = SamplingParams.of(sampling)
    if params.n > 1:
        hint = "a session writes one text; `preview` gives alternatives, and `absorb` keeps one"
        raise OptionError("n", f"must be 1, not {params.n}: {hint}")
    return samplers(session, params, stop_at_end)[0]
