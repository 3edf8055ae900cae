#!/usr/bin/env python3
"""Golden output of chat templates: jinja2 set up as transformers does it. golden_chat.py OUT writes OUT/chat.json:
{"variables": {...}, "now": [y, m, d, h, min, s], "templates": [...],
"cases": [[template or its index, text or null where jinja2 raises, own variables or null], ...]}.
Beside it vocab_chat.gguf, a vocabulary of the bytes and three special tokens with the first template. The templates are our own, in the manner of the families that they are named after."""
import datetime
import json
import pathlib
import sys

import gguf
from tokenizers.pre_tokenizers import ByteLevel
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.ext import loopcontrols

NOW = datetime.datetime(2025, 3, 7, 9, 5, 2)


def environment():
    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise TemplateError(message)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


TALK = [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "What is 2 + 2?\n"}, {"role": "assistant", "content": "<think>\nsum\n</think>\n\nFour."},
        {"role": "user", "content": "Grüße, “日本” 😀 & <b>'it\"s'</b>"}]
VARIABLES = {
    "messages": TALK, "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True, "s": "Hello, World", "u": "äöü日本😀x", "e": "", "ws": " \t a b\u00a0\u2003\n",
    "i": 7, "n": -3, "z": 0, "f": 2.5, "g": 1e-7, "h": 1e22, "t": True, "no": False, "nil": None, "l": [1, "two", 3.0, None, [4, 5]], "names": ["b", "a", "c", "a"],
    "d": {"k": "v", "items": [1], "n": {"m": {"x": 1}}, "q\"": "é\n\u0007\\/\u007f", "none": None}, "el": [], "ed": {}, "nums": [3, 1, 2, 10], "text": "a,b,,c", "tail": "x</think>y</think>z"}

