"""How a value is written into generated text: one function per language, so that no value is ever read as more.

YAML is written by `yaml.safe_dump`, and Python's literals by `repr`.
"""

import re
import shlex
import unicodedata

from pipeline.core.errors import InputError

CRON_LINE = 998  # Debian's cron reads no longer command


def one_line(text: str) -> str:
    """A text for a comment or an option's line: without line ends and other control characters.

    >>> one_line("faq\\ntouch /tmp/x\\x1b[2J")
    'faq touch /tmp/x [2J'
    """
    return "".join(" " if controls(character) else character for character in text)


def controls(text: str) -> str:
    """The control characters of a text, and what no file can hold; line ends are among them."""
    return "".join(character for character in text if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"))


def shell(*words: str) -> str:
    """A command line of a POSIX shell.

    >>> shell("duplet", "run", "my faq.yaml")
    "duplet run 'my faq.yaml'"
    """
    return shlex.join(words)


def in_double_quotes(text: str) -> str:
    """A text for between a shell's double quotes.

    >>> in_double_quotes('$HOME "x"')
    '\\\\$HOME \\\\"x\\\\"'
    """
    return "".join(f"\\{character}" if character in '"$`\\' else character for character in text)


def cron_command(command: str) -> str:
    """A shell command for a crontab's line, where an unescaped % ends it and a backslash escapes both.

    Raises:
        InputError: cron would cut it.

    >>> cron_command("date +%F")
    'date +\\\\%F'
    """
    line = command.replace("\\", "\\\\").replace("%", "\\%")
    if controls(line) or len(line.encode()) > CRON_LINE:
        raise InputError(
            f"a crontab's command is one line of at most {CRON_LINE} bytes, this one has {len(line.encode())}: "
            "schedule from a folder of a shorter path, with a root of a shorter path"
        )
    return line


def jinja(text: str) -> str:
    """A text for a template of Jinja: whatever opens one of its blocks is written by a block itself.

    >>> jinja("/data/{{x}}")
    "/data/{{ '{{' }}x}}"
    """
    return re.sub(r"\{[{%#]", lambda match: f"{{{{ '{match[0]}' }}}}", text)
