import hashlib
import random
import struct

import numpy as np
import pytest
import torch

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key, Seed
from unlearnable_kernels.protect.methods.filters import (
    INTENSITIES,
    KINDS,
    class_filters,
    default_parameters,
    filters_from_seed,
    seed_stream,
)
from unlearnable_kernels.protect.methods.method import METHODS

FIXED = Key(bytes(range(32)))


def digest(filters: torch.Tensor) -> str:
    return hashlib.sha256(filters.numpy().astype("<f4").tobytes()).hexdigest()


class ReferenceTwister:
    """MT19937 seeded as the released program seeds it, without numpy: Python's twister, its own seeding."""

    def __init__(self, seed: int) -> None:
        state = [seed]
        for i in range(1, 624):
            state.append((1812433253 * (state[-1] ^ (state[-1] >> 30)) + i) % 2**32)
        self.twister = random.Random()
        self.twister.setstate((3, (*state, 624), None))

    def randint(self, bound: int) -> int:
        if bound == 1:
            return 0
        mask = (1 << (bound - 1).bit_length()) - 1
        while (drawn := self.twister.getrandbits(32) & mask) >= bound:
            pass
        return drawn

    def filter(self, k: int, strength: float) -> list[float]:
        drawn = [strength * self.twister.random() for _ in range(3 * k * k)][: k * k]
        drawn[k * self.randint(k) + self.randint(k)] = 1.0
        return drawn


@pytest.mark.filterwarnings("ignore:an integer seed")
@pytest.mark.parametrize(
    ("seed", "classes", "k", "strength"), [(0, 10, 3, 0.3), (2**32 - 1, 3, 9, 0.06), (5, 4, 1, 1)]
)
def test_seed_filters_are_the_published_stream(seed: int, classes: int, k: int, strength: float) -> None:
    twister = ReferenceTwister(seed)
    expected = np.array([twister.filter(k, strength) for _ in range(classes)], dtype=np.float32)
    filters = filters_from_seed(seed, classes, k, strength)
    assert filters.dtype == torch.float32
    np.testing.assert_array_equal(filters.numpy(), expected.reshape(classes, k, k))
    _, generator = seed_stream(seed, classes, k, strength)
    assert list(generator.random_sample(5)) == [twister.twister.random() for _ in range(5)]


@pytest.mark.filterwarnings("ignore:an integer seed")
def test_golden_bytes_from_a_seed() -> None:
    golden = "659750dc197a8d2bc87b12f1f12791d9f84f40b1956e48fd5534e026cabca40a"
    assert digest(filters_from_seed(7, 10, 3, 0.3)) == golden
    golden = "1a1b278d2250bac67ea77985566f815905dd57afda3a0acf222651908221e211"
    assert digest(filters_from_seed(7, 5, 9, 0.06)) == golden


def test_golden_bytes_from_a_key() -> None:
    golden = "1e48d518cd0c9e6b632db528c5b63c5ea4894e1e2a7d1025e2bbfd9236a348bb"
    assert digest(class_filters(FIXED, "cifar10", 10, 3, 0.3)) == golden
    golden = "7bc8694af55b81e4ff7589ce988357e7c40b82ca8f6c4d07e5b1f89583d216d6"
    assert digest(class_filters(FIXED, "tiny-imagenet-200", 5, 9, 0.06)) == golden
    golden = "b8c507af25a41809888df9167d063a4c2f5608f6e925a29f15b30ae7cd03bf31"
    assert digest(class_filters(FIXED, "pets", ["cat", "dog"], 3, 0.3)) == golden


@pytest.mark.parametrize("one", [7, "cat"])
def test_key_filters_follow_their_definition(one: int | str) -> None:
    k, strength = 5, 0.25
    data = FIXED.derive("filter", "pets", one, k, strength, length=8 * k * k + 16)
    words = struct.unpack(f"<{k * k}Q", data[: 8 * k * k])
    expected = [np.float32((word >> 11) / 2**53 * strength) for word in words]
    low, high = struct.unpack("<QQ", data[8 * k * k :])
    expected[(low + (high << 64)) % (k * k)] = np.float32(1)
    classes = [one] if isinstance(one, str) else one + 1
    assert class_filters(FIXED, "pets", classes, k, strength)[-1].flatten().tolist() == expected


def test_a_class_needs_no_other_class_and_no_place() -> None:
    together = class_filters(FIXED, "pets", ["ant", "cat", "dog"], 3, 0.3)
    assert torch.equal(class_filters(FIXED, "pets", ["dog", "cat"], 3, 0.3), together[[2, 1]])
    by_place = class_filters(FIXED, "cifar10", 10, 3, 0.3)
    assert torch.equal(class_filters(FIXED, "cifar10", 4, 3, 0.3), by_place[:4])
    assert not torch.equal(class_filters(FIXED, "cifar10", ["0"], 3, 0.3), by_place[:1])


def test_every_part_of_the_domain_changes_the_filter() -> None:
    def filled(key: Key = FIXED, name: str = "a", one: str = "b", strength: float = 0.3) -> bytes:
        return (class_filters(key, name, [one], 3, strength) / strength).numpy().tobytes()

    variants = {filled(), filled(Key(bytes(32))), filled(name="b"), filled(one="a"), filled(strength=0.31)}
    assert len(variants) == 5
    assert filled(strength=1) == filled(strength=1.0)


