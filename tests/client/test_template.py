"""Chat templates: transformers' dialect, and what hostile ones come to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from swarm.client.prompts import Message, PromptForm
from swarm.client.renderer import Renderer
from swarm.client.template import render
from swarm.errors import WeightsError

MESSAGES = [{"role": "user", "content": "<b>Grüße</b> & 'co'"}, {"role": "assistant", "content": "Hi"}]
DIALECT = [
    "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
    "{{ messages | tojson }}",
    "{{ messages | tojson(indent=2) }}",
    "{% for m in messages %}\n  {% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}",
    "{{ strftime_now('%d %b %Y') }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}{{ messages[-1]['content'][::-1] }}",
]


@pytest.mark.parametrize("template", DIALECT)
def test_templates_are_written_as_transformers_writes_them(template: str) -> None:
    theirs, _ = render_jinja_template([MESSAGES], chat_template=template, add_generation_prompt=True)
    assert render(template, {"messages": MESSAGES, "add_generation_prompt": True}) == theirs[0]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(seconds=3.0)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "takes more than 3 s"),
        ("{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}", "RecursionError|takes more than 3 s"),
        ("{{ range(10 ** 9) }}", "fails: OverflowError"),
        (
            "{% set n = namespace(s='x') %}{% for _ in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
            "MemoryError|MiB",
        ),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "fails: SecurityError"),
        ("{% include '/etc/passwd' %}", "fails: TypeError|fails: .*loader"),
        ("{% import 'os' as os %}", "fails: TypeError|fails: .*loader"),
        ("{{ messages.append(1) }}", "fails: SecurityError"),
        ("{% if %}", "fails: TemplateSyntaxError"),
        ("{{ raise_exception('no system role') }}", "fails: TemplateError: no system role"),
    ],
)
def test_a_template_that_is_broken_or_hostile_is_an_error(renderer: Renderer, template: str, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(WeightsError, match=message):
        renderer.render(template, {"messages": MESSAGES})
    assert time.monotonic() - began < 20  # far below for ever
    assert renderer.render("{{ messages[1].content }}", {"messages": MESSAGES}) == "Hi"


@pytest.mark.parametrize(("thinking", "told"), [(None, "unsaid"), (True, "True"), (False, "False")])
def test_a_form_says_of_thinking_what_is_asked(renderer: Renderer, thinking: bool | None, told: str) -> None:
    form = PromptForm("{{ bos_token }}{{ enable_thinking | default('unsaid') }}", (), {"bos_token": "<s>"})
    variables: Mapping[str, Any] = form.variables([Message("user", "hi")], thinking)
    assert renderer.render(form.template, variables) == f"<s>{told}"
