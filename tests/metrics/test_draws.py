"""Who stands for another prompt: never the own document, always the same, of the same task where it can be."""

import pytest

from llmbench.metrics import draws


@pytest.mark.parametrize("size", [2, 3, 4, 48, 150])
def test_no_prompt_keeps_its_own_reference(size):
    order = draws.derangement(size)
    assert sorted(order) == list(range(size))
    assert all(place != other for place, other in enumerate(order))
    assert order == draws.derangement(size)


def test_two_others_are_of_the_same_task_and_another_document():
    tasks = ["story", "verse"] * 10
    documents = [f"d{i // 4}" for i in range(18)] + [None, None]
    pairs = draws.two_others(tasks, documents)
    assert pairs == draws.two_others(tasks, documents)
    for own, (first, second) in enumerate(pairs):
        assert len({own, first, second}) == 3
        assert {tasks[first], tasks[second]} == {tasks[own]}
        assert all(documents[own] is None or documents[other] != documents[own] for other in (first, second))
    assert len({other for pair in pairs for other in pair}) > 10, "no few prompts stand for all"


def test_other_tasks_help_out_and_too_few_documents_are_none():
    mixed = draws.two_others(["a", "a", "b"], [None] * 3)
    assert [set(pair) for pair in mixed] == [{1, 2}, {0, 2}, {0, 1}]
    assert draws.two_others(["a", "a"], [None, None]) == [None, None]
    one_book = draws.two_others(["a"] * 4, ["book", "book", "book", None])
    assert one_book[:3] == [None] * 3, "one other document has one prompt"
    assert one_book[3] is not None
    assert set(one_book[3]) < {0, 1, 2}


def test_other_outputs_are_47_or_all():
    assert draws.other_outputs(1) == [set()]
    assert draws.other_outputs(3) == [{1, 2}, {0, 2}, {0, 1}]
    chosen = draws.other_outputs(150)
    assert [len(others) for others in chosen] == [47] * 150
    assert all(own not in others for own, others in enumerate(chosen))
    assert chosen == draws.other_outputs(150)
    assert chosen[0] != chosen[1]
