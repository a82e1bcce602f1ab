"""Google's own SDK against the proxy: an answer, a stream, a tool loop, counts, models, an error."""

from __future__ import annotations

import os

from google import genai
from google.genai import errors, types

MODEL = os.environ["PROXY_MODEL"]


def weather(city: str) -> str:
    """Return the weather of a city."""
    return f"sun in {city}"


def main() -> None:
    """Run all checks; an assertion ends the program."""
    options = types.HttpOptions(base_url=os.environ["PROXY_URL"])
    with genai.Client(api_key=os.environ["PROXY_KEY"], http_options=options) as client:
        answer = client.models.generate_content(model=MODEL, contents="SAY[hello]")
        assert answer.text == "hello" and answer.usage_metadata.total_token_count > 0, answer
        pieces = list(client.models.generate_content_stream(model=MODEL, contents="SAY[one two three]"))
        assert "".join(piece.text or "" for piece in pieces) == "one two three", pieces
        config = types.GenerateContentConfig(tools=[weather])
        chat = client.chats.create(model=MODEL, config=config)
        reply = chat.send_message('CALL[weather {"city": "Paris"}]')
        history = str(chat.get_history())
        assert reply.text and "sun in Paris" in history, history
        assert client.models.count_tokens(model=MODEL, contents="one two").total_tokens > 0
        assert MODEL in {one.name.removeprefix("models/") for one in client.models.list()}
        try:
            client.models.generate_content(model="gpt-99", contents="x")
        except errors.ClientError as exc:
            assert exc.code == 404 and exc.status == "NOT_FOUND", exc
        else:
            raise AssertionError("an unknown model answered")


main()
print("all right")
