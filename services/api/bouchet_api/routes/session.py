"""/v1/session: how a browser signs in to the dashboard, stays signed in, and signs out."""

from __future__ import annotations

from typing import Annotated, Self

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, Field, model_validator

from bouchet_api.dashboard.sessions import LINK_S, SESSION_S, BrowserSession, SessionBook, cookie_name
from bouchet_api.openapi import examples

router = APIRouter(prefix="/v1/session", tags=["dashboard"])

NOT_KEPT = (
    "signed out, but Redis does not answer: should the API start again before it does, a copied cookie would work again"
)


class SignInRequest(BaseModel, hide_input_in_errors=True, extra="forbid"):
    """What a browser signs in with: the admin key, or the code of a one-time link."""

    key: str | None = Field(default=None, min_length=1, max_length=500, repr=False, description="BOUCHET_ADMIN_KEY")
    link: str | None = Field(default=None, min_length=1, max_length=100, repr=False, description="of `bouchet open`")

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if (self.key is None) == (self.link is None):
            raise ValueError("send either `key` or `link`")
        return self


class SessionInfo(BaseModel):
    """Whether this browser is signed in."""

    signed_in: bool
    token: str = Field(default="", description="to send in the header x-bouchet-token with every change")
    expires_at: int | None = Field(default=None, description="Unix time")
    note: str = Field(default="", description="what else there is to know; empty otherwise")


class SessionLink(BaseModel):
    """A link that opens the dashboard signed in, once."""

    path: str = Field(description="path and fragment of the page, to be opened on the API's own address")
    expires_in_s: int


@router.get("")
def get_session(request: Request) -> SessionInfo:
    """Return whether this browser is signed in, and the token of its session."""
    return _info(_book(request).find(request.headers))


@router.post("")
def sign_in(
    request: Request,
    response: Response,
    body: Annotated[SignInRequest, Body(openapi_examples=examples.SIGN_IN)],
) -> SessionInfo:
    """Sign in a browser: sets the cookie of a session, which lasts a week. A one-time link works once."""
    book = _book(request)
    cookie = book.open_with_key(body.key) if body.key is not None else book.open_with_link(body.link or "")
    response.set_cookie(cookie_name(request.headers), cookie, max_age=SESSION_S, httponly=True, samesite="strict")
    return _info(book.check(cookie))


@router.delete("")
def sign_out(request: Request, response: Response) -> SessionInfo:
    """Sign out: the session ends, also for whoever has copied its cookie."""
    book = _book(request)
    session = book.find(request.headers)
    is_kept = session is None or book.close(session)
    response.delete_cookie(cookie_name(request.headers), httponly=True, samesite="strict")
    return SessionInfo(signed_in=False, note="" if is_kept else NOT_KEPT)


@router.post("/link", status_code=201)
def make_link(request: Request) -> SessionLink:
    """Make a link that opens the dashboard signed in: once, and within a minute. For `bouchet open`."""
    # the code is in the fragment, which browsers send to no server
    return SessionLink(path=f"/#link={_book(request).new_link()}", expires_in_s=LINK_S)


def _book(request: Request) -> SessionBook:
    book: SessionBook = request.app.state.sessions
    return book


def _info(session: BrowserSession | None) -> SessionInfo:
    if session is None:
        return SessionInfo(signed_in=False)
    return SessionInfo(signed_in=True, token=session.token, expires_at=session.expires_at)
