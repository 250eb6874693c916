"""What class-wise convolution does to a Gaussian mixture: the theory of Sadasivan et al. (CVPR 2023).

The clean mixture is y = ±1 with equal odds and x | y ~ N(yμ, I). Protection multiplies x by A_y, the d×d
tridiagonal Toeplitz matrix with ones on its diagonal and a_y beside it. All such matrices have the same
eigenvectors, those of the discrete sine transform, with eigenvalues 1 + 2 a_y cos(kπ / (d + 1)) for k = 1..d.
In that basis the protected mixture has independent coordinates and its optimal classifier is

    sign Σ_k (λ_k x_k² + β_k x_k) + δ,     λ_k = (1/e₋ₖ² − 1/e₊ₖ²) / 2,     β_k = (1/e₊ₖ + 1/e₋ₖ) μ_k,
    δ = Σ_k log(e₋ₖ / e₊ₖ),

e₊ and e₋ the eigenvalues of A₊ and A₋: the log-likelihood ratio of N(A₊μ, A₊²) and N(−A₋μ, A₋²). That of the
clean mixture is sign μᵀx, with accuracy Φ(‖μ‖). docs/maths.md has the derivations.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.fft import dst
from scipy.optimize import minimize_scalar

from unlearnable_kernels.errors import UserError

STRONGEST = 0.5
"""The largest a: beyond it A_y has no inverse for every d."""
_TOLERANCE = 1e-9  # of a probability
_FINEST = 2**16  # nodes of the integral


@dataclass(frozen=True)
class QuadraticClassifier:
    """sign(Σ_k quadratic_k x_k² + linear_k x_k + constant), for x in the sine basis.

    Attributes:
        quadratic: float64 [d].
        linear: float64 [d].
        constant: A number.
    """

    quadratic: np.ndarray
    linear: np.ndarray
    constant: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The value whose sign is the answer, float64 [N], for points float64 [N, d] in the sine basis."""
        values: np.ndarray = np.square(x) @ self.quadratic + x @ self.linear + self.constant
        return values


def sine_basis(vectors: np.ndarray) -> np.ndarray:
    """float64 [..., d] in the eigenvectors' basis; applied twice it gives back what it was given."""
    transformed: np.ndarray = dst(vectors, type=1, norm="ortho")
    return transformed


def eigenvalues(strength: float, dimension: int) -> np.ndarray:
    """Those of A_y for a_y = ``strength``, float64 [d], positive.

    Raises:
        UserError: ``strength`` is not in [0, 0.5].
    """
    if not 0 <= strength <= STRONGEST:
        raise UserError(f"a must be from 0 to {STRONGEST}, not {strength}")
    return 1 + 2 * strength * np.cos(np.arange(1, dimension + 1) * np.pi / (dimension + 1))


def clean_classifier(mu: np.ndarray) -> QuadraticClassifier:
    """The optimal classifier of the clean mixture, for μ, float64 [d], in any basis: sign μᵀx."""
    return QuadraticClassifier(np.zeros_like(mu), 2 * mu, 0.0)


def protected_classifier(mu: np.ndarray, minus: float, plus: float) -> QuadraticClassifier:
    """The optimal classifier of the protected mixture.

    Args:
        mu: μ in the sine basis, float64 [d].
        minus: a₋ in [0, 0.5], of the class y = −1.
        plus: a₊ in [0, 0.5], of the class y = 1.

    Raises:
        UserError: A strength is out of range.
    """
    below, above = eigenvalues(minus, len(mu)), eigenvalues(plus, len(mu))
    return QuadraticClassifier(
        quadratic=(below**-2 - above**-2) / 2,
        linear=(1 / above + 1 / below) * mu,
        constant=float(np.log(below / above).sum()),
    )


def accuracy(classifier: QuadraticClassifier, mu: np.ndarray) -> float:
    """Accuracy on the clean mixture, exact but for an error of numerical integration below 1e-6.

    Args:
        classifier: In the sine basis.
        mu: μ in the sine basis, float64 [d].

    Raises:
        UserError: The integral does not converge, as may be in few dimensions.
    """
    right = probability_positive(classifier, mu)
    wrong = probability_positive(classifier, -mu)
    return (right + 1 - wrong) / 2


