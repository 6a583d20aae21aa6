"""The tracer on allocations whose sizes are known."""

import torch

from launcher.rehearsal.tracer import Tracer


def bytes_of(number: int) -> torch.Tensor:
    return torch.empty(number, dtype=torch.uint8)


def test_the_peak_of_a_phase_is_its_largest_moment() -> None:
    tracer = Tracer()
    with tracer:
        with tracer.phase("forward"):
            first = bytes_of(1000)
            second = bytes_of(513)
            del second
            third = bytes_of(1)
        with tracer.phase("backward"):
            del first
            fourth = bytes_of(512)
    assert tracer.phases == {"forward": {"activations": 2048}, "backward": {"activations": 1536}}
    assert tracer.live_bytes == third.untyped_storage().nbytes() * 512 + fourth.numel()


def test_views_and_work_in_place_allocate_nothing() -> None:
    tracer = Tracer()
    with tracer, tracer.phase("forward"):
        tensor = bytes_of(2048)
        view = tensor.view(2, 1024)[1]
        view.add_(1)
    assert tracer.phases == {"forward": {"activations": 2048}}


def test_a_storage_that_turns_out_to_be_something_else_is_counted_once() -> None:
    tracer = Tracer()
    with tracer, tracer.phase("backward"):
        gradient = bytes_of(4096)
        tracer.assign(gradient, "gradients")
    assert tracer.phases == {"backward": {"gradients": 4096}}


def test_what_a_kernel_takes_inside_is_in_the_peak_and_gone_after() -> None:
    tracer = Tracer()
    with tracer, tracer.phase("backward"):
        kept = bytes_of(512)
        tracer.transient(1, "workspace")
    assert tracer.phases == {"backward": {"activations": 512, "workspace": 512}}
    assert tracer.live_bytes == kept.numel()


def test_parts_left_out_are_in_no_sum() -> None:
    tracer = Tracer(left_out=("gradients",))
    with tracer, tracer.phase("forward"):
        with tracer.part("gradients"):
            left_out = bytes_of(4096)
        counted = bytes_of(512)
    assert tracer.phases == {"forward": {"activations": 512}}
    assert tracer.live_bytes == counted.numel() < left_out.numel()


def test_the_gradient_of_a_matrix_product_is_all_that_backward_leaves() -> None:
    tracer = Tracer()
    with tracer:
        with tracer.phase(None), tracer.part("weights"):
            weight = torch.zeros(64, 32, requires_grad=True)
        with tracer.phase("forward"):
            loss = torch.nn.functional.linear(torch.zeros(16, 32), weight).sum()
        with tracer.phase("backward"):
            torch.autograd.backward(loss)
        del loss
        with tracer.phase("optimizer_step"):
            assert weight.grad is not None
            tracer.assign(weight.grad, "gradients")
    matrix = 64 * 32 * 4
    assert tracer.phases["forward"] == {
        "weights": matrix,
        "activations": 16 * 32 * 4 + 16 * 64 * 4 + 512,
    }
    assert tracer.phases["optimizer_step"] == {"weights": matrix, "gradients": matrix}
