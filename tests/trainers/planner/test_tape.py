"""The allocator's walk through a pass, on networks small enough to count by hand."""

from __future__ import annotations

from trainers.planner.tape import Tape

KB = 256  # numbers of fp32


def test_what_nobody_needs_is_freed_at_once():
    tape = Tape()
    x = tape.tensor(KB)
    for _ in range(5):
        x = tape.op([x], KB)
    assert tape.peak(backward=False) == 2 * 1024  # one being read, one being written


def test_a_name_keeps_a_tensor_until_it_is_let_go():
    tape = Tape()
    first = tape.op([tape.tensor(KB)], KB)
    x = tape.op([first], KB)
    x = tape.op([x], KB)
    tape.hold(first)
    assert tape.peak(backward=False) == 3 * 1024


def test_frozen_work_keeps_nothing_and_has_no_backward_pass():
    tape = Tape()
    x = tape.tensor(KB)
    for _ in range(3):
        x = tape.op([x], KB, keeps=[x], own_bytes=512)
    assert tape.peak(backward=True) == 2 * 1024


def test_what_is_kept_waits_for_the_backward_pass():
    tape = Tape()
    x = tape.op([tape.tensor(KB)], KB, trained_bytes=100)  # from here on a gradient flows
    for _ in range(3):
        x = tape.op([x], KB, keeps=[x])
    # three inputs kept, the output, its gradient and the gradient of its input
    assert tape.peak(backward=True) == (3 + 2) * 1024


def test_recomputing_keeps_inputs_only():
    def deep(tape: Tape, checkpointing: bool) -> int:
        x = tape.op([tape.tensor(KB)], KB, trained_bytes=100)
        for _ in range(8):

            def block(inner: Tape, x=x):
                for _ in range(10):
                    x = inner.op([x], KB, keeps=[x])
                return x

            x = tape.checkpointed([x], block, checkpointing)
        return tape.peak(backward=True)

    kept, recomputed = deep(Tape(), False), deep(Tape(), True)
    assert kept > 80 * 1024
    assert recomputed < 25 * 1024


def test_a_sum_hands_its_gradient_on_without_a_copy():
    def branch(*, shared: bool) -> int:
        tape = Tape()
        x = tape.op([tape.tensor(KB)], KB, trained_bytes=4)
        y = tape.op([x], KB, keeps=[x])
        z = tape.op([x, y], KB, passes_grad=shared)
        tape.op([z], KB)
        return tape.peak(backward=True)

    assert branch(shared=True) < branch(shared=False)


def test_weights_are_counted_inside_recomputed_blocks_too():
    tape = Tape()

    def block(inner: Tape):
        inner.weights += 7
        return inner.op([], 1)

    tape.checkpointed([], block, True)
    assert tape.weights == 7
