"""`duplet completion`: what a shell needs to complete verbs, options, settings, configurations and indexes."""

import argparse
import re
import sys
from pathlib import Path

SCRIPTS = {
    "bash": """\
_duplet() {
    local IFS=$'\\n'
    COMPREPLY=($(duplet completion candidates -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    [[ ${COMPREPLY[0]} == *[=/] ]] && compopt -o nospace
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o default -F _duplet duplet
""",
    "zsh": """\
_duplet() {
    local -a found
    found=("${(@f)$(duplet completion candidates -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n $found ]]; then compadd -Q -S '' -- "${found[@]}"; else _files; fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _duplet duplet
""",
    "fish": """\
complete -c duplet -a '(duplet completion candidates -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
""",
}
# What the words of a verb may be, by their name in its `arguments`; all others are files, which the shell completes.
CONFIGURED, INDEXED, SETTINGS = {"config", "model", "run", "runs"}, {"index"}, "overrides"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which shell; or the words typed so far."""
    parser.add_argument("shell", choices=(*SCRIPTS, "candidates"), help="prints its script; candidates: for the script")
    parser.add_argument("words", nargs="*", help="candidates: the words after duplet, the last of which is completed")


def run(args: argparse.Namespace) -> int:
    """Prints the script, or what the last word may become, one a line."""
    if args.shell != "candidates":
        print(SCRIPTS[args.shell], end="")
        return 0
    sys.stdout.write("".join(f"{candidate}\n" for candidate in candidates(args.words or [""])))
    return 0


def candidates(words: list[str]) -> list[str]:
    """What the last word may become: a verb, an option, a setting, a value of one, a configuration, an index."""
    from pipeline.cli.main import VERBS

    *before, last = words
    if not before:
        return [verb for verb in VERBS if verb.startswith(last)]
    verb = before[0]
    if verb not in VERBS:
        return []
    choices = _choices(verb, before)
    all_candidates = [*_options(verb, before, last), *_words(verb, before, last)] if choices is None else choices
    return sorted({candidate for candidate in all_candidates if candidate.startswith(last)})


def _actions(verb: str) -> list[argparse.Action]:
    """What the verb takes: its options and words."""
    from pipeline.cli.main import parser

    chosen = parser(verb)._subparsers
    assert chosen is not None
    return list(chosen._group_actions[0].choices[verb]._actions)  # type: ignore[index]


def _choices(verb: str, before: list[str]) -> list[str] | None:
    """The values of the option before the last word; [] of one that takes any; None: there is no such option."""
    for action in _actions(verb):
        if before[-1] in action.option_strings and action.nargs != 0:
            return [str(choice) for choice in action.choices or ()]
    return None


def _options(verb: str, before: list[str], last: str) -> list[str]:
    """The verb's options; of a verb whose first word is one of a few, those."""
    if last.startswith("-"):
        return [name for action in _actions(verb) for name in action.option_strings if name.startswith("--")]
    actions = [action for action in _actions(verb) if not action.option_strings and action.choices]
    return [str(choice) for action in actions for choice in action.choices or ()] if len(before) == 1 else []


def _words(verb: str, before: list[str], last: str) -> list[str]:
    if last.startswith("-"):
        return []
    if verb == "demo":
        from pipeline.cli.commands.demo import CONFIGURATIONS

        return [path.stem for path in CONFIGURATIONS.glob("*.yaml")]
    if verb in ("config",) and before[-1:] == ["explain"]:
        return _settings(last.rpartition(".")[0])
    takes = {action.dest for action in _actions(verb) if not action.option_strings and action.metavar != "RUN_ID"}
    begun = [word for word in before[1:] if word.endswith((".yaml", ".yml")) or takes & INDEXED]
    if SETTINGS in takes and begun:
        return _values(last) if "=" in last else [f"{name}=" for name in _settings("", leaves=True)]
    if takes & CONFIGURED:
        return _files(last, (".yaml", ".yml"))
    return _indexes(last) if takes & INDEXED else []


def _settings(path: str, leaves: bool = False) -> list[str]:
    from pipeline.config import config_model, explain

    sections = explain.sections(config_model())
    names = [setting.path for section in sections for setting in section.settings]
    return names if leaves else [*names, *(section.path for section in sections if section.path)]


def _values(last: str) -> list[str]:
    """`model.head=` as far as it is typed -> its values."""
    from pipeline.config import config_model, explain

    path = last.partition("=")[0]
    for section in explain.sections(config_model()):
        for setting in section.settings:
            if setting.path == path:
                words = re.split(r", or |, | or ", setting.values)
                return [f"{path}={word}" for word in words if word and " " not in word]
    return []


def _files(last: str, endings: tuple[str, ...]) -> list[str]:
    """Files of these endings, and folders, in the folder of what is typed."""
    folder, _, _ = last.rpartition("/")
    shown = f"{folder}/" if "/" in last else ""
    try:
        entries = list(Path(shown or ".").expanduser().iterdir())
    except OSError:
        return []
    visible = [entry for entry in entries if not entry.name.startswith(".")]
    return [f"{shown}{entry.name}{'/' if entry.is_dir() else ''}" for entry in visible
            if entry.is_dir() or entry.name.endswith(endings)]  # fmt: skip


def _indexes(last: str) -> list[str]:
    return [name.rstrip("/") if (Path(name).expanduser() / "index.json").exists() else name
            for name in _files(last, ("/",))]  # fmt: skip