def accuracy_by_sampling(
    classifier: QuadraticClassifier, mu: np.ndarray, samples: int = 100_000, seed: int | Sequence[int] = 0
) -> tuple[float, tuple[float, float]]:
    """Accuracy on points drawn from the clean mixture, and its 95 % interval (Wilson's).

    Args:
        classifier: In the sine basis.
        mu: μ in the sine basis, float64 [d].
        samples: How many points to draw.
        seed: Of these.
    """
    generator = np.random.default_rng(seed)
    correct, left = 0, samples
    while left:
        count = min(left, max(1, 10_000_000 // len(mu)))
        signs = generator.choice([-1.0, 1.0], count)
        points = generator.standard_normal((count, len(mu))) + signs[:, None] * mu
        correct += int((classifier(points) * signs > 0).sum())
        left -= count
    return correct / samples, wilson_interval(correct, samples)


def accuracy_bound(classifier: QuadraticClassifier, mu: np.ndarray) -> float:
    """An upper bound on the accuracy on the clean mixture: in each class Chernoff's, with the best s.

    The probability of Q > 0 is at most E exp(sQ) for every s ≥ 0. The bound is 1 where the mean of Q has the
    right sign in both classes. It is ours: the paper has a bound, too, whose statement we lack.

    Args:
        classifier: In the sine basis.
        mu: μ in the sine basis, float64 [d].
    """
    right = math.exp(_Cumulants(classifier, mu).least())
    negated = QuadraticClassifier(-classifier.quadratic, -classifier.linear, -classifier.constant)
    return (right + math.exp(_Cumulants(negated, -mu).least())) / 2


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a probability of which ``successes`` of ``trials`` were seen."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, spread = successes / trials, z * z / trials
    centre = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(rate * (1 - rate) * spread + spread**2 / 4) / (1 + spread)
    return centre - half, centre + half


def probability_positive(classifier: QuadraticClassifier, mean: np.ndarray) -> float:
    """The probability that the classifier's value is above 0 for x ~ N(mean, I), both in the sine basis.

    The inversion integral of the moment generating function along a vertical line through its saddle point
    (Helstrom, IEEE Trans. Aerospace and Electronic Systems 19(3), 1983), by the trapezoidal rule after
    Takahasi and Mori's substitution.

    Raises:
        UserError: The integral does not converge.
    """
    cumulants = _Cumulants(classifier, mean)
    point = cumulants.saddle()
    scale = 1 / math.sqrt(cumulants.curvature(point))

    def rule(nodes: int) -> float:
        grid = np.linspace(-4.0, 4.0, nodes, endpoint=False) + 4.0 / nodes
        along = scale * np.sinh(np.pi / 2 * np.sinh(grid))
        weights = scale * np.pi / 2 * np.cosh(grid) * np.cosh(np.pi / 2 * np.sinh(grid)) * 8.0 / nodes
        where = point + 1j * along
        return float((weights * (np.exp(cumulants(where)) / where).real).sum() / (2 * np.pi))

    nodes, before = 128, rule(64)
    while nodes <= _FINEST:
        found = rule(nodes)
        if abs(found - before) < _TOLERANCE:
            # Left of the pole at 0 the integral is the probability of the other sign, negated.
            return min(1.0, max(0.0, found if point > 0 else 1 + found))
        nodes, before = 2 * nodes, found
    raise UserError(f"the accuracy in {len(mean)} dimensions cannot be integrated: use more dimensions")


class _Cumulants:
    """The cumulant generating function K(s) = log E exp(sQ) of a classifier's value Q for x ~ N(mean, I)."""

    def __init__(self, classifier: QuadraticClassifier, mean: np.ndarray) -> None:
        # Of Q over its standard deviation, in which every s that matters is near 1.
        quadratic, linear = classifier.quadratic, classifier.linear
        slope = linear + 2 * quadratic * mean
        size = math.sqrt(float((slope**2 + 2 * quadratic**2).sum()))
        self._quadratic, self._slope = quadratic / size, slope / size
        self._constant = float((quadratic * mean**2 + linear * mean).sum() + classifier.constant) / size

    def __call__(self, s: np.ndarray) -> np.ndarray:
        """K at complex points [N] within the strip of convergence."""
        values = np.empty(s.shape, dtype=np.complex128)
        for start in range(0, len(s), 1024):
            part = s[start : start + 1024, None]
            room = 1 - 2 * part * self._quadratic
            terms = (part * self._slope) ** 2 / (2 * room) - np.log(room) / 2
            values[start : start + 1024] = part[:, 0] * self._constant + terms.sum(1)
        return values

    def value(self, s: float) -> float:
        room = 1 - 2 * s * self._quadratic
        return float(s * self._constant + ((s * self._slope) ** 2 / (2 * room) - np.log(room) / 2).sum())

    def curvature(self, s: float) -> float:
        """K''(s), which is positive."""
        room = 1 - 2 * s * self._quadratic
        return float((self._slope**2 / room**3 + 2 * self._quadratic**2 / room**2).sum())

    def _strip(self) -> tuple[float, float]:
        largest, smallest = float(self._quadratic.max()), float(self._quadratic.min())
        return (0.5 / smallest if smallest < 0 else -1e3), (0.5 / largest if largest > 0 else 1e3)

    def saddle(self) -> float:
        """A real point near which K(s) − log|s| is least, on the side of 0 where that is lower."""
        low, high = self._strip()
        sides = [
            minimize_scalar(
                lambda s: self.value(s) - math.log(abs(s)),
                bounds=bounds,
                method="bounded",
                options={"xatol": 1e-9},
            )
            for bounds in ((low * (1 - 1e-12), low * 1e-12), (high * 1e-12, high * (1 - 1e-12)))
        ]
        return float(min(sides, key=lambda side: side.fun).x)

    def least(self) -> float:
        """The least K(s) over s ≥ 0, at most 0."""
        high = self._strip()[1] * (1 - 1e-12)
        found = minimize_scalar(self.value, bounds=(0.0, high), method="bounded", options={"xatol": 1e-9})
        return min(0.0, float(found.fun))
