"""The command line: what may be said in a shell, all of it checked before anything is sent. Pure.

What comes out, a ``Plan``, is trusted by ``_command``. No message repeats what may be a secret: the value of a header,
a password, or what stands where nothing was expected.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn, Optional, Union
from urllib.parse import quote

from ._options import HeaderTable, Pairs, Timeout, check_framing_header, parse_options
from ._values import FORM, JSON
from ._version import __version__

NAME = "clientrequest"
STANDARD = "-"  # in the place of a file: standard input, or standard output

# The exit codes; a signal gives 128 and its number, as in a shell.
DONE, FAILED, USAGE, LOCAL, REFUSED = 0, 1, 2, 3, 22

_DESCRIPTION = """\
Make an HTTP request, and write the body of the answer to standard output as
it arrives. A body is sent while it is read, be it from a pipe that never ends.

  METHOD  such as PUT; unless you say otherwise GET, or POST if there is a body
  URL     http://... or https://...
"""
_EPILOG = """\
examples:
  clientrequest https://example.com/
  clientrequest -o data.zip https://example.com/data.zip
  tar cz photos | clientrequest -T - https://example.com/upload
  clientrequest PUT -T disk.img -u ada https://example.com/images/disk
  clientrequest -F title=Harbour -F photo=@a.jpg https://example.com/photos
  clientrequest --json '{"name": "ada"}' https://example.com/users

standard input as the body, or as a file of a form:
  Ctrl-C, and an error while it is read, abort the request: the server is never
  told that half a body was all of it. But a pipe whose writer died looks like
  one whose writer is done. Where that matters, use -T and say how much has to
  come (-H 'Content-Length: N'): anything shorter is then an error, and no
  upload. Or have the shell look at the writer afterwards (set -o pipefail).
  A redirect or a login may want the body once more. A file is read again then;
  of a pipe the first 16 MiB are kept for that, and beyond them it is an error.

exit codes:
  0    there was an answer, and all of it came
  1    the request failed: no connection, broken off, too late, not HTTP, ...
  2    the command line is wrong; nothing was sent
  3    a file, standard input or standard output could not be read or written
  22   with --fail: there was an answer, and its status is 400 or more
  130  Ctrl-C; 143 and 129 for the signals TERM and HUP
  141  whoever read standard output has gone (as with "| head")

