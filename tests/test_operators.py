"""What every operator in ALL_OPS promises, whatever it computes."""

import sys

import pytest
import torch

from unlearnable_kernels.ops import ALL_OPS, native

CALLS = [
    pytest.param(op, arguments, id=f"{op.name}-{number}")
    for op in ALL_OPS
    for number, arguments in enumerate(op.sample_inputs())
]


SCHEMAS = """
bayes_ascent_step(Tensor x, Tensor labels, Tensor origin, int num_classes, float bandwidth, float step_size, float eps, str norm, float lower=0., float upper=1.) -> (Tensor, Tensor)
bayes_error(Tensor features, Tensor labels, int num_classes, float bandwidth, str similarity="rbf", str precision="ieee", Tensor? references=None, int first_row=-1) -> (Tensor error, Tensor mass, Tensor winner)
bayes_error_backward(Tensor grad, Tensor mass, Tensor winner, Tensor features, Tensor labels, int num_classes, float bandwidth, str similarity, str precision, Tensor? references, int first_row) -> (Tensor grad_features, Tensor grad_references)
classwise_conv(Tensor images, Tensor labels, Tensor filters, str padding="zeros", str rescale="max") -> Tensor
classwise_conv_backward(Tensor grad, Tensor images, Tensor labels, Tensor filters, str padding, str rescale) -> (Tensor grad_images, Tensor grad_filters)
classwise_conv_into(Tensor(a!) out, Tensor images, Tensor labels, Tensor filters, str padding="zeros", str rescale="max") -> ()
classwise_spectrum(Tensor images, Tensor labels, Tensor weights, Tensor curves) -> Tensor
classwise_spectrum_backward(Tensor grad, Tensor images, Tensor labels, Tensor weights, Tensor curves) -> (Tensor grad_images, Tensor grad_weights, Tensor grad_curves)
crop_flip(Tensor images, Tensor offsets, Tensor flips, int padding=4, Tensor? index=None, ScalarType dtype=6) -> Tensor
crop_flip_into(Tensor(a!) out, Tensor images, Tensor offsets, Tensor flips, int padding=4, Tensor? index=None, ScalarType dtype=6) -> ()
pgd_step(Tensor x, Tensor grad, Tensor origin, float step_size, float eps, str norm, float lower=0., float upper=1.) -> Tensor
pgd_step_(Tensor(a!) x, Tensor grad, Tensor origin, float step_size, float eps, str norm, float lower=0., float upper=1.) -> ()
"""  # noqa: E501


@pytest.mark.parametrize("written", SCHEMAS.split("\n")[1:-1], ids=lambda line: line.partition("(")[0])
def test_schemas_are_those_that_others_build_on(written):
    overload = getattr(torch.ops.unlearn, written.partition("(")[0]).default
    assert str(overload._schema) == f"unlearn::{written}"


def namespace(op):
    return getattr(torch.ops.unlearn, op.name).default


def outputs(op, arguments):
    """What the operator returns, as a tuple however many tensors that is."""
    result = namespace(op)(*arguments)
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize(("op", "arguments"), CALLS)
def test_kernel_equals_reference(op, arguments):
    expected = op.reference(*arguments)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for result, wanted in zip(outputs(op, arguments), expected, strict=True):
        assert result.stride() == wanted.stride()
        torch.testing.assert_close(result, wanted, rtol=op.tolerance, atol=0)


@pytest.mark.parametrize(("op", "arguments"), CALLS[::5])
def test_opcheck(op, arguments):
    differentiable = [
        a.clone().requires_grad_() if isinstance(a, torch.Tensor) and a.is_floating_point() else a
        for a in arguments
    ]
    torch.library.opcheck(namespace(op), arguments)
    torch.library.opcheck(namespace(op), tuple(differentiable))


@pytest.mark.parametrize(("op", "arguments"), CALLS)
def test_compiles_into_one_graph(op, arguments):
    torch._dynamo.reset()  # or all calls' dtypes and shapes count as recompilations of one function
    compiled = torch.compile(lambda *a: outputs(op, a), fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(*arguments), outputs(op, arguments)))


@pytest.mark.unsanitized
@pytest.mark.parametrize("op", ALL_OPS, ids=lambda op: op.name)
def test_compiles_with_inductor_for_any_batch_size(op):
    first, *rest = next(op.sample_inputs())
    compiled = torch.compile(lambda *a: [t + 1 for t in outputs(op, a)], fullgraph=True, dynamic=True)
    fewer = (first[:3], *[a[:3] if isinstance(a, torch.Tensor) and len(a) == len(first) else a for a in rest])
    for arguments in ((first, *rest), fewer):
        assert all(map(torch.equal, compiled(*arguments), [t + 1 for t in outputs(op, arguments)]))


def test_without_the_compiled_kernels_one_warning_names_the_cause(monkeypatch):
    monkeypatch.setitem(sys.modules, "unlearnable_kernels._C", None)
    with pytest.warns(RuntimeWarning, match=r"PyTorch reference serves: .*_C") as caught:
        assert native._load()[0] is None
    assert len(caught) == 1
