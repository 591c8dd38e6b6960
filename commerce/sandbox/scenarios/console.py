"""The second person: somebody who signs in at the console and agrees to what another has asked for.

Nothing but people decides an approval, so that a story which needs one goes through the console's own
pages, as a browser would: session, CSRF token, what was shown, and a reason.
"""

import re

import httpx

TOKEN, SHOWN = "csrfmiddlewaretoken", "fingerprint"


class Refused(Exception):
    """The console did not do what was asked; the message says what it answered."""


class Approver:
    """One person's session at the console, opened when it is needed first."""

    def __init__(self, base_url: str, username: str, password: str) -> None:
        self.username, self._password = username, password
        self._browser = httpx.Client(base_url=base_url, timeout=30, trust_env=False)
        self._signed_in = False

    def approve(self, approval_id: str, reason: str) -> None:
        """Agree to a request. Refused when this person may not, or the operation refuses."""
        if not self._signed_in:
            self._sign_in()
        path = f"/admin/console/approval/{approval_id}/do/approve/"
        page = self._read(path)
        self._submit(path, page, {SHOWN: _hidden(page, SHOWN), "reason": reason})

    def _sign_in(self) -> None:
        path = "/admin/login/"
        self._submit(path, self._read(path), {"username": self.username, "password": self._password})
        self._signed_in = True

    def _read(self, path: str) -> str:
        response = self._browser.get(path)
        if response.status_code != httpx.codes.OK:
            raise Refused(f"{path} answered {self.username} {response.status_code}")
        return response.text

    def _submit(self, path: str, page: str, fields: dict[str, str]) -> None:
        """What is done leads on to another page; what is refused is the same page again."""
        response = self._browser.post(path, data={TOKEN: _hidden(page, TOKEN), **fields})
        if response.status_code != httpx.codes.FOUND:
            said = re.findall(r'role="alert">([^<]*)<', response.text)
            raise Refused(f"{path} answered {self.username} {response.status_code}: {'; '.join(said)}")


def _hidden(page: str, name: str) -> str:
    """The value of a hidden field."""
    for field in re.findall(r"<input[^>]*>", page):
        if f'name="{name}"' in field and (value := re.search(r'value="([^"]*)"', field)):
            return value[1]
    raise Refused(f"the page has no field {name}")
