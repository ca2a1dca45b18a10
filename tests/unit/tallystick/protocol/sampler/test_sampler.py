"""The sampler: its noise stream, its rules, and that the batched implementation makes the same choices."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tallystick.protocol.parameters import MILLION, Parameters
from tallystick.protocol.sampler import fast
from tallystick.protocol.sampler.philox import gumbel, noise_words, philox4x32
from tallystick.protocol.sampler.reference import BadLogits, adjusted, adjustments, choose, keep

SEED = bytes(range(32))
words32 = st.integers(0, 2**32 - 1)
seeds = st.binary(min_size=32, max_size=32)


def row(*logits: float) -> NDArray[np.float32]:
    return np.array(logits, dtype=np.float32)


def token(logits: NDArray[np.float32], position: int = 0, seed: bytes = SEED, **fields: object) -> int:
    return choose(logits, Parameters(**fields), seed, position, {}).token_id  # type: ignore[arg-type]


@st.composite
def some_parameters(draw: st.DrawFn) -> Parameters:
    bias = draw(st.dictionaries(st.integers(0, 400), st.integers(-5 * MILLION, 5 * MILLION), max_size=5))
    return Parameters(
        temperature=draw(st.sampled_from([0, 1, 100_000, 700_000, MILLION, 2 * MILLION])),
        top_p=draw(st.sampled_from([0, 1, 100_000, 500_000, 900_000, MILLION])),
        top_k=draw(st.sampled_from([0, 1, 2, 5, 40, 256])),
        min_p=draw(st.sampled_from([0, 50_000, 500_000, MILLION])),
        presence_penalty=draw(st.sampled_from([0, 500_000, -2 * MILLION])),
        frequency_penalty=draw(st.sampled_from([0, 300_000, -MILLION])),
        logit_bias=tuple(sorted(bias.items())),
    )


jobs = st.tuples(some_parameters(), seeds, st.lists(st.integers(0, 300), max_size=9))


def random_logits(seed: int, rows: int, vocabulary: int, levels: int) -> NDArray[np.float32]:
    """Logits [rows, vocabulary]; with few `levels` most of them are tied, and some are masked."""
    generator = np.random.default_rng(seed)
    logits = (generator.standard_normal((rows, vocabulary)) * 4).astype(np.float32)
    if levels:
        logits = np.round(logits * levels) / np.float32(levels)
    logits[:, 1:][generator.random((rows, vocabulary - 1)) < 0.1] = -np.inf
    return logits


def as_ints(words: tuple[NDArray[np.uint32], ...]) -> tuple[int, ...]:
    return tuple(int(word) for word in words)


def test_philox_gives_its_published_known_answers() -> None:
    assert as_ints(philox4x32((0, 0, 0, 0), (0, 0))) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    ones = 0xFFFFFFFF
    assert as_ints(philox4x32((ones,) * 4, (ones, ones))) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    assert as_ints(philox4x32(pi, (0xA4093822, 0x299F31D0))) == (
        0xD16CFE09,
        0x94FDCCEB,
        0x5001E420,
        0x24126EA1,
    )


@settings(max_examples=200, deadline=None)
@given(seeds, words32, st.lists(words32, min_size=1, max_size=300))
def test_torch_and_numpy_draw_the_same_words(seed: bytes, position: int, ids: list[int]) -> None:
    state = fast.SamplerState(Parameters(), seed)
    state.position = position
    ours = fast.noise_words([state], torch.tensor([ids]))
    assert ours[0].tolist() == noise_words(seed, position, ids).tolist()


def test_the_noise_is_gumbel_distributed() -> None:
    noise = gumbel(noise_words(SEED, np.arange(400)[:, None], np.arange(1000)[None, :]))
    assert np.isfinite(noise).all()
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.01)
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.02)


def test_choices_follow_the_softmax_of_the_logits() -> None:
    logits = row(1.0, 0.0, -1.0, 2.0)
    counts = Counter(token(logits, position, temperature=800_000) for position in range(6000))
    weights = np.exp(logits / 0.8)
    expected = 6000 * weights / weights.sum()
    chi2 = sum((counts[i] - expected[i]) ** 2 / expected[i] for i in range(4))
    assert chi2 < 16.3  # the 99.9 % quantile at three degrees of freedom


def test_temperature_zero_takes_the_lowest_of_tied_ids() -> None:
    assert token(row(0.0, 3.0, 3.0, 1.0), temperature=0) == 1


def test_negative_zero_ties_with_zero() -> None:
    logits = row(-0.0, 0.0, -1.0)
    assert token(logits, temperature=0) == 0
    values, ids = fast.candidates_by_key(torch.from_numpy(logits)[None], torch.tensor([2]))
    assert ids.tolist() == [[0, 1]]
    assert values.tolist() == [[0.0, 0.0]]


def test_top_p_keeps_the_token_that_crosses_the_threshold() -> None:
    logits = np.log(row(0.5, 0.3, 0.2))
    chosen = {token(logits, position, top_p=600_000) for position in range(300)}
    assert chosen == {0, 1}
    assert {token(logits, position, top_p=499_000) for position in range(300)} == {0}
    assert {token(logits, position, top_p=0) for position in range(300)} == {0}


def test_a_token_that_starts_exactly_at_the_top_p_threshold_is_cut() -> None:
    logits = row(0.0, 0.0, 0.0, 0.0)
    parameters = Parameters(top_p=500_000)
    assert {choose(logits, parameters, SEED, position, {}).token_id for position in range(100)} == {0, 1}
    states = [fast.SamplerState(parameters, bytes([n]) * 32) for n in range(100)]
    assert set(fast.sample_batch(torch.zeros(100, 4), states).tolist()) == {0, 1}


def test_a_top_p_of_one_keeps_what_rounding_would_cut() -> None:
    scores = np.array([0.0, -40.0, -41.0])  # the sum of the weights is 1 from the first on
    assert keep(scores, Parameters()).tolist() == [True, True, True]
    assert keep(scores, Parameters(top_p=999_999)).tolist() == [True, False, False]
    state = fast.SamplerState(Parameters(), SEED)
    assert fast._keep(torch.from_numpy(scores)[None], [state]).tolist() == [[True, True, True]]


def test_the_extremes_of_the_noise_are_finite_and_as_the_formula_says() -> None:
    least, greatest = gumbel(np.array([0, 2**32 - 1], dtype=np.uint32))
    assert least == pytest.approx(-math.log(33 * math.log(2)), abs=1e-12)
    assert greatest == pytest.approx(33 * math.log(2), abs=1e-9)


def test_an_adjustment_is_rounded_to_float32_once() -> None:
    logits, added = row(12.53), 2.912228
    once = np.float32(float(logits[0]) + added)
    assert once != logits[0] + np.float32(added)  # rounding twice gives another number
    assert adjusted(logits, {0: 2_912_228})[0] == once


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), some_parameters(), st.lists(st.integers(0, 300), max_size=30))
def test_both_implementations_adjust_to_the_same_bits(
    seed: int, parameters: Parameters, resumed: list[int]
) -> None:
    logits = random_logits(seed, 1, 200, 0)
    expected = adjusted(logits[0], adjustments(parameters, Counter(resumed)))
    ours = fast._adjusted(torch.from_numpy(logits), [fast.SamplerState(parameters, SEED, resumed)])
    assert ours[0].numpy().tobytes() == expected.tobytes()


def test_min_p_is_relative_to_the_likeliest_token() -> None:
    logits = np.log(row(0.5, 0.3, 0.2))
    assert {token(logits, position, min_p=550_000) for position in range(300)} == {0, 1}
    assert {token(logits, position, min_p=MILLION) for position in range(300)} == {0}


def test_top_k_of_tied_tokens_keeps_the_lowest_ids() -> None:
    logits = row(1.0, 2.0, 1.0, 1.0)
    assert {token(logits, position, top_k=2) for position in range(300)} == {0, 1}


def test_at_most_256_tokens_are_candidates() -> None:
    logits = np.zeros(1000, dtype=np.float32)
    assert max(token(logits, position) for position in range(2000)) <= 255


def test_penalties_and_bias_move_the_choice_as_the_formula_says() -> None:
    logits = row(1.0, 0.9, 0.0)
    parameters = Parameters(temperature=0, presence_penalty=50_000, frequency_penalty=30_000)
    assert choose(logits, parameters, SEED, 1, {0: 1}).token_id == 0  # 1.0 − 0.05 − 0.03
    assert choose(logits, parameters, SEED, 2, {0: 2}).token_id == 1  # 1.0 − 0.05 − 0.06
    biased = Parameters(temperature=0, logit_bias=((2, 1_100_000),))
    assert choose(logits, biased, SEED, 0, {}).token_id == 2


def test_the_log_likelihood_is_the_engines_own_at_temperature_one() -> None:
    parameters = Parameters(temperature=200_000, top_k=1, logit_bias=((1, 9 * MILLION),))
    choice = choose(row(2.0, 1.0, 0.0), parameters, SEED, 0, {})
    weights = np.exp([2.0, 1.0, 0.0])
    assert choice.token_id == 1
    assert choice.logprob == pytest.approx(float(np.log(weights[1] / weights.sum())), abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_no_token_follows_from_are_refused(bad: float) -> None:
    with pytest.raises(BadLogits):
        token(row(1.0, bad))
    with pytest.raises(BadLogits):
        token(row(-np.inf, -np.inf))
    batch = torch.zeros(3, 500)
    batch[1, 499] = bad
    batch[2] = -torch.inf
    states = [fast.SamplerState(Parameters(), SEED) for _ in range(3)]
    with pytest.raises(BadLogits) as caught:
        fast.sample_batch(batch, states)
    assert caught.value.rows == (1, 2)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(some_parameters(), seeds, st.lists(st.integers(0, 300), max_size=9)), min_size=1, max_size=5
    ),
    st.integers(1, 700),
    st.sampled_from([0, 0, 1, 4]),
    st.integers(0, 2**32),
)
def test_a_batch_makes_the_choices_of_the_reference_and_of_each_row_alone(
    batch: list[tuple[Parameters, bytes, list[int]]], vocabulary: int, levels: int, seed: int
) -> None:
    logits = random_logits(seed, len(batch), vocabulary, levels)
    before = logits.copy()
    states = [fast.SamplerState(parameters, job_seed, resumed) for parameters, job_seed, resumed in batch]
    together = fast.sample_batch(torch.from_numpy(logits), states).tolist()
    for number, (parameters, job_seed, resumed) in enumerate(batch):
        alone = fast.sample_batch(torch.from_numpy(logits[number : number + 1]), states[number : number + 1])
        expected = choose(logits[number], parameters, job_seed, len(resumed), Counter(resumed))
        assert together[number] == alone.item() == expected.token_id
    assert np.array_equal(logits, before)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 900), st.sampled_from([0, 1, 4]), st.sampled_from([1, 3, 256]))
def test_both_ways_to_the_candidates_agree(seed: int, vocabulary: int, levels: int, k: int) -> None:
    z = torch.from_numpy(random_logits(seed, 3, vocabulary, levels))
    wanted = torch.tensor([k, 1, min(2, vocabulary)]).clamp(max=vocabulary)
    fast_values, fast_ids = fast._candidates_on_cpu(z, wanted)
    values, ids = fast.candidates_by_key(z, wanted)
    assert torch.equal(values, fast_values)
    real = values > -torch.inf
    assert torch.equal(ids[real], fast_ids[real])


def test_a_resumed_answer_goes_on_as_the_unbroken_one() -> None:
    parameters = Parameters(frequency_penalty=400_000, presence_penalty=100_000, top_p=950_000)
    logits = torch.from_numpy(random_logits(7, 1, 300, 0))
    whole = fast.SamplerState(parameters, SEED)
    answer = []
    for _ in range(40):
        answer.append(int(fast.sample_batch(logits, [whole]).item()))
        whole.advance(answer[-1])
    for cut in (0, 1, 17, 39):
        resumed = fast.SamplerState(parameters, SEED, answer[:cut])
        assert int(fast.sample_batch(logits, [resumed]).item()) == answer[cut]


def test_a_batch_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        fast.sample_batch(torch.zeros(1, 5, dtype=torch.bfloat16), [fast.SamplerState(Parameters(), SEED)])
    with pytest.raises(ValueError, match="states"):
        fast.sample_batch(torch.zeros(2, 5), [fast.SamplerState(Parameters(), SEED)])
    with pytest.raises(ValueError, match="32 bytes"):
        fast.SamplerState(Parameters(), b"short")
