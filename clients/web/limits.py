"""Ranges and defaults of controls: the server's, as GetCapabilities publishes them, so that page and server cannot differ."""

from dataclasses import dataclass

from acestep_rpc.v1 import music_pb2, sampling_pb2


@dataclass(frozen=True)
class Range:
    """Ends, both allowed, and the value that a control starts with."""

    minimum: float
    maximum: float
    default: float


class Limits:
    """Of one server.

    Args:
        capabilities: Its own words.
    """

    def __init__(self, capabilities: music_pb2.GetCapabilitiesResponse) -> None:
        self.capabilities = capabilities
        self._parameters = {parameter.field: parameter for parameter in capabilities.parameters}

    @property
    def sampling(self) -> sampling_pb2.SamplingParams:
        """What a request that says nothing is sampled with."""
        return self.capabilities.sampling_defaults

    def range_of(self, field: str, *, minimum: float | None = None, maximum: float | None = None, default: float | None = None) -> Range:
        """Range of a control.

        Args:
            field: Path in GenerateRequest.
            minimum: Lower than the server's where a value below its range has a meaning on the page.
            maximum: Lower than the server's where a slider over all of it would be too coarse.
            default: Other than the server's.
        """
        parameter = self._parameters[field]
        start = self._default(field) if default is None else default
        highest = parameter.maximum if maximum is None else min(maximum, parameter.maximum)
        lowest = parameter.minimum if minimum is None else minimum
        return Range(lowest, max(highest, start), start)

    def _default(self, field: str) -> float:
        folder, _, name = field.partition(".")
        if folder == "sampling" and self.sampling.HasField(name):  # a field that the server named
            return float(getattr(self.sampling, name))
        parameter = self._parameters[field]
        return parameter.default_value if parameter.HasField("default_value") else parameter.minimum
