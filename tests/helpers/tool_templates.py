"""Chat templates that know tools, of the forms in which models' own write them; each as short as its form allows."""

from __future__ import annotations

from tests.helpers.small_tokenizers import byte_level, for_template

ASSISTANT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TOLD = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}"
)
QWEN = (
    TOLD + "{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n</tool_response><|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}{% if m.content %}{{ '\n' ~ m.content }}{% endif %}"
    '{% for c in m.tool_calls or [] %}{{ \'\n\' }}<tool_call>\n{"name": "{{ c.function.name }}", "arguments": '
    "{{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endif %}{% endfor %}" + ASSISTANT
)
"""Qwen2.5's, Qwen3's and Hermes': JSON between tags."""
LLAMA = (
    "{% for m in messages %}<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}<|end_header_id|>\n\n"
    "{% if m.role == 'user' and tools and loop.first %}{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}"
    "{% if m.role == 'tool' %}{{ m.content | tojson }}{% elif m.tool_calls %}"
    '{% set c = m.tool_calls[0].function %}{"name": "{{ c.name }}", "parameters": {{ c.arguments | tojson }}}'
    "{% else %}{{ m.content | trim }}{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""Llama 3's: bare JSON, and a tool's answer as a string of JSON."""
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}[INST] {{ m.content }}[/INST]"
    "{% elif m.role == 'tool' %}[TOOL_RESULTS] {\"content\": {{ m.content | tojson }}}[/TOOL_RESULTS]"
    '{% elif m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}{"name": "{{ c.function.name }}", '
    '"arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}{% endfor %}]{{ eos_token }}'
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Mistral's: a list of calls, each with an id."""
XML = QWEN.replace(
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}',
    "<function={{ c.function.name }}>{% for k, v in c.function.arguments.items() %}<parameter={{ k }}>{{ v }}"
    "</parameter>{% endfor %}</function>",
)
"""Qwen3-Coder's: tags instead of JSON."""
KNOWN = {"qwen": QWEN, "llama": LLAMA, "mistral": MISTRAL}


def tokenizer(template: str, kind=byte_level):
    """A small tokenizer for a template; tags and brackets are tokens, as in the models that bring them."""
    tags = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "[TOOL_CALLS]", "[INST]", "[/INST]")
    return for_template(kind, template, *(tag for tag in tags if tag in template))
