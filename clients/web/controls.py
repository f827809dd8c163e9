"""The controls of the page, each under the name of the request field that it sets: errors, receipts and requests all go by that name."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from clients.web.limits import Limits


class Controls:
    """Builds components and finds them again.

    Args:
        limits: Ranges and defaults.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.components: dict[str, gr.Component] = {}
        self.defaults: dict[str, Any] = {}
        self.labels: dict[str, str] = {}

    def slider(
        self,
        field: str,
        label: str,
        info: str | None = None,
        *,
        step: float,
        minimum: float | None = None,
        maximum: float | None = None,
        default: float | None = None,
        visible: bool = True,
    ) -> gr.Slider:
        """A number in its range, see `Limits.range_of`."""
        limit = self.limits.range_of(field, minimum=minimum, maximum=maximum, default=default)
        component = gr.Slider(
            limit.minimum,
            limit.maximum,
            limit.default,
            step=step,
            label=label,
            info=info,
            elem_id=element_id(field),
            visible=visible,
        )
        return self.add(field, label, limit.default, component)

    def number(
        self, field: str, label: str, info: str | None = None, *, default: float | None, minimum: float, maximum: float
    ) -> gr.Number:
        """A number that may be left out."""
        component = gr.Number(default, label=label, info=info, minimum=minimum, maximum=maximum, elem_id=element_id(field))
        return self.add(field, label, default, component)

    def text(
        self,
        field: str,
        label: str,
        info: str | None = None,
        *,
        default: str = "",
        lines: int = 1,
        max_lines: int | None = None,
        placeholder: str = "",
    ) -> gr.Textbox:
        """A text."""
        component = gr.Textbox(
            default,
            label=label,
            info=info,
            lines=lines,
            max_lines=max_lines or max(lines, 1),
            placeholder=placeholder or None,
            elem_id=element_id(field),
        )
        return self.add(field, label, default, component)

    def choice(
        self,
        field: str,
        label: str,
        info: str | None = None,
        *,
        choices: Sequence[tuple[str, str]],
        default: str,
        radio: bool = False,
    ) -> gr.Radio | gr.Dropdown:
        """One of several."""
        if radio:
            component = gr.Radio(list(choices), value=default, label=label, info=info, elem_id=element_id(field))
        else:
            component = gr.Dropdown(list(choices), value=default, label=label, info=info, elem_id=element_id(field), filterable=False)
        return self.add(field, label, default, component)

    def switch(self, field: str, label: str, info: str | None = None, *, default: bool) -> gr.Checkbox:
        """On or off."""
        return self.add(field, label, default, gr.Checkbox(default, label=label, info=info, elem_id=element_id(field)))

    def values(self, inputs: Mapping[gr.Component, Any]) -> dict[str, Any]:
        """Values by field, out of what an event handler was given."""
        return {field: inputs[component] for field, component in self.components.items()}

    def updates(self, values: Mapping[str, Any]) -> dict[gr.Component, Any]:
        """What an event handler returns to set controls; sliders widen for values that the server takes and the page does not offer."""
        changed: dict[gr.Component, Any] = {}
        for field, value in values.items():
            component = self.components[field]
            if isinstance(component, gr.Slider):
                changed[component] = gr.update(value=value, maximum=max(component.maximum, value), minimum=min(component.minimum, value))
            else:
                changed[component] = gr.update(value=value)
        return changed

    def add(self, field: str, label: str, default: Any, component: Any) -> Any:
        """Take in a component that was built elsewhere; returns it."""
        self.components[field] = component
        self.defaults[field] = default
        self.labels[field] = label
        return component


def element_id(field: str) -> str:
    """The id of a control in the page."""
    return "field-" + field.replace(".", "-")
