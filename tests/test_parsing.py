import pytest

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.parsing import parse_number


@pytest.mark.parametrize(
    ("text", "value"), [("4/255", 4 / 255), ("8/255", 8 / 255), ("0.5", 0.5), ("1e-3", 1e-3), ("-2", -2.0)]
)
def test_numbers_may_be_fractions(text: str, value: float) -> None:
    assert parse_number("eps", text) == value


@pytest.mark.parametrize(
    "text", ["", "4/", "/4", "1/0", "eight", "1/2/3", "4:255", "nan", "inf", "1/inf/", "1e999", "1e99999999"]
)
def test_anything_else_is_named(text: str) -> None:
    with pytest.raises(UserError, match=f"^eps must be a number or a fraction such as 8/255, not '{text}'$"):
        parse_number("eps", text)
