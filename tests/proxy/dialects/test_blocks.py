"""What is text in a block reaches the model, whatever the block is called."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bouchet_core.deployments import Traits
from bouchet_proxy.dialects.blocks import DOCUMENT_NOTE, IMAGE_NOTE, prepare_block
from hypothesis import example, given

from tests.proxy.dialects.bodies import ANYTHING

Block = dict[str, Any]

TEXT_ONLY, VISION = Traits(), Traits(vision=True)
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJDRA"}}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "QUJDRA"}


def prepared(block: Block, traits: Traits = TEXT_ONLY) -> Block:
    found: Block = prepare_block(block, traits, lambda name: f"tool {name}")
    return found


def document(source: Block, **fields: str) -> Block:
    return {"type": "document", "source": source, **fields}


def words(*texts: str) -> list[Block]:
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize(
    ("block", "seen"),
    [
        (document({"type": "text", "media_type": "text/plain", "data": "one"}, title="two", context="three"), 3),
        (document({"type": "content", "content": words("one", "two")}), 2),
        (document({"type": "content", "content": "one"}), 1),
        (document({"type": "content", "content": [*words("one"), IMAGE]}, title="two"), 2),
        (document(PDF, title="one", context="two"), 2),
        (document({"type": "url", "url": "https://one.example"}), 1),
        ({"type": "search_result", "source": "https://one", "title": "two", "content": words("three")}, 3),
        (
            {
                "type": "web_search_tool_result",
                "content": [{"title": "one", "url": "two"}],
            },
            2,
        ),
        ({"type": "web_search_tool_result", "content": {"type": "error", "error_code": "one"}}, 1),
        (
            {
                "type": "web_fetch_tool_result",
                "content": {
                    "type": "web_fetch_result",
                    "url": "one",
                    "content": document({"type": "text", "data": "two"}),
                },
            },
            2,
        ),
        ({"type": "code_execution_tool_result", "content": {"stdout": "one", "stderr": "two", "return_code": 3}}, 2),
        ({"type": "mcp_tool_result", "content": words("one", "two")}, 2),
        ({"type": "mcp_tool_use", "name": "one", "input": {"q": "two"}}, 2),
        ({"type": "server_tool_use", "name": "one", "input": {"query": "two"}}, 2),
        (
            {
                "type": "text_editor_code_execution_tool_result",
                "content": {"type": "replaced", "lines": ["one", "two"]},
            },
            2,
        ),
        ({"type": "tool_search_tool_result", "content": {"tool_references": [{"tool_name": "one"}]}}, 1),
        ({"type": "server_tool_use", "name": "x", "input": {"a": {"b": "one"}, "c": ["two"]}}, 2),
        (document({"type": "base64", "media_type": "text/plain", "data": "b25lIHR3bw=="}), 2),
        (document({"type": "base64", "media_type": "text/markdown; charset=utf-8", "data": "b25l\nIHR3bw=="}), 2),
        (document({"type": "base64", "media_type": "application/json", "data": "b25l"}), 1),
        ({"type": "compaction", "content": "one"}, 1),
        ({"type": "of_tomorrow", "body": "one", "parts": [{"value": "two", "encrypted_index": "three"}]}, 2),
        ({"type": "of_tomorrow", "body": "QUJDRA" * 100, "screen": "data:image/png;base64,QUJDRA", "title": "one"}, 1),
        ({"type": "of_tomorrow", "text": "one", "content": [{"content": [{"text": "two"}]}]}, 2),
    ],
)
def test_text_in_a_block_reaches_the_model(block: Block, seen: int) -> None:
    found = prepared(block)
    assert set(found) == {"type", "text"} and found["type"] == "text"
    assert sum(word in found["text"] for word in ("one", "two", "three")) == seen, found["text"]
    assert "QUJDRA" not in found["text"]


@pytest.mark.parametrize("source", [PDF, {"type": "file", "file_id": "file_1"}, {}, None])
def test_document_that_is_no_text_leaves_a_note(source: Any) -> None:
    assert DOCUMENT_NOTE in prepared({"type": "document", "source": source})["text"]


@pytest.mark.parametrize("kind", ["container_upload", "of_tomorrow"])
def test_block_without_text_leaves_a_note(kind: str) -> None:
    assert kind in prepared({"type": kind, "signature": "abc", "encrypted_content": "abc"})["text"]


def test_plain_document_is_only_its_text() -> None:
    assert prepared(document({"type": "text", "data": "one"})) == {"type": "text", "text": "one"}


def test_citations_and_cache_marks_are_dropped() -> None:
    block = {"type": "text", "text": "one", "citations": [{"cited_text": "x"}], "cache_control": {"type": "ephemeral"}}
    assert prepared(block) == {"type": "text", "text": "one"}


def test_image_in_any_block_is_a_note_for_a_text_model() -> None:
    assert prepared(IMAGE)["text"] == IMAGE_NOTE and prepared(IMAGE, VISION) == IMAGE
    assert IMAGE_NOTE in prepared({"type": "of_tomorrow", "content": [IMAGE]})["text"]


@pytest.mark.parametrize(
    "content", ["boom", words("boom"), words("x", "y"), "", None, [], "terrors of 1900", words("no errors were found")]
)
def test_failed_tool_result_says_so(content: Any) -> None:
    block = {"type": "tool_result", "tool_use_id": "t", "is_error": True, "content": content}
    assert "Error:" in json.dumps(prepared(block)["content"])


@pytest.mark.parametrize(
    "block",
    [
        {"type": "mcp_tool_result", "is_error": True, "content": words("boom")},
        {"type": "web_search_tool_result", "content": {"type": "error", "error_code": "boom"}},
        {"type": "of_tomorrow", "is_error": True, "text": "boom"},
    ],
)
def test_failed_result_of_any_kind_says_so(block: Block) -> None:
    text = prepared(block)["text"]
    assert "Error:" in text and "boom" in text


@pytest.mark.parametrize(
    "content", ["Error: boom", words("<tool_use_error>x</tool_use_error>"), "InputValidationError: x", "[ERROR] x"]
)
def test_failure_that_says_so_is_not_marked_twice(content: Any) -> None:
    block = {"type": "tool_result", "tool_use_id": "t", "is_error": True, "content": content}
    assert prepared(block)["content"] == content


@pytest.mark.parametrize("is_error", [False, None, "yes", 1])
def test_successful_tool_result_is_not_marked(is_error: Any) -> None:
    assert prepared({"type": "tool_result", "content": "fine", "is_error": is_error})["content"] == "fine"


def test_deep_block_is_cut() -> None:
    deep: Any = "bottom"
    for _ in range(200):
        deep = [deep]
    assert "bottom" not in prepared({"type": "of_tomorrow", "content": deep})["text"]


@given(ANYTHING)
@example([{"type": []}])
def test_any_block_is_prepared(value: Any) -> None:
    prepare_block({"type": "document", "source": value}, TEXT_ONLY, str)
    prepare_block({"type": "other", "content": value, "input": value, "source": value}, TEXT_ONLY, str)
    prepare_block({"type": "tool_result", "is_error": True, "content": value}, TEXT_ONLY, str)
