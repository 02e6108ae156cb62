#!/usr/bin/env python3
"""manual.py - the manual page and the completions of a shell, made from what the program says of itself.

    manual.py man BINARY [DATE]     penstock.1
    manual.py bash BINARY           completions for bash

Both come from `penstock --help=markdown` (which is docs/options.md), so that an option is written once, in
src/tables/options.def.
"""
import re
import subprocess
import sys


def page(binary):
    return subprocess.run([binary, "--help=markdown"], capture_output=True, text=True, check=True).stdout


def cells(line):
    """The cells of a row of a table: a bar within one is written \\|."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


class Option:
    def __init__(self, row):
        names, self.variable, self.default, self.values, verbs, self.what = [cell.strip() for cell in row]
        self.names = re.findall(r"`([^`]+)`", names)
        self.variable = self.variable.strip("`")
        self.default = self.default.strip("`")
        self.verbs = verbs.split(", ")
        self.takes = " " in self.names[0]
        self.long = self.names[0].split(" ")[0]
        self.metavar = self.names[0].partition(" ")[2]


def read(text):
    """(exit statuses, [(verb, arguments, text)], [(title, [Option])])"""
    parts = re.split(r"^## (.+)$", text, flags=re.M)
    exits, verbs, groups = "", [], []
    for title, body in zip(parts[1::2], parts[2::2]):
        if title == "Exit status":
            exits = re.search(r"```\n(.*?)```", body, re.S).group(1)
        elif title == "Verbs":
            for name, arguments, words in re.findall(r"^### penstock (\S+) ?([^\n]*)\n\n```\n(.*?)```", body, re.M | re.S):
                verbs.append((name, arguments, words))
        else:
            rows = [Option(cells(line)) for line in body.splitlines() if line.startswith("| `--")]
            if rows:
                groups.append((title, rows))
    if not (exits and verbs and groups):
        raise SystemExit("manual.py: --help=markdown has another form than expected")
    return exits, verbs, groups


def roff(text):
    """Text in which nothing is a request or an escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga").replace("^", "\\(ha").replace("~", "\\(ti")
    return re.sub(r"^([.])", r"\\&\1", text, flags=re.M)


def prose(text):
    """Paragraphs are filled, lines that begin with two spaces are shown as they are."""
    out, shown = [], False
    for line in text.rstrip().splitlines():
        is_example = line.startswith("  ")
        if is_example != shown and (is_example or line):
            out.append(".PP\n.nf\n.RS 4" if is_example else ".RE\n.fi\n.PP")
            shown = is_example
        if line:
            out.append(roff(line[2:] if is_example else line))
        elif not shown:
            out.append(".PP")
    if shown:
        out.append(".RE\n.fi")
    joined = "\n".join(out)
    return re.sub(r"(?:\.PP\n)+(?=\.PP)", "", joined)


def man(text, version, date):
    exits, verbs, groups = read(text)
    out = ['.TH PENSTOCK 1 "%s" "penstock %s" "User Commands"' % (date, version),
           ".SH NAME", "penstock \\- serves machine\\-learning models over REST and gRPC, from one port", ".SH SYNOPSIS"]
    for i, (verb, arguments, _) in enumerate(verbs):
        out += ([".br"] if i else []) + ["\\fBpenstock %s\\fR %s[\\fIOPTIONS\\fR]" % (roff(verb), roff(arguments) + " " if arguments else "")]
    out += [".SH DESCRIPTION",
            "Penstock serves models to HTTP/1.1, HTTP/2, gRPC, gRPC\\-Web, WebSocket and server\\-sent events, all on one port,",
            "and asks servers of models from the command line."]
    for verb, _, words in verbs:
        out += [".SS penstock " + roff(verb), prose(words)]
    out += [".SH OPTIONS",
            "Each option is also a variable of the environment (\\fB\\-\\-max\\-body\\fR: \\fBPENSTOCK_MAX_BODY\\fR) and a key of the YAML",
            "file that \\fB\\-\\-config\\fR names (\\fBmax\\-body\\fR). The command line wins over the environment, that over the file."]
    for title, options in groups:
        out.append(".SS " + roff(title))
        for option in options:
            names = ", ".join("\\fB%s\\fR%s" % (roff(name.split(" ")[0]), " \\fI%s\\fR" % roff(option.metavar) if option.metavar else "") for name in option.names)
            facts = [", ".join(option.verbs)]
            if option.values:
                facts.append(option.values)
            if option.default:
                facts.append("default " + option.default)
            out += [".TP", names, roff(option.what + "."), "(%s)" % roff("; ".join(facts))]
    out += [".SH EXIT STATUS"]
    for line in exits.splitlines():
        number, _, words = line.partition("  ")
        out += [".TP", "\\fB%s\\fR" % number.strip(), roff(words.strip())]
    out += [".SH FILES", ".TP", "\\fI/etc/penstock/penstock.yaml\\fR", "The configuration of the service (Debian package).",
            ".TP", "\\fI/var/lib/penstock/models\\fR", "The models of the service.",
            ".TP", "\\fIPREFIX/lib/penstock\\fR", "Runtimes, beside the program in \\fIPREFIX/bin\\fR.",
            ".SH SEE ALSO", "\\fBsystemctl\\fR(1), \\fBcurl\\fR(1)", ""]
    return "\n".join(out)


BASH = """# Completions of penstock for bash, made by packaging/manual.py.
_penstock()
{
    local cur prev words cword verb= i
    _init_completion -n : 2>/dev/null || { cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}; words=("${COMP_WORDS[@]}") cword=$COMP_CWORD; }
    for ((i = 1; i < cword; i++)); do
        case ${words[i]} in -*) ;; *) verb=${words[i]}; break ;; esac
    done
    case $prev in
%(choices)s
    %(files)s) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    esac
    case $verb in
    '') COMPREPLY=($(compgen -W '%(verbs)s --help --version' -- "$cur")) ;;
%(options)s
    esac
    [[ $cur == -* || ${#COMPREPLY[@]} -gt 0 ]] || COMPREPLY=($(compgen -f -- "$cur"))
}
complete -o filenames -F _penstock penstock
"""


def bash(text):
    _, verbs, groups = read(text)
    options = [option for _, rows in groups for option in rows]
    lines = []
    for verb, _, _ in verbs:
        names = []
        for option in options:
            if verb in option.verbs:
                names += [name.split(" ")[0] for name in option.names if name.startswith("--")]
        lines.append("    %s) [[ $cur != -* ]] || COMPREPLY=($(compgen -W '%s' -- \"$cur\")) ;;" % (verb, " ".join(names)))
    choices = ["    %s) COMPREPLY=($(compgen -W '%s' -- \"$cur\")); return ;;" % (option.long, option.values.replace("|", " "))
               for option in options if "|" in option.values]
    files = [option.long for option in options if option.metavar in ("PATH", "FILE", "DIR")]
    return BASH % {"choices": "\n".join(choices), "files": "|".join(files), "verbs": " ".join(verb for verb, _, _ in verbs), "options": "\n".join(lines)}


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("man", "bash"):
        raise SystemExit(__doc__)
    text = page(sys.argv[2])
    if sys.argv[1] == "man":
        version = subprocess.run([sys.argv[2], "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
        sys.stdout.write(man(text, version, sys.argv[3] if len(sys.argv) > 3 else ""))
    else:
        sys.stdout.write(bash(text))


if __name__ == "__main__":
    main()
