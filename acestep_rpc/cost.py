"""How long work takes, as a sum over what the work has: seconds = sum of coefficient x feature. Pure: it knows neither stages nor clocks.

Coefficients are fitted to measurements made at the start, and followed as they change by least squares over the measurements of the work
itself, old ones counting ever less. Errors are relative: a small piece of work that is predicted badly counts as much as a large one.
"""

import itertools
from collections.abc import Mapping, Sequence

Features = Mapping[str, float]
"""What a piece of work has, by name, as {"rows": 2, "row_frames": 646}."""

MEMORY = 40
"""Measurements until one counts e times less."""
PRIOR_WEIGHT = 2.0
"""Measurements that the proportions of the start weigh as much as."""
LARGEST_SURPRISE = 4.0
"""A measurement further from its prediction than this factor counts as if it were so far: one stall says little, many say all."""
REFIT_EVERY = 8
"""Measurements from one solution to the next."""
_RIDGE = 1e-6

Vector = list[float]
Matrix = list[list[float]]


def predict(coefficients: Mapping[str, float], features: Features) -> float:
    """Seconds of a piece of work; features without a coefficient cost nothing."""
    return sum(coefficients.get(name, 0.0) * value for name, value in features.items())


def fit(samples: Sequence[tuple[Features, float]]) -> dict[str, float]:
    """Coefficients, none negative, with the least squared relative errors.

    Args:
        samples: Work and how long it took, > 0. Coefficients that they do not tell apart are 0.
    """
    names = _names(samples)
    matrix, vector = _zeros(len(names))
    for features, seconds in samples:
        _add(matrix, vector, [features.get(name, 0.0) for name in names], seconds, 1 / seconds**2)
    return dict(zip(names, _non_negative_solution(matrix, vector), strict=True))


class CostModel:
    """Coefficients that follow measurements.

    Where recent work is all alike, it tells how fast the device is but not what costs what: the proportions of the start then hold.

    Args:
        samples: Measurements of the start, of work as different as can be.
    Attributes:
        coefficients: As of now, by feature.
    """

    def __init__(self, samples: Sequence[tuple[Features, float]]) -> None:
        self._names = _names(samples)
        self.coefficients = fit(samples)
        self._speed = 1.0  # seconds now over seconds at the start
        self._start = [self.coefficients[name] for name in self._names]
        self._known, _ = _zeros(len(self._names))
        for features, seconds in samples:
            _add(self._known, [0.0] * len(self._names), self._row(features), seconds, PRIOR_WEIGHT / len(samples) / seconds**2)
        self._recent, self._target = _zeros(len(self._names))
        self._unsolved = 0

    def predict(self, features: Features) -> float:
        """Seconds of a piece of work."""
        return predict(self.coefficients, features)

    def observe(self, features: Features, seconds: float) -> float:
        """Learn from a measurement.

        Args:
            features: What was done; features that the start did not have are left out.
            seconds: How long it took, > 0.
        Returns:
            What was predicted for it over what it took.
        """
        predicted = self.predict(features)
        if predicted > 0:
            clipped = min(max(seconds, predicted / LARGEST_SURPRISE), predicted * LARGEST_SURPRISE)
            self._scale_recent(1 - 1 / MEMORY)
            _add(self._recent, self._target, self._row(features), clipped, 1 / predicted**2)
            self._unsolved += 1
            if self._unsolved >= REFIT_EVERY:
                self._solve()
        return predicted / seconds

    def _row(self, features: Features) -> Vector:
        return [features.get(name, 0.0) for name in self._names]

    def _scale_recent(self, factor: float) -> None:
        self._recent = [[value * factor for value in values] for values in self._recent]
        self._target = [value * factor for value in self._target]

    def _solve(self) -> None:
        """Minimise the errors of recent work, and the deviation from the coefficients of the start at the speed of recent work."""
        self._unsolved = 0
        start, size = self._start, range(len(self._names))
        explained = sum(start[i] * self._target[i] for i in size)
        expected = sum(start[i] * self._recent[i][j] * start[j] for i in size for j in size)
        speed = explained / expected if explained > 0 and expected > 0 else self._speed  # 0: work that cost nothing at the start
        self._scale_recent((self._speed / speed) ** 2)  # a weight is one over the square of a prediction, which is another one now
        self._speed = speed
        prior = [[value / speed**2 for value in values] for values in self._known]
        for i in size:
            prior[i][i] += _RIDGE * (self._recent[i][i] + prior[i][i])
        matrix = [[self._recent[i][j] + prior[i][j] for j in size] for i in size]
        vector = [self._target[i] + speed * sum(prior[i][j] * start[j] for j in size) for i in size]
        self.coefficients = dict(zip(self._names, _non_negative_solution(matrix, vector), strict=True))


def _names(samples: Sequence[tuple[Features, float]]) -> list[str]:
    return list(dict.fromkeys(name for features, _ in samples for name in features))


def _zeros(size: int) -> tuple[Matrix, Vector]:
    return [[0.0] * size for _ in range(size)], [0.0] * size


def _add(matrix: Matrix, vector: Vector, row: Vector, value: float, weight: float) -> None:
    """Add a measurement to normal equations."""
    for i, own in enumerate(row):
        vector[i] += weight * own * value
        for j, other in enumerate(row):
            matrix[i][j] += weight * own * other


def _non_negative_solution(matrix: Matrix, vector: Vector) -> Vector:
    """The vector c >= 0 with the least c M c - 2 c v: the best of the solutions on each choice of coordinates, which are few."""
    best, least = [0.0] * len(vector), 0.0
    for count in range(1, len(vector) + 1):
        for chosen in itertools.combinations(range(len(vector)), count):
            solved = _solve([[matrix[i][j] for j in chosen] for i in chosen], [vector[i] for i in chosen])
            if solved is None or min(solved) < 0:
                continue
            value = -sum(coefficient * vector[i] for coefficient, i in zip(solved, chosen, strict=True))
            if value < least - 1e-12 * abs(least):
                least = value
                best = [0.0] * len(vector)
                for coefficient, i in zip(solved, chosen, strict=True):
                    best[i] = coefficient
    return best


def _solve(matrix: Matrix, vector: Vector) -> Vector | None:
    """Gauss, on equations scaled to a diagonal of ones; None: they do not tell the unknowns apart."""
    size = range(len(vector))
    if any(matrix[i][i] <= 0 for i in size):
        return None
    scale = [matrix[i][i] ** -0.5 for i in size]
    rows = [[scale[i] * matrix[i][j] * scale[j] for j in size] + [scale[i] * vector[i]] for i in size]
    for i in size:
        pivot = max(range(i, len(vector)), key=lambda k: abs(rows[k][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        if abs(rows[i][i]) < 1e-10:
            return None
        for k in size:
            if k != i:
                factor = rows[k][i] / rows[i][i]
                rows[k] = [own - factor * other for own, other in zip(rows[k], rows[i], strict=True)]
    return [scale[i] * rows[i][-1] / rows[i][i] for i in size]
