"""Redaction: secrets in every form that libraries print them in, and nothing else."""

import json
import logging
import subprocess
import sys
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import redaction
from common.errors import ConfigError
from common.redaction import RedactingStream, learn, redact, redacted


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget after each test the secrets that it has taught."""
    monkeypatch.setattr(redaction, "_learned", set())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        # URLs, wherever they stand
        ("to http://me:s3cr3t@h:5000/x failed", "to http://***@h:5000/x failed"),
        ("'https://me:p%40ss%2Fword@[::1]:80/'", "'https://***@[::1]:80/'"),
        ("s3://:onlypassword@bucket/k", "s3://***@bucket/k"),
        ("https://hf_tokenAsUserName@hub.co/x", "https://***@hub.co/x"),
        ("postgresql+psycopg2://u:pw'quoted@db/x", "postgresql+psycopg2://***@db/x"),
        ("https://h/x?X-Amz-Credential=A%2Fb&X-Amz-Signature=5f", None),
        # several in one text, and passwords with characters that no URL may hold
        ("https://me:pw12@h/x,https://you:pw34@i/y", "https://***@h/x,https://***@i/y"),
        ("https://me:pw12@h,https://you:pw34@i", "https://***@h,https://***@i"),
        ("[http://a:b@h/x](http://c:d@h/x)", "[http://***@h/x](http://***@h/x)"),
        ("https://me:p?w@h/x?page=1", "https://***@h/x?page=***"),
        ("https://me:p#w@h/x#part", "https://***@h/x#***"),
        ("https://me:p/w@h/x?mail=a@b", "https://***@h/x?mail=***"),
        ("https://me:密码p@ss@h/x", "https://***@h/x"),
        ("http://archive.org/1/http://h:80/x", "http://archive.org/1/http://h:80/x"),
        ("http://h:5000/#/experiments/12", "http://h:5000/#/experiments/12"),
        (
            "http://h/#/experiments/1/runs?workflowType=machine_learning&compareRunsMode=CHART",
            "http://h/#/experiments/1/runs?workflowType=machine_learning&compareRunsMode=CHART",
        ),
        (
            "http://h/#/experiments/1/runs?viewStateShareKey=all-models&workflowType=machine_learning&compareRunsMode=CHART",
            "http://h/#/experiments/1/runs?viewStateShareKey=all-models&workflowType=machine_learning&compareRunsMode=CHART",
        ),
        ("http://h:5000/#/x?token=1", "http://h:5000/#***"),
        # a query without its host, as urllib3 quotes it
        (
            "Max retries exceeded with url: /api?access_token=abc&page=2 (caused",
            "Max retries exceeded with url: /api?access_token=***&page=2 (caused",
        ),
        ("/x?key=abc&n=1", "/x?key=***&n=1"),
        ("/x?n=1&sig=a%2Bb", "/x?n=1&sig=***"),
        ("api_key=abcd, steps=3", "api_key=***, steps=3"),
        # headers
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("{'Authorization': 'Basic bWU6cHc=', 'Accept': 'x'}", None),
        ("sent bearer abcdefgh1jklmnop", "sent bearer ***"),
        (
            "a basic understanding of bearer certificates",
            "a basic understanding of bearer certificates",
        ),
        ('{"password": "x\\"y", "steps": 3}', '{"password": "***", "steps": 3}'),
        ("token hf_abcdefghijklmnopqrst", "token ***"),
        # none of them
        ("tokens=1234 and key: 0123", "tokens=1234 and key: 0123"),
        ("hf://datasets/o/n@main/x", "hf://datasets/o/n@main/x"),
        ('{"a":"http://h","mail":"x@y"}', '{"a":"http://h","mail":"x@y"}'),
        ("pretrain.stepz=3: unknown key", "pretrain.stepz=3: unknown key"),
        ("ceval/test#12 at 12:30:01", "ceval/test#12 at 12:30:01"),
        ("git@github.com:o/n.git a:b@c", "git@github.com:o/n.git a:b@c"),
        ("def f(x, password=None, api_key=''):", "def f(x, password=None, api_key=''):"),
        ("sk-learn-is-a-library-for-all", "sk-learn-is-a-library-for-all"),
        ("sk-proj-abcdefghijklmnopqrst12", "***"),
        ("tokenizer: auto, key: wikipedia_cn/12", "tokenizer: auto, key: wikipedia_cn/12"),
        ("", ""),
    ],
)
def test_forms(text: str, shown: str | None) -> None:
    if shown is None:
        for secret in ("A%2Fb", "5f", "bWU6cHc="):
            assert secret not in redact(text)
    else:
        assert redact(text) == shown


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        ("HF_TOKEN", "smoke-test-token", True),
        ("MLFLOW_TRACKING_PASSWORD", "pass", True),
        ("MY_COMPANYS_API_KEY", "a b c/d+e", True),
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG", True),
        ("HTTPS_PROXY", "http://u:proxypass@proxy:3128", True),
        ("PREFECT_API_DATABASE_CONNECTION_URL", "postgresql://u:databasepw@db/x", True),
        ("TOKENIZERS_PARALLELISM", "falsehood", False),
        ("SSL_KEY", sys.executable, False),
        ("MAX_TOKEN", "100000", False),
        ("KEYBOARD", "querty", False),
        ("HF_TOKEN", "true", False),
    ],
)
def test_environment(monkeypatch: pytest.MonkeyPatch, name: str, value: str, hidden: bool) -> None:
    monkeypatch.setenv(name, value)
    secret = value.partition("://u:")[2].partition("@")[0] or value
    for form in (secret, json.dumps(secret)[1:-1], redaction.quote(secret, safe="")):
        shown = redact(f"the server answered {form}.")
        assert shown == ("the server answered ***." if hidden else f"the server answered {form}.")


def test_parts_of_what_is_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:open-sesame")
    line = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"
    monkeypatch.setenv("MY_PRIVATE_KEY", f"-----BEGIN-----\n{line}\n-----END-----\n")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=a;AccountKey=b+c/d==")
    assert redact("with open-sesame") == "with ***"
    assert redact(f"key: {line}") == "key: ***"
    assert redact("to AccountName=a;AccountKey=b+c/d==") == "to ***"


def test_a_password_is_hidden_also_where_it_stands_alone() -> None:
    assert "unique-pw" in redact("password 'unique-pw' is wrong")
    learn("corpora.skypile=https://me:unique-pw@host/x?token=unique-token&page=1234")
    assert redact("password 'unique-pw' is wrong") == "password '***' is wrong"
    assert redact("unique-token page 1234 of me") == "*** page 1234 of me"


def test_a_password_that_no_url_may_hold() -> None:
    for password in ('pa ss"1', "pa'<ss>", "pa\tss`"):
        learn(f"https://me:{password}@host/x")
        for text in (f"https://me:{password}@host/x", f"no {password!r}", json.dumps(password)):
            assert password not in redact(text) and json.dumps(password)[1:-1] not in redact(text)


def test_a_password_that_is_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "pretrain")
    shown = redact("no user 'me' with 'pretrain' in store/pretrain/12, pretrain.steps, pretrained.")
    assert shown == "no user 'me' with '***' in store/pretrain/12, pretrain.steps, pretrained."


def test_data_is_printed_as_it_is() -> None:
    code = """
