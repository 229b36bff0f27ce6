"""How many threads compute: numbers are put back, small work stays, and large work is shared without changing it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from gradeval import threads
from gradeval.threads import AHEAD, MOST_THREADS, SHARED_FROM, Crew, one_thread, single_threads, threads_for

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def number_in_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_one_thread_puts_the_number_back_on_success_and_on_error() -> None:
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError), one_thread():
        raise ZeroDivisionError
    assert torch.get_num_threads() == 3


def test_only_small_work_is_kept_from_torchs_threads() -> None:
    with threads_for(SHARED_FROM - 1):
        assert torch.get_num_threads() == 1
    with threads_for(SHARED_FROM):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 3


def test_single_threads_leave_the_number_of_later_threads() -> None:
    """Torch hands the number set last, in whatever thread, to new threads. Planted: an executor by itself."""
    with single_threads(2) as pool:
        assert list(pool.map(lambda _: torch.get_num_threads(), range(4))) == [1] * 4
    assert (torch.get_num_threads(), number_in_a_new_thread()) == (3, 3)


def where(_: int) -> tuple[int, int, bool]:
    return threading.get_ident(), torch.get_num_threads(), torch.is_grad_enabled()


def test_a_crew_shares_large_work_and_keeps_small_work_here() -> None:
    crew, here = Crew(CPU), threading.get_ident()
    with crew.at_work():
        small = list(crew.in_order(where, range(5), SHARED_FROM - 1))
        single = list(crew.in_order(where, range(1), SHARED_FROM))
        large = list(crew.in_order(where, range(50), SHARED_FROM))
    assert set(small) == set(single) == {(here, 1, False)}
    assert here not in {ident for ident, _, _ in large}
    assert {(number, grad) for _, number, grad in large} == {(1, False)}
    assert (torch.get_num_threads(), number_in_a_new_thread()) == (3, 3)


def test_a_crew_has_as_many_threads_as_its_maker_at_most_sixteen() -> None:
    assert Crew(CPU).threads == 3
    with one_thread():
        assert Crew(CPU).threads == 1
    torch.set_num_threads(MOST_THREADS + 1)
    assert Crew(CPU).threads == MOST_THREADS
    assert Crew(torch.device("meta")).threads == 1


def test_results_are_in_order_and_few_are_ahead() -> None:
    """The first piece is late: no more than AHEAD pieces a thread are begun beside it."""
    crew, begun, go = Crew(CPU), [], threading.Event()

    def late(number: int) -> int:
        begun.append(number)
        if number == 0:
            assert go.wait(10)
        elif len(begun) == AHEAD * crew.threads:
            go.set()
        return number

    with crew.at_work():
        found = crew.in_order(late, range(100), SHARED_FROM)
        assert next(found) == 0
        assert len(begun) <= AHEAD * crew.threads + 1
        assert list(found) == list(range(1, 100))


def test_an_error_of_a_piece_is_raised_and_ends_the_threads() -> None:
    crew, before = Crew(CPU), threading.active_count()

    def fail(number: int) -> int:
        if number == 7:
            raise ValueError("piece 7")
        return number

    with pytest.raises(ValueError, match="piece 7"), crew.at_work():
        list(crew.in_order(fail, range(100), SHARED_FROM))
    assert (torch.get_num_threads(), threading.active_count()) == (3, before)


def test_a_crew_works_again_and_inside_its_own_work() -> None:
    """A backward pass may follow when the forward one is over, or inside it."""
    crew, before = Crew(CPU), threading.active_count()
    for _ in range(2):
        with crew.at_work():
            with crew.at_work():
                assert list(crew.in_order(abs, range(9), SHARED_FROM)) == list(range(9))
            assert torch.get_num_threads() == 1
            assert list(crew.in_order(abs, range(9), SHARED_FROM)) == list(range(9))
        assert (torch.get_num_threads(), threading.active_count()) == (3, before)


def test_inference_mode_goes_along() -> None:
    """Planted: a thread outside of it may not write to its tensors."""
    with torch.inference_mode():
        crew, total = Crew(CPU), torch.zeros(8)
        with crew.at_work():
            list(crew.in_order(lambda k: total[k : k + 1].add_(k), range(8), SHARED_FROM))
        assert total.tolist() == list(range(8))


def test_work_may_be_small_by_another_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other tests of shared work lower the bar: it must be read when work is done."""
    monkeypatch.setattr(threads, "SHARED_FROM", 1)
    crew = Crew(CPU)
    with crew.at_work():
        assert threading.get_ident() not in {ident for ident, _, _ in crew.in_order(where, range(5), 1)}
