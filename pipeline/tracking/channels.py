"""Ways to tell people: Slack's webhook, a plain one, mail. Each is told once, and gets no more than half a minute."""

import html
import http.client
import json
import os
import smtplib
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from typing import Any, NamedTuple

from pipeline.config import MessagesConfig
from pipeline.config.nights import MailConfig
from pipeline.core.errors import InputError, TryAgain, one_line

PASSWORD = "DUPLET_MAIL_PASSWORD"
ANSWER_S, WHOLE_S = 10.0, 30.0  # for each answer, and for all of it: a server may send a byte now and then for ever


class Message(NamedTuple):
    """What people are told of a night."""

    schedule: str
    due: str
    exit_code: int
    reason: str
    run: str  # where its MLflow run is seen; "" where there is none
    log: str
    host: str

    @property
    def title(self) -> str:
        """For a mail's subject, and the first line of a text."""
        return f"Duplet {self.schedule} {self.due}: {'well' if self.exit_code == 0 else f'exit {self.exit_code}'}"

    @property
    def text(self) -> str:
        """For people."""
        lines = [self.reason, f"run: {self.run}" if self.run else "no run in MLflow", f"log: {self.host}:{self.log}"]
        return "\n".join(lines)


def named(settings: MessagesConfig) -> Iterator[tuple[str, Callable[[Message], None]]]:
    """The ways that are set, each with what sends a message that way; that raises TryAgain or InputError."""
    if settings.slack:
        yield "slack", lambda message: _post(settings.slack or "", {"text": _slack_text(message)})
    if settings.webhook:
        yield "webhook", lambda message: _post(settings.webhook or "", message._asdict())
    if settings.mail.host:
        yield "mail", lambda message: _mail(settings.mail, message)


def send(way: Callable[[Message], None], message: Message) -> str | None:
    """Sends; None where it was taken, else why not."""
    return _in_time(lambda: way(message))


def ping(address: str) -> str | None:
    """Asks for an address; None where it answers well, else why not."""
    return _in_time(lambda: _ask(urllib.request.Request(address)))


def _in_time(work: Callable[[], None]) -> str | None:
    """Why some work failed, None where it did not. It takes half a minute at most, whatever the other side does."""
    became: list[str | None] = [f"did not end within {WHOLE_S:.0f} s"]

    def tried() -> None:
        try:
            work()
            became[0] = None
        except Exception as error:
            became[0] = one_line(error, 200)

    thread = threading.Thread(target=tried, daemon=True)
    thread.start()
    thread.join(WHOLE_S)
    return became[0]


def _slack_text(message: Message) -> str:
    """Slack reads &, < and > as marks of its own."""
    return html.escape(f"*{message.title}*\n{message.text}", quote=False)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A redirected message would become a question without content, sent to somebody else."""


def _post(address: str, content: dict[str, Any]) -> None:
    data = json.dumps(content).encode()
    _ask(urllib.request.Request(address, data, {"Content-Type": "application/json"}, method="POST"))


def _ask(request: urllib.request.Request) -> None:
    where = request.host  # the rest of the address may be a secret
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=ANSWER_S):
            pass
    except urllib.error.HTTPError as error:
        raise TryAgain(f"{where} answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise TryAgain(f"{where} does not answer ({type(reason).__name__}: {one_line(reason, 100)})") from None


def _mail(settings: MailConfig, message: Message) -> None:
    mail = EmailMessage()
    mail["Subject"] = one_line(message.title)
    mail["From"], mail["To"] = settings.sender or settings.to[0], ", ".join(settings.to)
    mail.set_content(message.text)
    where = f"{settings.host}:{settings.port}"
    try:
        with _connected(settings) as server:
            if settings.user is not None:
                password = os.environ.get(PASSWORD)
                if not password:
                    raise InputError(f"no password for {settings.user} at {where}: set {PASSWORD}")
                server.login(settings.user, password)
            refused = server.send_message(mail)
    except smtplib.SMTPRecipientsRefused as error:
        raise TryAgain(f"mail server {where} refuses {', '.join(error.recipients)}") from None
    except smtplib.SMTPResponseException as error:
        detail = one_line(error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else "", 100)
        raise TryAgain(f"mail server {where} refuses ({error.smtp_code} {detail})") from None
    except (OSError, smtplib.SMTPException) as error:
        raise TryAgain(f"mail server {where} cannot be used ({type(error).__name__}: {one_line(error, 100)})") from None
    if refused:
        raise TryAgain(f"mail server {where} refuses {', '.join(refused)}")


def _connected(settings: MailConfig) -> smtplib.SMTP:
    host, context = settings.host or "", ssl.create_default_context()
    if settings.security == "tls":
        return smtplib.SMTP_SSL(host, settings.port, timeout=ANSWER_S, context=context)
    server = smtplib.SMTP(host, settings.port, timeout=ANSWER_S)
    if settings.security == "starttls":
        try:
            server.starttls(context=context)
        except BaseException:
            server.close()
            raise
    return server


def host() -> str:
    """This machine's name."""
    return socket.gethostname()
