"""Settings of what happens around a scheduled night: late data, checks before training, messages, what is kept."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.config.base import Place, Positive, Settings, Share

Minutes = Annotated[int, Field(ge=0, le=10_080)]


def _address(text: str) -> str:
    if not re.match(r"https?://[^/\s]+", text):
        raise ValueError("must be an address that begins with https:// or http://")
    return text


def _clock(text: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text):
        raise ValueError("must be a time such as 08:00")
    return text


Address = Annotated[str, AfterValidator(_address)]
Clock = Annotated[str, AfterValidator(_clock)]
Ratio = Annotated[float, Field(gt=0)]


class WaitForConfig(Settings):
    """Data that may come late: a night waits for it, and is caught up later where it does not come in time."""

    path: Place | None = Field(
        default=None,
        description="File, folder or pattern of names (*) that must be there before the night begins; {date} and "
        "{time} are filled in. null: waits for nothing.",
        examples=["logs/{date}.jsonl"],
    )
    min_mb: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="Minimum size of all files together, in MiB."
    )
    max_wait_min: Minutes = Field(
        default=240,
        description="Minutes to wait. Then the night ends with exit code 75. The nights of the next week try it "
        "again; in Airflow and Argo a person does.",
    )


class ChecksConfig(Settings):
    """What a night's data may differ by from the median of the good nights before it; else training does not begin."""

    nights: Annotated[int, Field(ge=0, le=366)] = Field(
        default=7, description="Good nights that the median is of. 0: nothing is checked."
    )
    least_nights: Positive = Field(
        default=3, description="Good nights that there must be; before, data passes unchecked, and the log says so."
    )
    rows_from: Ratio | None = Field(
        default=0.5, description="Minimum number of records kept, as a multiple of the median. null: not checked."
    )
    rows_to: Ratio | None = Field(
        default=2.0, description="Maximum number of records kept, as a multiple of the median. null: not checked."
    )
    put_aside: Share | None = Field(
        default=0.05, description="How far the share of rows put aside may lie above the median. null: not checked."
    )
    label_shares: Share | None = Field(
        default=0.15, description="How far the share of any label may lie from the median. null: not checked."
    )
    lengths: Annotated[float, Field(gt=1)] | None = Field(
        default=1.5,
        description="How many times as long, or as short, a field's texts may be as the median, in mean tokens. null: "
        "not checked.",
    )
    unknown_tokens: Share | None = Field(
        default=0.05,
        description="How far the share of tokens unknown to the vocabulary may lie above the median. null: not "
        "checked.",
    )
    drift: Annotated[float, Field(gt=0)] | None = Field(
        default=0.25,
        description="Maximum population stability index of the queries' words, or of their lengths, beside the nights "
        "before. null: not checked.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> "ChecksConfig":
        if self.rows_from is not None and self.rows_to is not None and self.rows_from > self.rows_to:
            raise ValueError(f"rows_from={self.rows_from:g} is above rows_to={self.rows_to:g}")
        if self.nights and self.least_nights > self.nights:
            raise ValueError(f"least_nights={self.least_nights} is more than nights={self.nights}")
        return self


class MailConfig(Settings):
    """Mail by SMTP. The password is taken from the variable DUPLET_MAIL_PASSWORD."""

    host: str | None = Field(default=None, description="Mail server. null: no mail.", examples=["mail.example.com"])
    port: Annotated[int, Field(ge=1, le=65_535)] = Field(default=587, description="Port of the mail server.")
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="starttls, tls (from the first byte) or none, which is refused beside user."
    )
    user: str | None = Field(default=None, description="Name at the mail server. null: no login.")
    sender: str | None = Field(default=None, description="Address that mail comes from. null: the first of to.")
    to: tuple[str, ...] = Field(
        default=(), description="Addresses that mail goes to.", examples=[["search-team@example.com"]]
    )

    @model_validator(mode="after")
    def _whole(self) -> "MailConfig":
        if self.host is not None and not self.to:
            raise ValueError("to must name an address, since host is given")
        if self.user is not None and self.security == "none":
            raise ValueError("security=none would send the password in the clear: use starttls or tls")
        for address in (*self.to, *([self.sender] if self.sender else [])):
            if not re.fullmatch(r"[^@\s,;<>]+@[^@\s,;<>]+", address):
                raise ValueError(f"{address!r} is not a mail address")
        return self


class MessagesConfig(Settings):
    """Who is told of a night that was not normal, once, with the reason and the run's address."""

    slack: Address | None = Field(
        default=None,
        description="Slack's incoming webhook; write ${SLACK_WEBHOOK}, since whoever has it can write. null: none.",
        examples=["https://hooks.slack.com/services/T0/B0/x"],
    )
    webhook: Address | None = Field(
        default=None, description="Address that a plain JSON object is posted to. null: none.",
        examples=["https://example.com/nights"],
    )  # fmt: skip
    mail: MailConfig = MailConfig()
    ping: Address | None = Field(
        default=None,
        description="Address asked for after each night with a verdict, such as that of a monitor which raises the "
        "alarm when nothing comes. null: none.",
        examples=["https://hc.example.com/ping/nightly"],
    )
    verdict_by: Clock | None = Field(
        default=None,
        description="Time of day, on the schedule's clock, at which a message is sent if the last date has no verdict. "
        "null: never.",
        examples=["08:00"],
    )
    normal_too: bool = Field(default=False, description="Sends a message of normal nights as well.")


class KeepConfig(Settings):
    """What `duplet gc` leaves, run after each night of a schedule where nights is given."""

    nights: Positive | None = Field(
        default=None, description="Newest nights that are kept. null: nothing is removed.", examples=[14]
    )
    champions: Positive = Field(
        default=5, description="Newest versions that were champion and are kept, besides the one that is."
    )


class NightsConfig(Settings):
    """What happens around a scheduled night; see docs/jobs.md."""

    wait_for: WaitForConfig = WaitForConfig()
    checks: ChecksConfig = ChecksConfig()
    messages: MessagesConfig = MessagesConfig()
    keep: KeepConfig = KeepConfig()
