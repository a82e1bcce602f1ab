"""Request bodies for hypothesis: of the right shape, but with anything in any place."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

_WORDS = (
    "text image tool_use tool_result thinking document tool_reference function auto any tool none enabled adaptive "
    "user assistant system developer low high function_call function_call_output message input_text input_image"
)
_KEYS = (
    "type text content name id input source data tool_use_id role function input_schema cache_control budget_tokens "
    "effort format user_id session_id arguments call_id output description"
)
_FIELDS = (
    "system tools tool_choice thinking output_config output_format metadata context_management stop_sequences stream "
    "stream_options response_format chat_template_kwargs stop instructions reasoning text max_tokens temperature "
    "thread max_completion_tokens max_output_tokens reasoning_effort prompt_cache_key previous_response_id"
)
WORDS = st.sampled_from(_WORDS.split()) | st.text(max_size=3)
ATOMS = st.none() | st.booleans() | st.integers(-2, 2**40) | st.floats(allow_nan=False, allow_infinity=False) | WORDS
ANYTHING = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS.split()), inner, max_size=4),
    max_leaves=8,
)


def _objects(keys: str, **shaped: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields: dict[str, st.SearchStrategy[Any]] = dict.fromkeys(keys.split(), WORDS | ANYTHING)
    return st.fixed_dictionaries({}, optional={**fields, **shaped})


_INNER_BLOCKS = _objects("type text name id source")
BLOCKS = _objects("type text name id source tool_use_id input", content=WORDS | st.lists(_INNER_BLOCKS) | ANYTHING)
MESSAGES = st.lists(_objects("role", content=WORDS | st.lists(BLOCKS, max_size=3) | ANYTHING), max_size=3)
TOOLS = st.lists(_objects("type name description input_schema function"), max_size=3)
OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(_FIELDS.split(), ANYTHING),
    "tools": TOOLS,
    "tool_choice": _objects("type name") | WORDS,
    "thinking": _objects("type budget_tokens"),
    "messages": MESSAGES,
    "input": MESSAGES | WORDS,
    "prompt": WORDS | ANYTHING,
}
# `model` is left to the test
BODIES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries({}, optional=OPTIONAL)
