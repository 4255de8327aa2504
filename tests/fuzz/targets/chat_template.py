"""Chat templates of packs: whatever one does, it ends soon and takes little memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.models.bounded_jinja import MAX_LENGTH
from sidecar.models.bounded_values import MAX_MADE
from sidecar.models.chat_template import ChatTemplate
from sidecar.models.errors import SetupError
from sidecar.models.types import InputRejectedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.models.generation import Message

ALLOWED = (SetupError, InputRejectedError)
MAX_BYTES = 1024
CPU_SECONDS = 20.0
MEGABYTES = 2 * (MAX_MADE >> 20)
_WORDS = """
    {{ }} {% %} {# #} {%- -%} for in if else elif endif endfor set endset macro endmacro call
    endcall filter endfilter generation endgeneration break continue messages message role
    content loop.index namespace( range( dict( cycler( joiner( raise_exception( strftime_now(
    |tojson |trim |length |join |replace( |indent( |list |batch( |slice( |format( |string |map(
    |sort |center( |sum |round( |items .format( .replace( .center( .ljust( .zfill( .join(
    .split( .expandtabs( .encode( __class__ ** ~ * % '%999999999d' 10**9 '{:>999999999}'
    add_generation_prompt bos_token tools not is and or defined
"""
TOKENS = tuple(_WORDS.split())
_MESSAGES: list[Message] = [
    ("system", "Be brief."),
    ("user", "Hello, world " * 20),
    ("assistant", ""),
    ("user", "x"),
]
_SEEDS = """\
{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m.content }}{% endfor %}
{% if add_generation_prompt %}{{ bos_token }}{% endif %}{% generation %}a{% endgeneration %}
{% macro f(x, n) %}{{ x|tojson }}{% if n %}{{ f(x, n - 1) }}{% endif %}{% endmacro %}{{ f(1, 3) }}
{% set ns = namespace(a=[]) %}{% for i in range(9) %}{% set ns.a = ns.a + [i] %}{% endfor %}
{{ raise_exception('no') if messages[0].role == 'system' else strftime_now('%d %b %Y') }}
{{ 'a'.replace('a', 'bb')|upper|indent(4)|trim ~ '%s'|format(1) ~ '{:>9}'.format(1) }}
{{ messages|map(attribute='role')|list|batch(2)|list }}{{ 'a,b'.split(',')|join('-') }}
"""


def seeds() -> Iterator[bytes]:
    yield from map(str.encode, _SEEDS.splitlines())


def run(data: bytes) -> None:
    template = ChatTemplate(data.decode(errors="replace"), {"bos_token": "<s>"})
    assert len(template.render(_MESSAGES)) <= MAX_LENGTH
