"""Who takes more than usual rests; the longer, the more often."""

from tallystick.models.standing import EXCESS_SECONDS, LONGEST_REST_SECONDS, REST_SECONDS, Standing


def rests(standing: Standing, now: float) -> float:
    """Return for how many seconds it rests from now on."""
    return next(seconds for seconds in range(10_000) if not standing.is_resting(now + seconds))


def test_the_usual_is_never_too_much() -> None:
    standing = Standing()
    for now in range(100_000):
        standing.spent(0.0, float(now))
        standing.spent(-1.0, float(now))
    assert rests(standing, 100_000.0) == 0


def test_a_little_too_much_again_and_again_is_too_much() -> None:
    standing = Standing()
    calls = 0
    while not standing.is_resting(1000.0 + calls):
        standing.spent(0.4, 1000.0 + calls)
        calls += 1
    assert calls == EXCESS_SECONDS / 0.4 + 1


def test_what_is_rare_is_forgotten() -> None:
    standing = Standing()
    for now in range(0, 100_000, 41):
        standing.spent(0.4, float(now))
        assert not standing.is_resting(float(now))


def test_each_rest_is_twice_the_one_before_until_it_was_good_for_long() -> None:
    standing, now, found = Standing(), 5000.0, []
    for _ in range(8):
        standing.rest(now)
        found.append(rests(standing, now))
        now += found[-1]
    assert found == [REST_SECONDS * 2**number for number in range(6)] + [LONGEST_REST_SECONDS] * 2
    standing.rest(now + LONGEST_REST_SECONDS + 1)
    assert rests(standing, now + LONGEST_REST_SECONDS + 1) == REST_SECONDS