With the extra clientrequest[cli] progress is a bar in colours.
"""


class FormPart(NamedTuple):
    """One field of a form, or one file.

    Attributes:
        name: of the field.
        value: of a field; of a file it is empty.
        path: of a file, or ``STANDARD``; ``None`` for a field.
        filename, content_type: what to say of a file; ``None`` for what its path tells.
    """

    name: str
    value: bytes
    path: Optional[str] = None
    filename: Optional[str] = None
    content_type: Optional[str] = None


class Plan(NamedTuple):
    """What to do.

    Attributes:
        options: for ``ClientRequest``; the URL may hold user and password.
        data: the body, if it stands in the command line.
        upload: the path of the file that is the body, or ``STANDARD``.
        form: the parts of the form that is the body.
        user: whose password is to be asked for; ``None`` to ask for the name too.
        asks: whether a login may be asked for at the terminal.
        proxy: its URL; empty for none at all, ``None`` for what the environment says.
        authorities: the path of those to trust; ``None`` for certifi's.
        certificate: the path of the one to show, or the paths of it and its key.
        fail: whether a status of 400 or more is a failure.
        output: the path of the file for the body, ``STANDARD`` for standard output whatever it is.
        include: whether the head of the answer is wanted.
        verbose, quiet: what to show on the way.
    """

    options: dict[str, Any]
    data: Optional[bytes]
    upload: Optional[str]
    form: tuple[FormPart, ...]
    user: Optional[str]
    asks: bool
    proxy: Optional[str]
    authorities: Optional[str]
    certificate: Union[str, tuple[str, str], None]
    fail: bool
    output: Optional[str]
    include: bool
    verbose: bool
    quiet: bool

    @property
    def is_streamed(self) -> bool:
        """Whether the body is read from somewhere while it is sent."""
        return self.upload is not None or bool(self.form)

    @property
    def reads_standard_input(self) -> bool:
        return STANDARD in (self.upload, *(part.path for part in self.form))


def parse_command_line(arguments: Sequence[str]) -> Plan:
    """Understand what stands behind the name of the command.

    Raises:
        SystemExit: with 0 after ``--help`` and ``--version``, with ``USAGE`` and a message on stderr for a mistake.
    """
    parser = _make_parser()
    # Intermixed: options may also stand between METHOD and URL.
    given, unknown = parser.parse_known_intermixed_args(list(arguments))
    places = given.places
    if unknown or not 1 <= len(places) <= 2:
        parser.error(_misplaced(places, unknown))
    try:
        return _make_plan(given, "".join(places[:-1]), places[-1])
    except (TypeError, ValueError) as error:
        parser.error(re.sub(r"^option '(\w+)'", lambda match: _SPOKEN.get(match[1], match[1]), str(error)))


# What is an option elsewhere, and is not here.
_HINTS = {
    "-X": "METHOD stands before URL",
    "--request": "METHOD stands before URL",
    "-L": "redirects are followed anyway",
    "--location": "redirects are followed anyway",
    "-k": "--cacert FILE says whom to trust",
    "--insecure": "--cacert FILE says whom to trust",
}
_SPOKEN = {"url": "URL", "method": "METHOD", "headers": "-H", "timeout.total": "--max-time"}


def _misplaced(places: Sequence[str], unknown: Sequence[str]) -> str:
    options = [text.partition("=")[0] for text in unknown if text.startswith("--")]
    # A short option may have a value right behind its letter.
    options += [text[:2] for text in unknown if re.match("-[^-]", text)]
    if options:
        hints = [_HINTS[option] for option in options if option in _HINTS]
        return "; ".join([f"unknown option {', '.join(options)}", *hints])
    count = len(places) + len(unknown)
    return "a URL is missing" if not count else f"expected [METHOD] URL, got {count} arguments; quote what has spaces"


# --- what there is ---------------------------------------------------------------------------------------------------


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help in which an option with two names shows its value once."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        names = ", ".join(action.option_strings)
        return f"{names} {action.metavar}" if action.nargs != 0 else names


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{NAME}: {message}\nTry: {NAME} --help\n")


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=NAME,
        usage=f"{NAME} [OPTION ...] [METHOD] URL",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=_Formatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("places", nargs="*", metavar="[METHOD] URL", help=argparse.SUPPRESS)
    _add_body(parser)
    _add_request(parser)
    _add_connection(parser)
    _add_output(parser)
    return parser


def _add_body(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the body, from one place")
    one = group.add_mutually_exclusive_group()
    one.add_argument(
        "-T",
        "--upload",
        metavar="FILE",
        type=_path,
        help="a file, whose length is announced; - is standard input, sent in chunks while it comes. A pipe also ends "
        "when its writer crashes, whose exit status cannot be seen from here: see below",
    )
    one.add_argument(
        "-d",
        "--data",
        metavar="TEXT",
        action="append",
        help="a form, such as 'name=ada&age=36', sent as it is; a second one is joined to it by &. It goes as "
        "application/x-www-form-urlencoded unless -H says otherwise",
    )
    one.add_argument("--json", metavar="TEXT", help="JSON, which is checked first; sent as it is")
    one.add_argument(
        "-F",
        "--form",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=_form_part,
        help="a field of a form (multipart/form-data), or with NAME=@FILE a file, which is read while it is sent; @- "
        "is standard input. Behind FILE may stand ;type=image/png and ;filename=other.png. May be repeated",
    )
    group.add_argument("--chunked", action="store_true", help="in chunks, without announcing the length")


def _add_request(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the request")
    group.add_argument(
        "-H",
        "--header",
        metavar="LINE",
        action="append",
        default=[],
        type=_header,
        help="such as 'Accept: text/plain'; may be repeated",
    )
    group.add_argument(
        "-u",
        "--user",
        metavar="NAME[:PASS]",
        type=_user,
        help="for a login at the server of URL, once it asks for one. Better without the password, which others may "
        "see here: it is asked for at the terminal then, and so is the name without this option",
    )
    group.add_argument("--no-follow", action="store_true", help="a redirect is the answer, and not followed")
    group.add_argument("--compressed", action="store_true", help="ask for a compressed answer, and unpack it")


def _add_connection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the connection")
    group.add_argument(
        "--proxy",
        metavar="URL",
        help="instead of those in the environment; '' for none. http://, https://, socks5://, ... with user:password@ "
        "where it wants a login",
    )
    seconds: dict[str, Any] = {"metavar": "SEC", "type": _seconds}
    group.add_argument(
        "--timeout", **seconds, help="seconds for connecting, and without a byte to come or to go; else 30, 300, 300"
    )
    group.add_argument("--connect-timeout", **seconds, help="seconds for connecting")
    group.add_argument("--max-time", **seconds, help="seconds for all of it; else there is no limit")
    group.add_argument(
        "--cacert", metavar="FILE", type=_path, help="authorities to trust instead of certifi's; a folder too"
    )
    group.add_argument("--cert", metavar="FILE", type=_path, help="a certificate to show, with its key or with --key")
    group.add_argument("--key", metavar="FILE", type=_path, help="the key of --cert")


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what comes out")
    group.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=_path,
        help="the body goes there. FILE appears, or is replaced, once all of it is here, and is left as it was if "
        "anything goes wrong; - is standard output even if it is a terminal and the body is not text",
    )
    group.add_argument("-i", "--include", action="store_true", help="show the head of the answer too")
    group.add_argument(
        "-f", "--fail", action="store_true", help="a status of 400 or more is a failure: no body, and exit code 22"
    )
    group.add_argument("-v", "--verbose", action="store_true", help="tell what happens, and when, on standard error")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress; at a terminal there is some")
    group.add_argument("-h", "--help", action="help", help="show this, and exit")
    group.add_argument(
        "--version", action="version", version=f"{NAME} {__version__}", help="show the version, and exit"
    )


# --- the values of options -------------------------------------------------------------------------------------------


def _path(text: str) -> str:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("expected the path of a file")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError("expected a number of seconds, more than 0")
    return seconds


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("expected 'Name: value'")
    try:
        HeaderTable([(name, value)])
        check_framing_header(name, value.strip(), chunked=False)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name, value.strip()


def _form_part(text: str) -> FormPart:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError("expected NAME=VALUE or NAME=@FILE")
    if not value.startswith("@"):
        return FormPart(name, _typed(value))
    path, *options = re.split(";(type|filename)=", value[1:])
    said = dict(zip(options[::2], options[1::2]))
    if not all(said.values()):
        raise argparse.ArgumentTypeError("expected something behind ;type= and ;filename=")
    return FormPart(name, b"", _path(path), said.get("filename"), said.get("type"))


def _user(text: str) -> tuple[str, Optional[str]]:
    name, colon, password = text.partition(":")
    if not name or not text.isprintable():
        raise argparse.ArgumentTypeError("expected NAME or NAME:PASS, without control characters")
    return name, password if colon else None


# --- what they come to -----------------------------------------------------------------------------------------------


def _make_plan(given: argparse.Namespace, method: str, url: str) -> Plan:
    if "://" in method:
        raise ValueError("METHOD comes before URL")
    data, headers = _body_and_headers(given)
    has_body = data is not None or given.upload is not None or bool(given.form)
    if given.chunked and not has_body:
        raise ValueError("--chunked needs a body: -T, -F, -d or --json")
    if [part.path for part in given.form].count(STANDARD) > 1:
        raise ValueError("-F: standard input can be read only once")
    if given.key is not None and given.cert is None:
        raise ValueError("--key needs --cert")
    options = {
        "url": url,
        "method": method or ("POST" if has_body else "GET"),
        "headers": headers,
        "chunked_encoding": given.chunked,
        "redirect": "manual" if given.no_follow else "follow",
        "timeout": _timeout(given),
        "decode": given.compressed,
    }
    target = parse_options(options, {}).target  # raises for what is wrong
    user, password = given.user or (target.username, target.password)
    if user is not None:
        options["url"] = _with_user(url, user, password)
    return Plan(
        options,
        data,
        given.upload,
        tuple(given.form),
        user,
        asks=password is None,
        proxy=given.proxy,
        authorities=given.cacert,
        certificate=given.cert if given.key is None else (given.cert, given.key),
        fail=given.fail,
        output=given.output,
        include=given.include,
        verbose=given.verbose,
        quiet=given.quiet,
    )


def _body_and_headers(given: argparse.Namespace) -> tuple[Optional[bytes], Pairs]:
    """The body that stands in the command line, and the headers with those that go with a body."""
    headers: Pairs = list(given.header)
    names = {name.lower() for name, _ in headers}
    data: Optional[bytes] = None
    usual: Pairs = []
    if given.json is not None:
        data = _checked_json(given.json)
        usual = [("Content-Type", JSON), ("Accept", JSON)]
    elif given.data is not None:
        data = _typed("&".join(given.data))
        usual = [("Content-Type", FORM)]
    elif given.user is not None and (given.upload is not None or any(part.path for part in given.form)):
        usual = [("Expect", "100-continue")]  # so that the server can ask for the login before the body is on its way
    for name in ("Content-Type", "Content-Length"):
        if given.form and name.lower() in names:
            raise ValueError(f"-H: {name} is not allowed together with -F, which makes it")
    length = [value for name, value in headers if name.lower() == "content-length"]
    if data is not None and length and int(length[0]) != len(data):
        raise ValueError(f"-H: Content-Length is {length[0]}, and the body has {len(data)} bytes")
    if given.chunked and length:
        raise ValueError("-H: Content-Length is not allowed together with --chunked")
    return data, headers + [pair for pair in usual if pair[0].lower() not in names]


def _typed(text: str) -> bytes:
    """The very bytes that were typed, be they UTF-8 or not."""
    return text.encode("utf-8", "surrogateescape")


def _checked_json(text: str) -> bytes:
    try:
        # Numbers stay text: however long they are, they are only looked at.
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse_constant)
        return text.encode()
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at line {error.lineno}, column {error.colno}"
    except UnicodeEncodeError:
        reason = "the text is not UTF-8"
    except RecursionError:
        reason = "too deeply nested"
    raise ValueError(f"--json: this is no JSON: {reason}")


def _refuse_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not allowed", "", 0)


def _timeout(given: argparse.Namespace) -> Timeout:
    every = given.timeout
    limits = Timeout() if every is None else Timeout(every, every, every)
    return Timeout(given.connect_timeout or limits.connect, limits.read, limits.write, given.max_time)


def _with_user(url: str, name: str, password: Optional[str]) -> str:
    """The URL with this user in place of the one in it; without any where there is no password to answer with."""
    match = re.match(r"([^/?#]*//)(?:[^/?#]*@)?(.*)", url, re.S)
    assert match is not None  # it was parsed before
    login = "" if password is None else f"{quote(name, safe='')}:{quote(password, safe='')}@"
    return match[1] + login + match[2]
