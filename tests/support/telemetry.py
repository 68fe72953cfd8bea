"""OpenTelemetry's SDK, in memory: what is measured, and the spans."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

Labels = tuple[str, ...]


class Measured:
    """Providers of a test's own, and what reached them."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._exporter = InMemorySpanExporter()
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def metrics(self) -> dict[str, Any]:
        """Each metric by its name, in the SDK's form."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def values(self, name: str, *labels: str) -> dict[Labels, float]:
        """The values of one metric, or the counts of a histogram, by these attributes."""
        metric = self.metrics().get(name)
        points: list[Any] = [] if metric is None else metric.data.data_points
        return {
            tuple(str(point.attributes.get(label)) for label in labels): (
                point.value if hasattr(point, "value") else point.count
            )
            for point in points
        }

    def spans(self, name: str) -> list[ReadableSpan]:
        """The spans of this name that have ended."""
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def told(self) -> str:
        """All that was exported, as one text."""
        spans = [span.to_json() for span in self._exporter.get_finished_spans()]
        return repr(self.metrics()) + "".join(spans)