TEMPLATES = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}\n"
              "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\n",
    "default system": """{%- for message in messages %}
    {%- if loop.first and messages[0].role != 'system' %}
        {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content|trim ~ '<|im_end|>' }}
    {%- if not loop.last %}{{ '\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '\\n<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "granite": """{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system_message = "Knowledge ends in April 2024.\\nToday's date: " + strftime_now('%B %d, %Y') + "." %}
    {%- if tools and documents %}{%- set system_message = system_message + " Tools and documents." %}
    {%- elif tools %}{%- set system_message = system_message + " Tools." %}
    {%- elif documents %}{%- set system_message = system_message + " Documents." %}
    {%- else %}{%- set system_message = system_message + " You help." %}
    {%- endif %}
    {%- if 'citations' in controls and documents %}{% set system_message = system_message + ' Cite.' %}{% endif %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\\n' }}
{%- if documents %}
    {%- for document in documents %}
        {{- 'Document ' + loop.index0 | string + '\\n' }}
        {{- document['text'] }}{{ '\\n\\n' if not loop.last }}
    {%- endfor %}
{%- endif %}
{%- for message in loop_messages %}
    {{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\\n' }}
    {%- if loop.last and add_generation_prompt %}
        {{- '<|start_of_role|>assistant' }}
        {%- if controls %}{{- ' ' + controls | tojson() }}{%- endif %}
        {{- '<|end_of_role|>' }}
    {%- endif %}
{%- endfor %}""",
    "thinking": """{%- if tools %}{{ raise_exception('no tools') }}{%- else %}
    {%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning_content)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}""",
    "deepseek": "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{{ bos_token }}{% for message in messages %}"
                "{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n\\n' }}{% elif message['role'] == 'assistant' %}"
                "{{ 'Assistant: ' + message['content'] + eos_token }}{% elif message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
                "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
    "olmoe": "{{ bos_token }}{% for message in messages %}\n{% if message['role'] == 'system' %}\n{{ '<|system|>\\n' + message['content'] }}\n{% elif message['role'] == 'user' %}\n"
             "{{ '<|user|>\\n' + message['content'] }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\\n' + message['content'] + eos_token }}\n{% endif %}\n"
             "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}\n",
    "mixtral": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] | trim + "\\n\\n" %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.first %}{%- set prefix = system_message %}{%- else %}{%- set prefix = "" %}{%- endif %}
        {{- '[INST] ' + prefix + message['content'] + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token}}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}""",
    "users only": """{%- set users = messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{%- for m in messages if m.role != 'system' %}
  {%- if m.role == 'user' %}{% set ns.index = ns.index + 1 %}{% endif %}
{{ loop.index }}/{{ loop.length }} {{ ns.index }} of {{ users|length }}: {{ m.content | trim }} {{ loop.previtem.role if loop.previtem is defined else '-' }} {{ loop.nextitem.role | default('-') }}
{% endfor %}
last: {{ (users | last).content }}, first: {{ users | map(attribute='content') | first | trim }}""",
    "channels": """{#- macros -#}
{%- macro kind(spec, level=0, nullable=false) -%}
    {%- if spec.type == "array" -%}{{ kind(spec['items'], level + 1) + "[]" }}
    {%- elif spec.type is iterable and spec.type is not string -%}{{ spec.type | join(' | ') }}
    {%- elif spec.type == "object" -%}
        {{- "{\\n" }}
        {%- for name, inner in spec.properties.items() -%}
            {{- "  " * (level + 1) + name + ("" if name in (spec.required or []) else "?") + ": " + kind(inner, level=level + 1) }}
            {%- if not loop.last -%}{{ "," }}{%- endif -%}{{- "\\n" }}
        {%- endfor -%}
        {{- "  " * level + "}" }}
    {%- else -%}{{ spec.type | default("any", true) }}{%- endif -%}
    {%- if nullable -%}{{ " | null" }}{%- endif -%}
{%- endmacro -%}
{%- macro system() -%}
    {{- "You are " ~ (model_identity if model_identity is defined else "a model") ~ ".\\nCurrent date: " ~ strftime_now("%Y-%m-%d") ~ "\\n\\n" }}
    {%- if reasoning_effort is not defined %}{%- set reasoning_effort = "medium" %}{%- endif %}
    {{- "Reasoning: " + reasoning_effort }}
{%- endmacro -%}
{{- "<|start|>system<|message|>" }}{{- system() }}{{- "<|end|>" }}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {%- if '</think>' in message.content %}{{- "<|start|>assistant<|channel|>final<|message|>" + message.content.split('</think>')[1] | trim }}{{- "<|end|>" if not loop.last else "<|return|>" }}
        {%- else %}{{- message.content }}{%- endif %}
    {%- elif message.role == 'system' %}
        {%- continue -%}
    {%- else -%}
        {{- "<|start|>" ~ message.role ~ "<|message|>" ~ message.content ~ "<|end|>" }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}
{{ kind({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": ["x", "y"]}}, "c": {}}}, nullable=true) }}""",
    "phi": "{% if messages[0]['role'] == 'system' %}{{ '<|system|>\n' + messages[0]['content'] + '<|end|>\n' }}{% endif %}{% for message in messages %}{% if message['role'] in ['user', 'assistant'] %}"
           "{{ '<|' ~ message['role'] ~ '|>\n' ~ message['content'] ~ '<|end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "llama": """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("one tool call at once") }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' }}{{- call.arguments | tojson }}{{- "}" }}
        {%- for k, v in call.arguments | items %}{{ k + '="' + v|string + '"' }}{% if not loop.last %}, {% endif %}{% endfor %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
""",
}

CONTEXTS = [None, {"add_generation_prompt": False}, {"messages": TALK[1:], "documents": [{"text": "A."}, {"text": "B."}], "controls": {"citations": True, "length": "short"}},
            {"messages": TALK[1:2], "enable_thinking": False, "model_identity": "Ä"}, {"messages": TALK[:1] + TALK[:1]}, {"messages": []},
            {"messages": TALK[:2] + [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1, "y": [True, None]}}}]}]}]

HERE = pathlib.Path(__file__).parent
EXPRESSIONS = (HERE / "chat_expressions.txt").read_text()  # one a line
STATEMENTS = (HERE / "chat_statements.txt").read_text()  # between lines of ----


def write_vocabulary(path):
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + sorted(ByteLevel.alphabet()) + ["ab"]
    w = gguf.GGUFWriter(path, "vocabulary")
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(tokens)
    w.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    w.add_token_merges(["a b"])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_chat_template(TEMPLATES["chatml"])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def main(out):
    env, cases = environment(), []

    def add(template, own=None):
        try:
            text = env.from_string(template).render({**VARIABLES, **(own or {})})
        except Exception:
            text = None
        cases.append([template, text, own])

    for i, text in enumerate(TEMPLATES.values()):
        for own in CONTEXTS:
            add(text, own)
            cases[-1][0] = i
    for e in EXPRESSIONS.strip("\n").split("\n"):
        add("{{ " + e + " }}")
    for s in STATEMENTS.strip("\n").split("\n----\n"):
        if "generation %}" in s:  # transformers' own extension: the text as if it were not there
            add(s.replace("{% generation %}", "").replace("{% endgeneration %}", ""))
            cases[-1][0] = s
        else:
            add(s)
    for odd in ("", "\n", "\n\n", "a\r\nb\rc\n", "{% if t %}\r\na\r\n{% endif %}\r\nb", " {% if t %}\u00a0{%- endif %}\u2003{{- s }}", "x\u2003{%- if t %}y{% endif %}", "\u00a0{% if t %}y{% endif %}\u00a0"):
        add(odd)
    with open(f"{out}/chat.json", "w", encoding="utf-8") as f:
        head = {"variables": VARIABLES, "now": [NOW.year, NOW.month, NOW.day, NOW.hour, NOW.minute, NOW.second], "templates": list(TEMPLATES.values())}
        f.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "cases": [\n' + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "\n]}\n")
    write_vocabulary(f"{out}/vocab_chat.gguf")
    print(len(cases), "cases,", sum(c[1] is None for c in cases), "of them refused")


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
