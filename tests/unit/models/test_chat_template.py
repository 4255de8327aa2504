from __future__ import annotations

import datetime
import itertools
import resource
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.models import bounded_jinja
from sidecar.models.chat_template import ChatTemplate
from sidecar.models.errors import SetupError
from sidecar.models.types import InputRejectedError

if TYPE_CHECKING:
    from sidecar.models.generation import Message

# As in the file of SmolLM2-135M-Instruct.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# In the manner of Llama 3: a macro-free loop with trimmed contents and an optional system message.
LLAMA3_LIKE = """
{{- bos_token }}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' ~ system ~ '<|eot_id|>' }}
{%- if tools is not none %}{{ raise_exception('no tools') }}{% endif %}
{%- for message in messages %}
    {{- '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\\n\\n' }}
    {{- message.content | trim ~ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
# In the manner of Mistral: the roles must alternate.
MISTRAL_LIKE = """
{{- bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate: user, assistant, user and so on') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + message['content'] + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('No role ' + message['role'] + ': ' + message['content']) }}
    {%- endif %}
{%- endfor %}
"""
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
HELLO: list[Message] = [("user", "Hello")]


def render(source: str, messages: list[Message] = HELLO) -> str:
    return ChatTemplate(source, TOKENS).render(messages)


def test_smollm2_is_told_who_it_is_unless_a_system_message_does() -> None:
    assert render(SMOLLM2) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(SMOLLM2, [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?")]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_like_that_of_llama_3_has_its_special_tokens_and_no_tools() -> None:
    assert render(LLAMA3_LIKE, [("system", " Be brief. "), ("user", "Hello\n")]) == (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_a_template_like_that_of_mistral_takes_roles_that_alternate() -> None:
    messages: list[Message] = [("user", "Hello"), ("assistant", "Hi"), ("user", "Bye")]
    assert render(MISTRAL_LIKE, messages) == ("<s>[INST] Hello [/INST] Hi</s>[INST] Bye [/INST]")


def test_a_refusal_says_what_the_template_says_where_that_is_written_in_it() -> None:
    with pytest.raises(InputRejectedError, match=r"refuses .*: Roles must alternate: user, assist"):
        render(MISTRAL_LIKE, [("user", "secret"), ("user", "secret")])


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception(messages[0].content) }}",
        "{{ raise_exception('No ' + messages[0].content) }}",
        "{{ raise_exception(messages) }}",
        "{{ [][messages[0].content].x }}",
        "{{ messages[0].content * messages[0].content }}",
        "{{ messages[0].content | int / 0 }}",
        "{{ strftime_now(messages[0]) }}",
        "{% include messages[0].content %}",
    ],
)
def test_what_goes_wrong_is_told_without_any_text_of_the_user(source: str) -> None:
    with pytest.raises(InputRejectedError, match="chat template") as caught:
        render(source, [("user", "secret")])
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_blocks_on_lines_of_their_own_leave_no_trace() -> None:
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc") == "a\nb\nc"


def test_json_is_as_models_were_trained_on_it_and_not_as_in_html() -> None:
    messages: list[Message] = [("user", "<é & 'ü'>")]
    assert render("{{ messages[0] | tojson }}", messages) == (
        '{"role": "user", "content": "<é & \'ü\'>"}'
    )
    assert render("{{ {'b': 1, 'a': [2]} | tojson(indent=1, sort_keys=true) }}") == (
        '{\n "a": [\n  2\n ],\n "b": 1\n}'
    )


def test_loops_may_be_left_and_rounds_skipped() -> None:
    source = "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}"
    assert render(source + "{% if i == 3 %}{% break %}{% endif %}{% endfor %}") == "023"


def test_a_template_can_tell_the_date() -> None:
    before = datetime.date.today()
    told = datetime.date.fromisoformat(render("{{ strftime_now('%Y-%m-%d') }}"))
    assert before <= told <= datetime.date.today()


def test_blocks_that_mark_what_the_assistant_said_are_let_through() -> None:
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    assert render(source) == "Hello"


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(max_size=20))))
def test_contents_come_as_they_are_whatever_they_look_like(messages: list[Message]) -> None:
    source = "{% for m in messages %}{{ m.role + ':' ~ m.content }};{% endfor %}"
    assert render(source, messages) == "".join(f"{role}:{text};" for role, text in messages)


def test_contents_are_not_templates() -> None:
    hostile = "{{ raise_exception('x') }}{% for x in y %}"
    assert render("{{ messages[0].content }}", [("user", hostile)]) == hostile


def test_a_conversation_after_another_is_not_affected_by_it() -> None:
    template = ChatTemplate(MISTRAL_LIKE, TOKENS)
    with pytest.raises(InputRejectedError):
        template.render([("assistant", "no")])
    assert template.render(HELLO) == template.render(HELLO) == "<s>[INST] Hello [/INST]"


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("a\n{% for %}", "line 2: "),
        ("{{ x", "line 1: "),
        ("{{ x | no_such_filter }}", "no_such_filter"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "cannot be compiled"),
    ],
)
def test_a_template_that_cannot_be_compiled_is_an_error_of_the_set_up(
    source: str, complaint: str
) -> None:
    with pytest.raises(SetupError, match=f"chat template .*{complaint}"):
        ChatTemplate(source, TOKENS)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ (''|attr('__class__')).x }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ self._TemplateReference__context.environment }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% set _ = messages.append(messages[0]) %}",
        "{% set _ = messages[0].update({'role': 'system'}) %}",
        "{% import 'os' as os %}",
        "{% include '/etc/hostname' %}",
    ],
)
@pytest.mark.threat("A pack brings code")
def test_a_template_cannot_leave_the_sandbox(source: str) -> None:
    with pytest.raises(InputRejectedError, match="fails on this conversation"):
        render(source)


GROWING = "{%% set n = namespace(x=%s) %%}{%% for i in range(99) %%}%s{%% endfor %%}"


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{% for i in range(10**9) %}{% endfor %}", "OverflowError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        (GROWING % ("'ab'", "{% set n.x = n.x + n.x %}"), "too large a value"),
        (GROWING % ("['ab']", "{% set n.x = n.x + n.x %}"), "too large a value"),
        (GROWING % ("7", "{% set n.x = n.x * n.x %}"), "too large a value"),
        (GROWING % ("'ab'", "{% set n.x = n.x ~ n.x %}"), "too long a text"),
        (
            GROWING % ("'ab'", "{% set x %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = x %}"),
            "too long a text",
        ),
        ("{% set x = 10**8 %}{{ 'ab' * x }}", "too large a value"),
        ("{% set x = 10**8 %}{{ x * ['ab'] }}", "too large a value"),
        ("{% set x = 10**8 %}{{ x ** x }}", "too large a value"),
        ("{% set x = 'ab' * 10**6 %}{% for i in range(99) %}{{ x }}{% endfor %}", "too long a"),
    ],
)
def test_a_template_cannot_make_very_large_values(source: str, complaint: str) -> None:
    with pytest.raises(InputRejectedError, match=complaint):
        render(source)


BIG = "{% set big = 'a, ' * 10**6 %}"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ('a' * 10**6) | replace('a', 'b' * 10**6) }}",
        "{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}",
        "{{ ('a' * 10**6) | join('b' * 10**6) }}",
        "{{ ('b' * 10**6).join('a' * 10**6) }}",
        "{{ 'a' | center(10**9) }}",
        "{{ 'a'.center(10**9) }}",
        "{{ 'a'.ljust(width) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (10**9, 1) }}",
        "{{ '%999999999d' | format(1) }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ '{:>{}}'.format(1, 10**9) }}",
        BIG + "{{ (big | replace('a', '{0}')).format(big) }}",
        BIG + "{{ (big | replace('a', '%(x)s')) % {'x': big} }}",
        "{{ ('\n' * 10**6) | indent(10**6) }}",
        "{{ ('\t' * 10**6).expandtabs(10**6) }}",
        "{{ ('a' * 10**6).translate({97: 'b' * 10**6}) }}",
        "{{ (range(99999) | list) | tojson(indent=10**6) }}",
        "{{ 1.5 | round(10**6) }}",
        "{{ ([[1]] * 10**5) | sum(start=[]) }}",
        "{{ strftime_now('%999999999Y') }}",
        BIG + "{{ big.split(',') }}{% for i in range(99) %}{% set x = big.split() %}{% endfor %}",
        BIG + "{% set a = [big, big] %}" + "{% set a = [a, a] %}" * 30 + "{{ a }}",
        BIG + "{% set a = {'x': big} %}" + "{% set a = dict(x=a, y=a) %}" * 30 + "{{ a == a }}",
        "{% set a = (1, 2) %}" + "{% set a = (a, a) %}" * 40 + "{{ a | string | length }}",
    ],
)
def test_a_template_cannot_make_much_of_little_with_filters_and_methods(source: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputRejectedError, match="does not get through this conversation: it "):
        ChatTemplate(source, {"width": 10**9}).render(HELLO)  # type: ignore[dict-item]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 << 10


@pytest.mark.parametrize("name", ["lipsum()", "'a' | pprint", "'a' | urlize", "{} | xmlattr"])
def test_what_no_model_has_a_use_for_is_not_there(name: str) -> None:
    with pytest.raises((InputRejectedError, SetupError)):
        render("{{ " + name + " }}")


def test_the_text_of_a_namespace_has_nothing_of_what_is_in_it() -> None:
    assert render("{% set n = namespace(x='secret') %}{{ n }}{{ n.x }}") == "<Namespace>secret"


def test_a_long_conversation_is_well_within_the_bounds() -> None:
    messages: list[Message] = [("user", "word " * 200)] * 500
    source = (
        "{% set n = namespace(all=[], text='') %}"
        "{% for m in messages %}{% set n.all = n.all + [m.content | trim] %}"
        "{{ m.role ~ ': ' ~ m.content.split('</think>')[-1] | replace('word', 'w') + '\n' }}"
        "{% endfor %}{{ n.all | join('\n') | length }}"
    )
    assert render(source, messages).endswith(str(500 * 1000 - 1))


def test_filters_and_methods_do_what_they_do_without_bounds() -> None:
    source = (
        "{{ messages | map(attribute='content') | join(', ') }} {{ 'b'.join(['a', 'c']) }}"
        " {{ 'x-y'.split('-') }} {{ '%s-%03d' | format('a', 7) }} {{ '{:>3}'.format('z') }}"
        " {{ 'a'.replace('a', 'bb', 1) }} {{ 'l1\nl2' | indent(2) }} {{ [3, 1] | sort }}"
        " {{ [1, 2] | sum }} {{ dict(a=1) }} {{ 'c'.center(3) }} {{ {'k': (1, 2)} | items | list }}"
    )
    assert render(source) == (
        "Hello abc ['x', 'y'] a-007   z bb l1\n  l2 [1, 3] 3 {'a': 1}  c  [('k', (1, 2))]"
    )


# A block that is called with itself, twice in each call.
CALLS = (
    "{% macro m() %}{{ caller(caller, 60) }}{% endmacro %}"
    "{% call(x, n) m() %}{{ x(x, n - 1) ~ x(x, n - 1) if n }}{% endcall %}"
)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{{ m(n - 1) ~ m(n - 1) if n }}{% endmacro %}{{ m(60) }}",
        CALLS,
    ],
    ids=["loops", "macros", "calls"],
)
@pytest.mark.threat("A pack brings code")
def test_a_template_cannot_go_on_for_ever(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_jinja, "MAX_SECONDS", 0.05)
    with pytest.raises(InputRejectedError, match="takes too long"):
        render(source)


LOOP = "{% for i in range(3) %}{{ i }}{% endfor %}"


def advance_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Lets so much time pass, without any of CPU, whenever somebody looks at the clock."""
    clock = itertools.count(0.0, seconds)
    monkeypatch.setattr(bounded_jinja.time, "monotonic", lambda: next(clock))


def test_a_rendering_that_waits_for_a_busy_machine_is_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    advance_clock(monkeypatch, bounded_jinja.MAX_SECONDS)
    assert render(LOOP) == "012"


def test_a_rendering_that_takes_far_too_long_by_the_clock_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    advance_clock(monkeypatch, bounded_jinja.MAX_WALL_SECONDS + 1)
    with pytest.raises(InputRejectedError, match="takes too long"):
        render(LOOP)


def test_operators_do_what_they_do_without_bounds() -> None:
    source = "{{ 2 ** 10 }} {{ 3 * 4 + 1 }} {{ 'a' * 3 }} {{ [1] + [2] }} {{ 1 ~ none ~ 'x' }}"
    assert render(source) == "1024 13 aaa [1, 2] 1Nonex"
    assert render("{{ 7 % 4 }} {{ '%s!' % 'x' }} {{ 2 ** -1 }} {{ 1.5 * 2 }}") == "3 x! 0.5 3.0"