import sys
from common.redaction import install, output
print("x http://u:pw@h/?q=1", file=output())
install()
print("y http://u:pw@h/?q=1", file=output())
print("z http://u:pw@h/?q=1")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    same = "http://u:pw@h/?q=1"
    assert done.stdout.splitlines() == [f"x {same}", f"y {same}", "z http://***@h/?q=***"]


SECRETS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Z"], exclude_characters="*"),
    min_size=8,
    max_size=40,
)


@given(SECRETS, st.text(max_size=30), st.text(max_size=30))
def test_whatever_the_password_it_is_gone(secret: str, before: str, after: str) -> None:
    quoted = redaction.quote(secret, safe="")
    redaction._learned.clear()
    learn(f"https://user:{quoted}@host/x")
    for form in (secret, quoted, json.dumps(secret)[1:-1]):
        shown = redact(f"{before} {form} {after}")
        assert form not in shown.replace(before, "").replace(after, "")
        assert redact(shown) == shown


def test_values_keep_their_form() -> None:
    value = {"a": ["http://u:pw@h/", 3, None, ("x", 1.5)], "http://u:pw@h/": True}
    assert redacted(value) == {"a": ["http://***@h/", 3, None, ("x", 1.5)], "http://***@h/": True}


def test_errors_for_users() -> None:
    error = ConfigError("--set corpora.a=http://me:pw@h/: there is none")
    assert str(error) == "--set corpora.a=http://***@h/: there is none"
    assert "me:pw" not in repr(error) and error.args == (str(error),)


EXITS = """
import logging, sys, threading, warnings
early = logging.StreamHandler(); logging.getLogger("early").addHandler(early)
from common.redaction import install
install(); install()
secret = "hunter2-" + "in-a-url"
url = f"http://me:{secret}@h/x?token={secret}"
print("print", url); sys.stderr.write("write " + url + "\\n")
sys.stdout.writelines([url[:20], url[20:]])
logging.getLogger("early").warning("early %s", url)
logging.basicConfig(); logging.warning("late %s", url)
warnings.warn("warn " + url)
try:
    raise ValueError("caught " + url)
except ValueError:
    logging.exception("logged")
thread = threading.Thread(target=lambda: [][url]); thread.start(); thread.join()
raise RuntimeError("uncaught " + url)
"""


@pytest.mark.parametrize("on", [True, False])
def test_every_exit_of_a_process(on: bool) -> None:
    code = EXITS if on else EXITS.replace("install(); install()", "")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    written = done.stdout + done.stderr
    for word in ("print", "write", "early", "late", "warn", "caught", "logged", "uncaught"):
        assert word in written
    assert ("me:hunter2-in-a-url" in written) is not on, "the test can fail"


def test_a_record_is_clean_for_whoever_takes_it(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLogRecordFactory(), warnings.formatwarning, sys.stdout, sys.stderr
    try:
        redaction.install()
        log = logging.getLogger("steel.test")
        try:
            raise ValueError("http://me:pw@h/")
        except ValueError:
            log.exception("to %s and %d", "http://me:pw@h/x", 3)
        log.info("%d steps to %s", 3, "h")
        assert isinstance(sys.stdout, RedactingStream)
        assert sys.stdout.encoding
    finally:
        logging.setLogRecordFactory(before[0])
        warnings.formatwarning, sys.stdout, sys.stderr = before[1:]
    record = caplog.records[0]
    assert record.getMessage() == "to http://***@h/x and 3"
    assert "me:pw" not in caplog.text and "ValueError: http://***@h/" in caplog.text