def test_key_filters_are_distributed_as_said() -> None:
    filters = class_filters(FIXED, "many", 4000, 3, 0.3).flatten(1)
    ones = (filters == 1).int()
    assert torch.equal(ones.sum(1), torch.ones(4000, dtype=torch.int64))
    rest = filters[ones == 0]
    assert rest.min() >= 0
    assert rest.max() < 0.3
    assert abs(rest.mean().item() - 0.15) < 0.002
    assert abs(rest.std().item() - 0.3 / 12**0.5) < 0.002
    assert (ones.sum(0) - 4000 / 9).abs().max() < 100


def test_a_seed_warns_that_it_is_no_secret() -> None:
    with pytest.warns(UserWarning, match="not a secret"):
        compat = Seed(123456789)
    with pytest.warns(UserWarning, match="not a secret"):
        filters = filters_from_seed(123456789, 2, 3, 0.3)
    assert torch.equal(class_filters(compat, "any", 2, 3, 0.3), filters)
    assert "123456789" not in repr(compat)


@pytest.mark.filterwarnings("ignore:an integer seed")
def test_seeds_are_told_apart() -> None:
    one = Seed(1)
    assert one.fingerprint == Seed(1).fingerprint != Seed(2).fingerprint
    assert one.mac(b"a") != one.mac(b"b")


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(UserError, match="seed must be in"):
        Seed(seed)


@pytest.mark.filterwarnings("ignore:an integer seed")
@pytest.mark.parametrize(
    ("classes", "k", "strength", "message"),
    [
        (0, 3, 0.3, "at least one class"),
        (2, 4, 0.3, "odd number"),
        (2, 0, 0.3, "odd number"),
        (2, 257, 0.3, "from 1 to 255"),
        (2, -3, 0.3, "odd number"),
        (2, 3, 0.0, "strength"),
        (2, 3, -0.1, "strength"),
        (2, 3, float("nan"), "strength"),
        (2, 3, float("inf"), "strength"),
    ],
)
def test_bad_parameters_are_refused(classes: int, k: int, strength: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        class_filters(FIXED, "x", classes, k, strength)
    with pytest.raises(UserError, match=message):
        filters_from_seed(0, classes, k, strength)


def test_defaults_by_name_and_by_size() -> None:
    assert default_parameters("cifar100", 32) == (3, 0.3)
    assert default_parameters("tiny-imagenet-200", 64) == (9, 0.06)
    assert default_parameters("holidays", 63) == (3, 0.3)
    assert default_parameters("holidays", 64) == (9, 0.06)


def test_intensities_by_size() -> None:
    assert default_parameters("holidays", 32, "mild") == (3, 0.3)
    assert default_parameters("cifar10", 224, "strong") == (5, 0.3)
    assert default_parameters("holidays", 224, "mild") == (9, 0.06)
    assert default_parameters("imagenet", 32, "strong") == (13, 0.06)
    for size in INTENSITIES:
        assert INTENSITIES[size]["normal"] == size
    with pytest.raises(UserError, match="intensity must be one of mild, normal, strong, not 'odd'"):
        default_parameters("holidays", 32, "odd")


@pytest.mark.parametrize(
    ("settings", "centred"),
    [("intensity=mild", True), ("intensity=mild,centred=false", False), ("intensity=strong", False)],
)
def test_mild_filters_are_centred_unless_told_otherwise(settings: str, centred: bool) -> None:
    own = METHODS.create(f"classwise-conv:{settings}").with_defaults(FIXED, "pets", 2, 32)
    assert own.centred is centred


@pytest.mark.filterwarnings("ignore:an integer seed")
@pytest.mark.parametrize("kind", KINDS)
def test_centred_filters_have_their_one_in_the_middle(kind: str) -> None:
    for secret in (FIXED, Seed(3)):
        filters = class_filters(secret, "pets", 20, 3, 0.3, kind, centred=True)
        assert (filters[:, 1, 1] == 1).all()
        filters[:, 1, 1] = 0
        assert 0 < filters.max() < 0.3
        others = class_filters(secret, "pets", 20, 3, 0.3, kind)
        assert not set(filters[filters > 0].tolist()) & set(others[others > 0].tolist())


@pytest.mark.parametrize("kind", ["vertical", "horizontal"])
def test_stripes_follow_their_definition(kind: str) -> None:
    """A column or a row through the middle, derived by itself; zeros beside it."""
    k, strength = 5, 0.25
    [computed] = class_filters(FIXED, "pets", 3, k, strength, kind)[2:].numpy()
    data = FIXED.derive(f"filter {kind}", "pets", 2, k, strength, length=8 * k + 16)
    expected = [np.float32((word >> 11) / 2**53 * strength) for word in struct.unpack(f"<{k}Q", data[:-16])]
    expected[int.from_bytes(data[-16:], "little") % k] = np.float32(1)
    upright = computed if kind == "vertical" else computed.T
    assert upright[:, k // 2].tolist() == expected
    assert np.count_nonzero(np.delete(upright, k // 2, axis=1)) == 0


def test_one_filter_for_all_classes() -> None:
    shared = class_filters(FIXED, "pets", 3, 3, 0.3, "shared")
    assert torch.equal(shared, shared[:1].expand(3, 3, 3))
    assert not torch.equal(shared[0], class_filters(FIXED, "pets", 1, 3, 0.3)[0])
    assert torch.equal(shared[0], class_filters(FIXED, "pets", 1, 3, 0.3, "shared")[0])


@pytest.mark.filterwarnings("ignore:an integer seed")
def test_no_kind_shares_entries_with_another() -> None:
    for secret in (FIXED, Seed(3)):
        entries = torch.cat([class_filters(secret, "pets", 2, 3, 0.3, kind)[1].flatten() for kind in KINDS])
        drawn = entries[(entries != 0) & (entries != 1)]
        assert len(drawn) == 3 * 8 + 2 * 2
        assert len(drawn.unique()) == len(drawn)
