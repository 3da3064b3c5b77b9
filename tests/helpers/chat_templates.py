"""Chat templates of the kinds that models bring, each for a tokenizer of the same family.

The tokenizers are real ones and no part of the project: a folder with one sub-folder for each of `Pair.family`, holding
tokenizer.json and tokenizer_config.json (there or one level deeper, in models/). The templates are written after the
public descriptions of their formats, as short as the format allows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROMPT = "{% if add_generation_prompt %}"
TURNS = "{% for m in messages %}"
CHATML = TURNS + (
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
LLAMA3 = TURNS + (
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
DATED = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: {{ date_string }}"
    "\n\n<|eot_id|>"
) + LLAMA3
THINKING = TURNS + (
    "<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1].lstrip('\\n') if m.role == 'assistant' else m.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
NOT_THINKING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n\n</think>\n\n{% endif %}")
GLM = TURNS + (
    "{% if m.role == 'user' %}<|user|>\n{{ m.content }}{% else %}<|assistant|>\n<think></think>\n"
    "{{ m.content.split('</think>')[-1].strip() }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
HARMONY = (
    "<|start|>system<|message|>Current date: {{ strftime_now('%Y-%m-%d') }}\n\n# Valid channels: final.<|end|>"
    + TURNS
    + "{% if m.role == 'user' %}<|start|>user<|message|>{{ m.content }}<|end|>{% else %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "{% if loop.last and not add_generation_prompt %}<|return|>{% else %}<|end|>{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}"
    + TURNS
    + (
        "{% if m.role == 'user' %}<\uff5cUser\uff5c>{{ m.content }}{% else %}<\uff5cAssistant\uff5c>"
        "{{ m.content.split('</think>')[-1] }}<\uff5cend\u2581of\u2581sentence\uff5c>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<\uff5cAssistant\uff5c><think>\n{% endif %}"
    )
)
LLAMA2 = (
    TURNS + "{% if m.role == 'user' %}{{ bos_token }}[INST] {% if loop.first %}<<SYS>>\nYou are helpful.\n<</SYS>>\n\n"
    "{% endif %}{{ m.content | trim }} [/INST]{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}" + TURNS + "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]{% else %} {{ m.content }}"
    "{{ eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = TURNS + (
    "<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PHI3 = TURNS + (
    "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
VICUNA = (
    "A chat between a user and an assistant. "
    + TURNS
    + "{% if m.role == 'user' %}USER: {{ m.content }}{% else %} ASSISTANT: {{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
GRANITE = TURNS + (
    "<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
COMMAND_R = (
    "{{ bos_token }}"
    + TURNS
    + (
        "<|START_OF_TURN_TOKEN|>{{ '<|USER_TOKEN|>' if m.role == 'user' else '<|CHATBOT_TOKEN|>' }}"
        "{{ m.content | trim }}<|END_OF_TURN_TOKEN|>{% endfor %}"
        "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
    )
)
DEEPSEEK_TOKENS = {
    "bos_token": "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    "eos_token": "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "pad_token": "<\uff5cend\u2581of\u2581sentence\uff5c>",
}
END_OF_TEXT = {"eos_token": "<|endoftext|>"}
OWN, NONE = "own", ""


@dataclass(frozen=True)
class Pair:
    """A tokenizer and a template."""

    family: str
    template: str
    changes: dict[str, Any] = field(default_factory=dict)
    """Of tokenizer_config.json."""
    tokens: tuple[str, ...] = ()
    """Special tokens to be added; one that ends with `>>` takes the white space behind it."""


PAIRS = {
    "qwen3": Pair("qwen3", OWN),
    "chatml with a system prompt": Pair("qwen3", SYSTEM + CHATML),
    "chatml on a base model": Pair("qwen3", CHATML, END_OF_TEXT),
    "chatml, thinking": Pair("qwen3", THINKING),
    "chatml, not thinking": Pair("qwen3", NOT_THINKING),
    "glm": Pair("qwen3", GLM, END_OF_TEXT, ("<|user|>", "<|assistant|>", "<|observation|>")),
    "phi3": Pair("qwen3", PHI3, END_OF_TEXT, ("<|user|>", "<|assistant|>", "<|end|>")),
    "granite": Pair(
        "qwen3", GRANITE, {"eos_token": "<|end_of_text|>"}, ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>")
    ),
    "command-r": Pair(
        "llama3_1",
        COMMAND_R,
        {"eos_token": "<|END_OF_TURN_TOKEN|>"},
        ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    ),
    "llama3.1": Pair("llama3_1", OWN),
    "llama3.2, dated": Pair("llama3_1", DATED),
    "llama3, no template": Pair("llama3_1", NONE, {"eos_token": "<|end_of_text|>"}),
    "llama3, another eos": Pair("llama3", OWN),
    "gemma3": Pair("gemma3", OWN),
    "gemma3, no template": Pair("gemma3", NONE, {"eos_token": "<eos>"}),
    "gemma3, another eos": Pair("gemma3", OWN, {"eos_token": "<eos>"}),
    "deepseek v3": Pair("deepseek_v3", OWN, DEEPSEEK_TOKENS),
    "deepseek r1": Pair("deepseek_v3", DEEPSEEK, DEEPSEEK_TOKENS),
    "harmony": Pair("gptoss", HARMONY),
    "llama2": Pair("llama2", LLAMA2),
    "llama2, no template": Pair("llama2", NONE),
    "mistral": Pair("llama2", MISTRAL),
    "mistral, control tokens": Pair("llama2", MISTRAL, {}, ("[INST]", "[/INST]")),
    "zephyr": Pair("llama2", ZEPHYR),
    "vicuna": Pair("llama2", VICUNA),
    "phi3, white space taken": Pair("llama2", PHI3, {}, ("<|user|>>>", "<|assistant|>>>", "<|end|>>>")),
    "gpt-4o, no template": Pair("gpt4o", NONE),
}


def write_pair(folder: Path, name: str, out: Path) -> str:
    """Write the pair as a model's tokenizer files, and return where."""
    pair = PAIRS[name]
    source = next(p.parent for p in _tokenizer_files(folder / pair.family))
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    config = json.loads((source / "tokenizer_config.json").read_text())
    own = config.pop("chat_template", None)
    config |= pair.changes
    last = max(*(token["id"] for token in tokenizer["added_tokens"]), *tokenizer["model"]["vocab"].values())
    for number, text in enumerate(pair.tokens, last + 1):
        flags = {"special": True, "single_word": False, "lstrip": False, "normalized": False}
        token = {"content": text.removesuffix(">>"), "rstrip": text.endswith(">>>"), **flags}
        if not token["rstrip"]:
            token["content"] = text
        tokenizer["added_tokens"].append({"id": number, **token})
        config.setdefault("added_tokens_decoder", {})[str(number)] = token
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    (out / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False))
    template = own if pair.template == OWN else pair.template
    if template:
        (out / "chat_template.jinja").write_text(template)
    return str(out)


def _tokenizer_files(folder: Path) -> Iterator[Path]:
    yield from (p for p in (folder / "tokenizer.json", folder / "models" / "tokenizer.json") if p.is_file())
