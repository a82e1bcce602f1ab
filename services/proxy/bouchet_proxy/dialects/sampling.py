"""Values of sampling that the dialects allow and vLLM does not. Pure."""

from __future__ import annotations

from .tokens import Body

# vLLM wants more than 0; so little leaves the likeliest token alone, which is what 0 means
LEAST_TOP_P = 1e-6


def legal_sampling(body: Body) -> Body:
    """Return the body with a `top_p` of 0, which all dialects allow, as vLLM accepts it."""
    top_p = body.get("top_p")
    return {**body, "top_p": LEAST_TOP_P} if top_p == 0 and top_p is not False else body
